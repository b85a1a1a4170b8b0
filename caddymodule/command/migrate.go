package command

import (
	"fmt"

	"github.com/spf13/cobra"
)

func migrateCommand() *cobra.Command {
	var store storeName
	cmd := &cobra.Command{
		Use:   "migrate --store <file|url>",
		Short: "Brings a preference store up to date",
		Long: `
Makes the tables of a preference store, or brings them to what this version
needs, and leaves one that is up to date as it is. A server does the same at
start; with PostgreSQL, migrate lets you do it before, with a role that may
change tables. Instances may be running.`,
		Example: `  caddy metrics-gate migrate --store '{env.PROFILE_DSN}'`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, _, err := store.resolve("--store")
			if err != nil {
				return err
			}
			opened, err := openStore(cmd.Context(), "--store", name)
			if err != nil {
				return err
			}
			defer opened.Close()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The store is up to date, at level %d.\n", opened.Level())
			return err
		},
	}
	store.flag(cmd)
	return cmd
}
