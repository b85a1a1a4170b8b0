package caddymodule

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
check a running gate after a deploy, and prepare Firefox for the handshake.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand(), tokenCommand(), checkCommand(), firefoxCommand())
		},
	})
}
