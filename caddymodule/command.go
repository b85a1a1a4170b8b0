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
and check a running gate after a deploy.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand(), tokenCommand(), checkCommand())
		},
	})
}
