package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

func backupCommand() *cobra.Command {
	var store storeName
	var file string
	cmd := &cobra.Command{
		Use:   "backup --store <file> --file <new file>",
		Short: "Copies a SQLite store that is in use",
		Long: `
Copies a SQLite store, as it is at one moment, into a new file that nobody else
can read. Servers may be running; to copy the file by other means could catch it
in the middle of a change. For PostgreSQL use pg_dump.`,
		Example: `  caddy metrics-gate backup --store /var/lib/metrics-gate/profile.db --file profile-2026-11-24.db`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, postgres, err := store.resolve("--store")
			if err != nil {
				return err
			}
			if postgres {
				return errors.New("--store: this is a PostgreSQL database; use pg_dump")
			}
			opened, err := store.open(cmd.Context())
			if err != nil {
				return err
			}
			defer opened.Close()
			if err := opened.(*prefstore.SQLite).Backup(cmd.Context(), file); err != nil {
				return fmt.Errorf("--file: %w", err)
			}
			return nil
		},
	}
	store.flag(cmd)
	cmd.Flags().StringVar(&file, "file", "", "the file to make")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}
