package command

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

func dailyCommand() *cobra.Command {
	var store storeName
	var from, to, format string
	cmd := &cobra.Command{
		Use:   "daily --store <file|url>",
		Short: "Prints how many users recorded an opt-out on each day",
		Long: `
Prints how many users recorded an opt-out on each day (UTC). A user counts once
a day, whatever they toggle. Imports do not count.`,
		Example: `  caddy metrics-gate daily --store /var/lib/metrics-gate/profile.db
  caddy metrics-gate daily --store '{env.PROFILE_DSN}' --from 2026-11-01 --to 2026-11-30 --format csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			print, ok := dailyFormats[format]
			if !ok {
				return fmt.Errorf("--format: %q is not one of table, csv, json", format)
			}
			until, err := parseDay("to", to, time.Now().UTC().Truncate(24*time.Hour))
			if err != nil {
				return err
			}
			since, err := parseDay("from", from, until.AddDate(0, 0, 1-prefstore.DefaultDays))
			if err != nil {
				return err
			}
			if since.After(until) {
				return fmt.Errorf("--from: %s is after %s", since.Format(time.DateOnly), until.Format(time.DateOnly))
			}
			opened, err := store.open(cmd.Context())
			if err != nil {
				return err
			}
			defer opened.Close()
			counts, err := prefstore.DailyCounts(cmd.Context(), opened, since, until)
			if err != nil {
				return err
			}
			return print(cmd.OutOrStdout(), counts)
		},
	}
	store.flag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the first day, such as 2026-11-01 (default: 30 days in all)")
	flags.StringVar(&to, "to", "", "the last day (default: today)")
	flags.StringVar(&format, "format", "table", "table, csv or json")
	return cmd
}

var dailyFormats = map[string]func(io.Writer, []prefstore.DailyCount) error{
	"table": func(w io.Writer, counts []prefstore.DailyCount) error {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprintln(table, "day\tusers\t")
		for _, count := range counts {
			_, _ = fmt.Fprintf(table, "%s\t%d\t\n", count.Day, count.Users)
		}
		return table.Flush()
	},
	"csv": func(w io.Writer, counts []prefstore.DailyCount) error {
		return prefstore.WriteDailyCSV(w, counts, "\n")
	},
	"json": func(w io.Writer, counts []prefstore.DailyCount) error {
		return json.NewEncoder(w).Encode(counts)
	},
}

func parseDay(flag, text string, otherwise time.Time) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return day, fmt.Errorf("--%s: %q is not a day; write one such as 2026-11-24", flag, text)
	}
	return day, nil
}
