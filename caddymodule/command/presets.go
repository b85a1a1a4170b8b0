package command

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
)

func presetsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "presets [<name> [<prefix>]]",
		Short: "Lists the presets, or prints one as the lines of a Caddyfile that it stands for",
		Example: `  caddy metrics-gate presets
  caddy metrics-gate presets posthog /ingest`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listPresets(cmd.OutOrStdout())
			}
			used := gate.UsedPreset{Name: args[0]}
			if len(args) > 1 {
				used.Prefix = args[1]
			}
			return printPreset(cmd.OutOrStdout(), used)
		},
	}
}

func listPresets(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range gate.PresetNames() {
		preset, _ := gate.PresetNamed(name)
		if preset.NeedsPrefix {
			name += " <prefix>"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", name, preset.Title)
	}
	return table.Flush()
}

// printPreset prints what a preset stands for. Without a prefix one that needs
// one is shown with that of an example.
func printPreset(out io.Writer, used gate.UsedPreset) error {
	if err := grammar.OneOf("preset", used.Name, gate.PresetNames()); err != nil {
		return err
	}
	preset, _ := gate.PresetNamed(used.Name)
	if preset.NeedsPrefix && used.Prefix == "" {
		used.Prefix = "/tunnel"
	}
	if err := used.Validate(); err != nil {
		return fmt.Errorf("preset %s: %w", used.Name, err)
	}
	_, _ = fmt.Fprintf(out, "# %s\n", preset.Title)
	for _, route := range preset.RoutesAt(used.Prefix) {
		printRoute(out, &route)
	}
	if len(preset.ExperimentParams)+len(preset.FeatureFlags) > 0 {
		_, _ = fmt.Fprintln(out, "# With handshake also:")
	}
	if len(preset.ExperimentParams) > 0 {
		printLine(out, "# ", append([]string{"experiment_params"}, preset.ExperimentParams...)...)
	}
	for _, flags := range preset.FeatureFlags {
		printLine(out, "# ", "feature_flags", flags.Meta, "{")
		for _, key := range slices.Sorted(maps.Keys(flags.Flags)) {
			printLine(out, "# \t", key, string(flags.Flags[key]))
		}
		printLine(out, "# ", "}")
	}
	return nil
}

func printRoute(out io.Writer, route *gate.Route) {
	line := []string{"route", strings.Join(route.Methods, ","), route.Path}
	if route.Class != gate.ClassMetrics {
		line = append(line, route.Class)
	}
	if route.Class == gate.ClassEssential {
		printLine(out, "", line...)
		return
	}
	printLine(out, "", append(line, "{")...)
	answer := []string{"answer", strconv.Itoa(route.Answer.Status)}
	if route.Answer.ContentType != "" {
		answer = append(answer, route.Answer.ContentType)
	}
	if route.Answer.Body != "" {
		answer = append(answer, route.Answer.Body)
	}
	printLine(out, "\t", answer...)
	if route.Class == gate.ClassMetrics {
		printNames(out, route.Names)
	}
	printLine(out, "", "}")
}

func printNames(out io.Writer, names *session.NamesConfig) {
	if names == nil {
		printLine(out, "\t", "names", "off")
		return
	}
	printLine(out, "\t", "names", "{")
	for _, kind := range []struct {
		word   string
		values []string
	}{{"body", names.Body}, {"query", names.Query}, {"form", names.Form}} {
		if len(kind.values) > 0 {
			printLine(out, "\t\t", append([]string{kind.word}, kind.values...)...)
		}
	}
	if names.Match != "" {
		printLine(out, "\t\t", "match", names.Match)
	}
	if names.Limit != 0 {
		printLine(out, "\t\t", "limit", fmt.Sprintf("%dKiB", names.Limit>>10)) // of presets a multiple of that
	}
	printLine(out, "\t", "}")
}

// printLine prints words so that a Caddyfile has them as they are.
func printLine(out io.Writer, indent string, words ...string) {
	for i, word := range words {
		isBrace := (word == "{" || word == "}") && i == len(words)-1
		if !isBrace && (word == "" || strings.ContainsAny(word, " \"{}#\\")) {
			words[i] = "`" + word + "`"
		}
	}
	_, _ = fmt.Fprintln(out, indent+strings.Join(words, " "))
}
