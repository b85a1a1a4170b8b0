package command

import (
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

func preferencesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preferences <import|export|move|show|forget>",
		Short: "Reads preferences from CSV into a store, or writes them out; moves a store; shows or forgets one account's",
		Long: `
Reads preferences from CSV into a store, or writes them out; moves a store to
another; shows or forgets one account's. The first line of CSV names the columns:

  uid         the account
  preference  true (opted out), false (explicitly allowed) or null, which takes
              a choice back; an empty one is refused
  changed     when the choice was made, such as 2026-11-24T12:00:00Z, or its
              milliseconds since 1970; without it, an import takes the time
              of the file, or now where it reads standard input
  source      user, browser or admin; without it, an import says admin`,
	}
	group(cmd, importCommand(), exportCommand(), moveCommand(), showCommand(), forgetCommand())
	return cmd
}

func importCommand() *cobra.Command {
	var store storeName
	var file string
	cmd := &cobra.Command{
		Use:   "import --store <file|url> [--file <csv>]",
		Short: "Reads preferences from CSV into a store",
		Long: `
Reads preferences from CSV into a store, with bounded memory. Of two choices
of an account the newer one stays, so a file can safely be imported again. What
comes by standard input without times counts as chosen now. The first line that
is wrong ends the import: what came before is stored, and the error names the
line. Servers may be running, and tell their followers.`,
		Example: `  caddy metrics-gate preferences import --store /var/lib/metrics-gate/profile.db --file optouts.csv
  zcat optouts.csv.gz | caddy metrics-gate preferences import --store '{env.PROFILE_DSN}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			in := cmd.InOrStdin()
			var dated time.Time
			if file != "-" {
				opened, err := os.Open(file)
				if err != nil {
					return fmt.Errorf("--file: %w", err)
				}
				defer func() { _ = opened.Close() }()
				if about, err := opened.Stat(); err == nil {
					dated = about.ModTime()
				}
				in = opened
			}
			opened, err := store.open(ctx)
			if err != nil {
				return err
			}
			defer opened.Close()

			csv := newMeter(ctx, in)
			defer func() { _ = csv.Close() }()
			progress := newProgress(cmd.ErrOrStderr(), "rows")
			summary := func(done prefstore.Imported) string {
				return fmt.Sprintf("%d rows read, %d of them changes", done.Read, done.Changed)
			}
			done, err := opened.Import(ctx, since(dated, prefstore.ReadCSV(csv)), func(done prefstore.Imported) {
				progress.show(summary(done), done.Read, csv.share())
			})
			progress.end(summary(done), done.Read)
			switch {
			case ctx.Err() != nil:
				return fmt.Errorf("interrupted: the first %d rows are stored; to go on, import the whole file again, which changes nothing that is stored already", done.Read)
			case err != nil:
				return fmt.Errorf("%w (rows stored before that: %d; once it is mended, import the whole file again, which is safe)", err, done.Read)
			}
			return nil
		},
	}
	store.flag(cmd)
	cmd.Flags().StringVar(&file, "file", "-", "the CSV file; - is standard input")
	return cmd
}

// since gives rows without a time that of their file: it was true then, and who
// chose later must not lose that when the file is imported once more.
func since(dated time.Time, rows iter.Seq2[prefstore.Row, error]) iter.Seq2[prefstore.Row, error] {
	return func(yield func(prefstore.Row, error) bool) {
		for row, err := range rows {
			if row.Changed.IsZero() {
				row.Changed = dated
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

func exportCommand() *cobra.Command {
	var store storeName
	var file string
	var force bool
	cmd := &cobra.Command{
		Use:   "export --store <file|url> [--file <csv>]",
		Short: "Writes all preferences of a store as CSV",
		Long: `
Writes all preferences of a store as CSV, as they are at one moment, in the
order of their accounts. What it writes, import reads. A file that it makes
can be read by nobody else.`,
		Example: `  caddy metrics-gate preferences export --store /var/lib/metrics-gate/profile.db --file preferences.csv
  caddy metrics-gate preferences export --store '{env.PROFILE_DSN}' | gzip > preferences.csv.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			opened, err := store.open(ctx)
			if err != nil {
				return err
			}
			defer opened.Close()
			all, err := opened.Count(ctx)
			if err != nil {
				return err
			}
			progress := newProgress(cmd.ErrOrStderr(), "rows")
			summary := func(rows int64) string { return fmt.Sprintf("%d rows written", rows) }
			var rows int64
			export := func(w io.Writer) (err error) {
				rows, err = prefstore.WriteCSV(w, counting(ctx, opened.Export(ctx), func(rows int64) {
					progress.show(summary(rows), rows, share(rows, all))
				}))
				return err
			}
			if file == "-" {
				err = export(cmd.OutOrStdout())
			} else if err = writeFile(file, force, export); err != nil {
				err = fmt.Errorf("--file: %w", err)
			}
			progress.end(summary(rows), rows)
			if ctx.Err() != nil {
				said := "what was written is not all of them"
				if file != "-" {
					said = "the file is not made"
				}
				return fmt.Errorf("interrupted: %s; export once more", said)
			}
			return err
		},
	}
	store.flag(cmd)
	cmd.Flags().StringVar(&file, "file", "-", "the CSV file to make; - is standard output")
	cmd.Flags().BoolVar(&force, "force", false, "take the place of a file that exists")
	return cmd
}
