package command

import (
	"fmt"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "metrics-gate",
		Usage: "<command>",
		Short: "Tools for operators of Metrics Gate",
		Long: `
Tools for operators of Metrics Gate: find what measures people, explain a decision,
show a preset, mint a test session, trace a request, check a running gate after a
deploy, say how it does, prepare Firefox for the handshake, and look after the
profile server's preference store.`,
		CobraFunc: addCommands,
	})
}

func addCommands(cmd *cobra.Command) {
	group(cmd, explainCommand(), presetsCommand(), surveyCommand(), tokenCommand(), traceCommand(), checkCommand(), statusCommand(), firefoxCommand(),
		migrateCommand(), preferencesCommand(), dailyCommand(), backupCommand())
}

// group makes a command of others. By itself it prints its help; a word that
// it does not know is an error, since cobra would print the help for that as
// well and report success, also to a script that relies on it.
func group(cmd *cobra.Command, commands ...*cobra.Command) {
	cmd.AddCommand(commands...)
	cmd.DisableFlagsInUseLine = true // it has none
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0])
	}
	// Flags that follow an unknown word are those of the command that was meant.
	// Commands have this from the one they belong to.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return err
	})
}

// takes has a command take what its example has, once or up to so many times: cobra
// says how many arguments there must be, and not of what.
func takes(what, example string, most int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s is missing; write, for example: caddy metrics-gate %s", what, example)
		case len(args) > most:
			return fmt.Errorf("%q is one argument too many, after %s; write, for example: caddy metrics-gate %s", args[most], what, example)
		}
		return nil
	}
}

func unknownCommand(group *cobra.Command, word string) error {
	var names []string
	for _, known := range group.Commands() {
		if known.IsAvailableCommand() {
			names = append(names, known.Name())
		}
	}
	return fmt.Errorf("%s: unknown command %q%s; the commands are %s",
		group.CommandPath(), word, grammar.DidYouMean(word, names), strings.Join(names, ", "))
}
