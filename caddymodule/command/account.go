package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// meanings say what a preference means, to who asks what is held of them.
var meanings = map[policy.Preference]string{
	policy.OptedOut: "opted out of metrics",
	policy.Allowed:  "explicitly allowed metrics",
	policy.Unset:    "no choice",
}

func showCommand() *cobra.Command {
	var store storeName
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --store <file|url> <uid>",
		Short: "Says what a store holds of an account",
		Long: `
Says what a store holds of an account: the preference, when the choice was made,
and whether the user, a browser or an operator made it. That is all there is,
besides that an account which opted out today is counted once until midnight
(UTC), and that for eight days a keyed hash tells that one was deleted. A uid that
begins with a dash comes after --.`,
		Example: `  caddy metrics-gate preferences show --store /var/lib/metrics-gate/profile.db 0123456789abcdef0123456789abcdef`,
		Args:    takes("the account's uid", "preferences show --store /var/lib/metrics-gate/profile.db 0123456789abcdef0123456789abcdef", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opened, err := openFor(cmd, store, args[0])
			if err != nil {
				return err
			}
			defer opened.Close()
			held, err := opened.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				told := struct {
					UID        string            `json:"uid"`
					Preference policy.Preference `json:"metrics_optout"`
					Changed    time.Time         `json:"changed,omitzero"`
					Source     string            `json:"source,omitempty"`
				}{args[0], held.Preference, held.Changed(), held.Source}
				return json.NewEncoder(cmd.OutOrStdout()).Encode(told)
			}
			text := fmt.Sprintf("metrics_optout  %s (%s)\n", held.Preference, meanings[held.Preference])
			if held.Source == "" {
				text += "Nothing is held of this account.\n"
			} else {
				text += fmt.Sprintf("changed         %s\nsource          %s\n", held.Changed().Format(time.RFC3339), held.Source)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	store.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func forgetCommand() *cobra.Command {
	var store storeName
	cmd := &cobra.Command{
		Use:   "forget --store <file|url> <uid>",
		Short: "Deletes what a store holds of an account",
		Long: `
Deletes what a store holds of an account, as DELETE /v1/account/<uid> does:
servers that run tell their followers, and what was under way does not bring the
account back. The counts of days stay: they name nobody. Who opted out is measured
from then on as one who made no choice, so do it when the account itself is gone,
or is to be. A uid that begins with a dash comes after --.`,
		Example: `  caddy metrics-gate preferences forget --store '{env.PROFILE_DSN}' 0123456789abcdef0123456789abcdef`,
		Args:    takes("the account's uid", "preferences forget --store /var/lib/metrics-gate/profile.db 0123456789abcdef0123456789abcdef", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opened, err := openFor(cmd, store, args[0])
			if err != nil {
				return err
			}
			defer opened.Close()
			came, err := opened.Delete(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			said := "Nothing was held of this account. What was under way will not bring it back.\n"
			if came == prefstore.Changed {
				said = "Forgotten. The account counts as one that made no choice: gates collect its beacons, unless on_unset or its browser says otherwise.\n" +
					"Copies that you made (backup, export, PostgreSQL's archives) are yours to delete, and so is its row in what you import.\n"
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), said)
			return err
		},
	}
	store.flag(cmd)
	return cmd
}

// openFor opens a store for a command about one account.
func openFor(cmd *cobra.Command, store storeName, uid string) (prefstore.Store, error) {
	if !policy.IsUID(uid) {
		return nil, errors.New("this is no account's id, which is 1 to 255 bytes of UTF-8 without control characters")
	}
	return store.open(cmd.Context())
}
