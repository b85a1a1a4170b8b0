package command

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "metrics-gate",
		Usage: "<command>",
		Short: "Tools for operators of Metrics Gate",
		Long: `
Tools for operators of Metrics Gate: explain a decision, mint a test session,
check a running gate after a deploy, prepare Firefox for the handshake, and look
after the profile server's preference store.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand(), tokenCommand(), checkCommand(), firefoxCommand(),
				migrateCommand(), preferencesCommand(), dailyCommand(), backupCommand())
		},
	})
}
