package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/browser/firefox"
)

func firefoxCommand() *cobra.Command {
	var origins []string
	var out string
	cmd := &cobra.Command{
		Use:   "firefox-responder --origin <origin> [--origin <origin>...] --out <folder>",
		Short: "Writes the AutoConfig files with which Firefox answers the handshake",
		Long: `
Writes the AutoConfig files for a fleet of Firefox: copied beside the binary of
Firefox, they have it tell the origins given here, and nobody else, whether its
user switched telemetry off (datareporting.healthreport.uploadEnabled).`,
		Example: "  caddy metrics-gate firefox-responder --origin https://accounts.example.org --out responder",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := firefox.Generate(out, origins)
			for _, file := range files {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), file)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&origins, "origin", nil, "whom Firefox answers, such as https://accounts.example.org; repeatable")
	flags.StringVar(&out, "out", "", "the folder that the files are written into")
	_ = cmd.MarkFlagRequired("origin")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}
