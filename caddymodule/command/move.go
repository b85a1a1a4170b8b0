package command

import (
	"encoding/hex"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

func moveCommand() *cobra.Command {
	var from, to storeName
	cmd := &cobra.Command{
		Use:   "move --from <file|url> --to <file|url>",
		Short: "Brings all that a store holds to another one",
		Long: `
Brings all that a store holds to another one: preferences with their times and
sources, which accounts were deleted, which events were seen, and the counts of
days. An empty store takes over the secret as well, so that ETags stay valid.
Nothing is taken from the store that is moved.

Where both stores hold something of an account, what is newer stays, and of what
nobody can order, what measures less. So it is safe to move again, also after
Ctrl-C: nothing counts twice, and no newer choice is lost. Servers may use either
store. At the end it prints what both hold, and fails if anything is missing.

  1. caddy metrics-gate migrate --store <new>
  2. caddy metrics-gate preferences move --from <old> --to <new>
  3. write the new store in the Caddyfiles of all profile servers, and reload them
  4. caddy metrics-gate preferences move --from <old> --to <new>, once more, for
     what changed at the old store since; on the same day (UTC), or whoever opted
     out at both counts twice`,
		Example: `  caddy metrics-gate preferences move --from /var/lib/metrics-gate/profile.db --to '{env.PROFILE_DSN}'`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			source, err := from.openAs(ctx, "--from")
			if err != nil {
				return err
			}
			defer source.Close()
			target, err := to.openAs(ctx, "--to")
			if err != nil {
				return err
			}
			defer target.Close()

			progress := newProgress(cmd.ErrOrStderr(), "rows")
			summary := func(done prefstore.Moved) string {
				return fmt.Sprintf("%d of %d accounts read, %d changed in --to", done.Accounts, done.Of, done.Changed)
			}
			done, found, err := prefstore.Move(ctx, source, target, func(done prefstore.Moved) {
				progress.show(summary(done), done.Accounts, share(done.Accounts, done.Of))
			})
			progress.end(summary(done), done.Accounts)
			switch {
			case ctx.Err() != nil:
				return errors.New("interrupted: what was moved so far stays; to go on, move again, which counts nothing twice")
			case err != nil:
				return fmt.Errorf("%w (what was moved so far stays; once it is mended, move again)", err)
			}
			return tell(cmd, found)
		},
	}
	from.flagAs(cmd, "from", "the store to move, which stays as it is")
	to.flagAs(cmd, "to", "the store to move it to")
	return cmd
}

// tell prints what came of a move.
func tell(cmd *cobra.Command, found prefstore.Comparison) error {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "\t--from\t--to\t")
	for _, row := range []struct {
		name     string
		from, to any
	}{
		{"accounts", found.From.Accounts(), found.To.Accounts()},
		{"opted out", found.From.OptedOut, found.To.OptedOut},
		{"allowed", found.From.Allowed, found.To.Allowed},
		{"no choice", found.From.Unset, found.To.Unset},
		{"digest of accounts", hex.EncodeToString(found.From.Digest[:8]), hex.EncodeToString(found.To.Digest[:8])},
		{"days", found.From.Days, found.To.Days},
		{"users counted", found.From.Users, found.To.Users},
		{"deleted accounts", found.From.Deleted, found.To.Deleted},
		{"events seen", found.From.Events, found.To.Events},
	} {
		_, _ = fmt.Fprintf(table, "%s\t%v\t%v\t\n", row.name, row.from, row.to)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	said := fmt.Sprintf("Of %d accounts %d are the same; of %d --to holds what is newer, and %d it holds alone.\n",
		found.From.Accounts(), found.Same, found.Newer, found.Own)
	if found.OtherSecret {
		said += "--to had a secret of its own: of accounts that were deleted in --from, and events that were seen there, it knows nothing.\n"
	}
	if found.Missing > 0 && found.Changed {
		said += fmt.Sprintf("%d accounts, deletions, events or counts changed in --from meanwhile, and are not in --to as they are now: move again when no server writes there any more.\n", found.Missing)
	}
	if _, err := fmt.Fprint(cmd.OutOrStdout(), said); err != nil {
		return err
	}
	if found.Missing > 0 && !found.Changed {
		return fmt.Errorf("%d accounts, deletions, events or counts of --from are missing in --to; move again, and if that says the same, restore --to from a backup or begin with an empty store", found.Missing)
	}
	return nil
}
