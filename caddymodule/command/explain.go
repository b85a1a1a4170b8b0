package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/policy"
)

func explainCommand() *cobra.Command {
	var session, preference, signal, onUnknown, onUnset string
	var also, named []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Prints the decision for a request, its reason and the row of the rules table",
		Example: `  caddy metrics-gate explain --session verified --preference null --signal opted_out
  caddy metrics-gate explain --session none --named true`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("explain takes no argument such as %q; write, for example: caddy metrics-gate explain --session verified --preference true", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := newExplanation(session, preference, signal, onUnknown, onUnset, also, named)
			if err != nil {
				return err
			}
			if asJSON {
				return e.printJSON(cmd.OutOrStdout())
			}
			e.print(cmd.OutOrStdout())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&session, "session", "verified", "what the request proves: verified, expired, unverifiable or none")
	flags.StringVar(&preference, "preference", "null", "the account's preference: null (no choice), false (allows), true (opted out), unknown or hidden (could not be learnt, and the request may have caused that)")
	flags.StringVar(&signal, "signal", "none", "the browser's word: none, opted_out, no_objection, unrecorded (an opt-out that is never written) or probing")
	flags.StringVar(&onUnknown, "on-unknown", policy.DefaultRules().OnUnknown.String(), "the option on_unknown: block or collect")
	flags.StringVar(&onUnset, "on-unset", policy.DefaultRules().OnUnset.String(), "the option on_unset: collect or block")
	flags.StringSliceVar(&also, "also", nil, "preferences of further accounts that the request proves, separated by commas")
	flags.StringSliceVar(&named, "named", nil, "preferences of accounts that the request only names, separated by commas")
	flags.BoolVar(&asJSON, "json", false, "print it as a JSON object")
	return cmd
}

// explanation is a decision and how it came about.
type explanation struct {
	row      *policy.Row
	steps    []string // one for each further account that changed something
	decision policy.Decision
}

func newExplanation(session, preference, signal, onUnknown, onUnset string, also, named []string) (*explanation, error) {
	wrong := func(flag, value, words string) error {
		return fmt.Errorf("--%s: %q is not one of %s", flag, value, words)
	}
	proven, ok := policy.ParseSession(session)
	if !ok {
		return nil, wrong("session", session, "verified, expired, unverifiable, none")
	}
	preferred, ok := policy.ParsePreference(preference)
	if !ok {
		return nil, wrong("preference", preference, preferences)
	}
	said, ok := policy.ParseSignal(strings.NewReplacer(" ", "_", "-", "_").Replace(signal)) // as the table has it, too
	if !ok {
		return nil, wrong("signal", signal, "none, opted_out, no_objection, unrecorded, probing")
	}
	var rules policy.Rules
	if rules.OnUnknown, ok = policy.ParseAction(onUnknown); !ok {
		return nil, wrong("on-unknown", onUnknown, "block, collect")
	}
	if rules.OnUnset, ok = policy.ParseAction(onUnset); !ok {
		return nil, wrong("on-unset", onUnset, "collect, block")
	}
	e := &explanation{
		row:      policy.Match(proven, preferred, said),
		decision: rules.Decide(proven, preferred, said),
	}
	for _, further := range []struct {
		flag, kind string
		words      []string
		decide     func(policy.Decision, policy.Preference) policy.Decision
	}{
		{"also", "proven", also, func(d policy.Decision, p policy.Preference) policy.Decision { return rules.DecideAlso(d, p, said) }},
		{"named", "named", named, rules.DecideNamed},
	} {
		for i, word := range further.words {
			preferred, ok := policy.ParsePreference(strings.TrimSpace(word))
			if !ok {
				return nil, wrong(further.flag, word, preferences)
			}
			before := e.decision
			if e.decision = further.decide(before, preferred); e.decision != before {
				e.steps = append(e.steps, fmt.Sprintf("%s account %d (%s): %s, %s", further.kind, i+1, preferred, e.decision.Action, e.decision.Reason))
			}
		}
	}
	return e, nil
}

// preferences are the words for what an account prefers.
const preferences = "null (no choice), false (allows), true (opted out), unknown, hidden"

func (e *explanation) print(w io.Writer) {
	writeBack := ""
	if e.row.WriteBack {
		writeBack = "yes"
	}
	_, _ = fmt.Fprintf(w, "decision:   %s\nreason:     %s\nwrite back: %s\n", e.decision.Action, e.decision.Reason, yesNo(e.decision.WriteBack))
	switch e.decision.Doubt {
	case policy.OurDoubt:
		_, _ = fmt.Fprintln(w, "doubt:      on our side, so on_unknown decides")
	case policy.SendersDoubt:
		_, _ = fmt.Fprintln(w, "doubt:      the request may have caused it, so it blocks whatever on_unknown says")
	default: // nothing was missing
	}
	_, _ = fmt.Fprintf(w, "\n| session | preference | signal | decision | reason | write back |\n|---|---|---|---|---|---|\n")
	_, _ = fmt.Fprintf(w, "| %s | %s | %s | %s | `%s` | %s |\n", e.row.Session, e.row.Preference, e.row.Signal, e.row.Then, e.row.Reason, writeBack)
	if len(e.steps) > 0 {
		_, _ = fmt.Fprintf(w, "\nthen:\n%s\n", strings.Join(e.steps, "\n"))
	}
}

func (e *explanation) printJSON(w io.Writer) error {
	type row struct {
		Session    string `json:"session"`
		Preference string `json:"preference"`
		Signal     string `json:"signal"`
		Decision   string `json:"decision"`
		Reason     string `json:"reason"`
		WriteBack  bool   `json:"write_back"`
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Decision  string   `json:"decision"`
		Reason    string   `json:"reason"`
		WriteBack bool     `json:"write_back"`
		ByName    bool     `json:"by_name"`
		Doubt     string   `json:"doubt"`
		Row       row      `json:"row"`
		Then      []string `json:"then,omitempty"`
	}{
		e.decision.Action.String(), e.decision.Reason.String(), e.decision.WriteBack, e.decision.ByName, e.decision.Doubt.String(),
		row{e.row.Session, plain(e.row.Preference), e.row.Signal, plain(fmt.Sprint(e.row.Then)), e.row.Reason.String(), e.row.WriteBack}, e.steps,
	})
}

// plain is a cell of the table without its markup.
func plain(cell string) string { return strings.ReplaceAll(cell, "`", "") }

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
