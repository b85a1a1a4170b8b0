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
		Use:   "preferences <import|export|show|forget>",
		Short: "Reads preferences from CSV into a store, or writes them out; shows or forgets one account's",
		Long: `
Reads preferences from CSV into a store, or writes them out; shows or forgets one
account's. The first line of CSV names the columns:

  uid         the account
  preference  true (opted out), false (explicitly allowed) or null
  changed     when the choice was made, such as 2026-11-24T12:00:00Z, or its
              milliseconds since 1970; without it, an import takes the time
              of the file, or now where it reads standard input
  source      user, browser or admin; without it, an import says admin`,
	}
	group(cmd, importCommand(), exportCommand(), showCommand(), forgetCommand())
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
			opened, err := store.open(cmd.Context())
			if err != nil {
				return err
			}
			defer opened.Close()

			progress := newProgress(cmd.ErrOrStderr())
			done, err := opened.Import(cmd.Context(), since(dated, prefstore.ReadCSV(in)), progress.show)
			progress.print(done)
			if err != nil {
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

// progressPause is how often an import says how far it is.
const progressPause = 2 * time.Second

// progress tells whoever waits for an import how far it is.
type progress struct {
	w          io.Writer
	began, out time.Time // when it began, and said something last
}

func newProgress(w io.Writer) *progress {
	now := time.Now()
	return &progress{w, now, now}
}

func (p *progress) show(done prefstore.Imported) {
	if time.Since(p.out) >= progressPause {
		p.print(done)
	}
}

func (p *progress) print(done prefstore.Imported) {
	p.out = time.Now()
	rate := float64(done.Read) / max(p.out.Sub(p.began).Seconds(), 1e-3)
	_, _ = fmt.Fprintf(p.w, "%d rows read, %d of them changes, %.0f rows/s\n", done.Read, done.Changed, rate)
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
			opened, err := store.open(cmd.Context())
			if err != nil {
				return err
			}
			defer opened.Close()
			var rows int64
			export := func(w io.Writer) (err error) {
				rows, err = prefstore.WriteCSV(w, opened.Export(cmd.Context()))
				return err
			}
			if file == "-" {
				err = export(cmd.OutOrStdout())
			} else if err = writeFile(file, force, export); err != nil {
				err = fmt.Errorf("--file: %w", err)
			}
			if err == nil {
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%d rows written\n", rows)
			}
			return err
		},
	}
	store.flag(cmd)
	cmd.Flags().StringVar(&file, "file", "-", "the CSV file to make; - is standard output")
	cmd.Flags().BoolVar(&force, "force", false, "take the place of a file that exists")
	return cmd
}
