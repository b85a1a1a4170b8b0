package command

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
)

func statusCommand() *cobra.Command {
	var address string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--json] [--address <admin API>]",
		Short: "Says how the gates and profile servers of a running Caddy do, what is wrong first",
		Long: `
Asks a running Caddy how its gates and profile servers do: what each route has
seen, whether the profile server, its change feed and the key sets answer and
since when not, which warnings are open, whether the store can be read and
written. What is wrong comes first, with what to do.

Exits 1 where something is wrong, and where no Caddy answers. Nothing that it
says is about an account.`,
		Example: `  caddy metrics-gate status
  caddy metrics-gate status --json --address localhost:2019`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("status takes no argument; name the admin API as in: caddy metrics-gate status --address %s", adminAPI(args[0]).address())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, text, err := adminAPI(address).status()
			if err != nil {
				return err
			}
			if asJSON {
				_, _ = cmd.OutOrStdout().Write(text)
			} else {
				printStatus(cmd.OutOrStdout(), s, time.Now())
			}
			if len(s.Wrong) > 0 {
				return exit(cmd, 1)
			}
			return nil
		},
	}
	addressFlag(cmd, &address)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the JSON that the admin API answers")
	return cmd
}

// status asks for the status, and returns its text as well.
func (a adminAPI) status() (s *status.Status, text []byte, err error) {
	text, err = a.ask(http.MethodGet, status.Path+"?"+status.AlwaysOK)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the admin API at %s: %w; does Caddy run, and is that its address? Name it with --address (a 404 is a site, a profile server, or a Caddy without Metrics Gate)", a.address(), err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, nil, fmt.Errorf("%s answers, and with no status: it is a site, and not the admin API of a Caddy; name that with --address", a.address())
	}
	return s, text, nil
}

// printStatus writes a status for people.
func printStatus(out io.Writer, s *status.Status, now time.Time) {
	var idle []string
	for i := range s.Gates {
		if s.Gates[i].Mode == caddymodule.ModeShadow && !slices.Contains(idle, s.Gates[i].Label) {
			idle = append(idle, s.Gates[i].Label)
		}
	}
	switch {
	case len(s.Wrong) > 0:
	case len(idle) > 0:
		_, _ = fmt.Fprintf(out, "Nothing is broken, but nothing is stopped by gate %s.\n", strings.Join(idle, ", "))
	default:
		_, _ = fmt.Fprintln(out, "Nothing is known to be wrong.")
	}
	printWrong(out, s.Wrong, now)
	for i := range s.Gates {
		printNotes(out, &s.Gates[i], s.Wrong, now)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	for i := range s.Gates {
		printGate(w, row, &s.Gates[i], now)
	}
	for i := range s.ProfileServers {
		p := &s.ProfileServers[i]
		_, _ = fmt.Fprintf(w, "\nprofile_server %s\n", p.Store)
		row("store", "%s, %s", cmp.Or(errorText("not readable: ", p.ReadError), "readable"), cmp.Or(errorText("not writable: ", p.WriteError), "writable"))
		delivery := "told of changes as they are made"
		if !p.Notified {
			delivery = "asks for changes every second, since the database's notices do not arrive"
		}
		row("feed", "%s; %d follow it", delivery, p.Followers)
		printAsked(row, p.Asked, now)
	}
	_ = w.Flush()
	_, _ = fmt.Fprintf(out, "\nMetrics Gate %s\n", s.Version)
}

func printWrong(out io.Writer, wrong []status.Problem, now time.Time) {
	for _, problem := range wrong {
		_, _ = fmt.Fprintf(out, "WRONG  %s: %s%s\n", problem.Where, problem.What, sinceText(problem.Since, now))
		if problem.Advice != "" {
			_, _ = fmt.Fprintf(out, "       %s\n", problem.Advice)
		}
	}
}

// printNotes says what may be meant to be so, and is the cause where somebody wonders.
func printNotes(out io.Writer, g *status.Gate, wrong []status.Problem, now time.Time) {
	if g.Mode == caddymodule.ModeShadow {
		_, _ = fmt.Fprintf(out, "NOTE   gate %s: it is in shadow mode and stops nothing, for %s at least: people who opted out are being measured\n"+
			"       take the word shadow away to stop that; since Caddy was started, %d requests would have been blocked\n",
			g.Label, ago(now, g.Since), g.WouldBlock)
	}
	seen := g.Pages > 0 || slices.ContainsFunc(g.Routes, func(route status.Route) bool { return route.Requests > 0 })
	explained := slices.ContainsFunc(wrong, func(p status.Problem) bool { return p.Where == "gate "+g.Label && len(p.Requests) > 0 })
	if !seen && !explained {
		_, _ = fmt.Fprintf(out, "NOTE   gate %s: not one page or gated request has come to it since it was loaded, %s ago\n"+
			"       send one with caddy metrics-gate trace: it says whether the gate sees it, and else what to look for\n", g.Label, ago(now, g.Since))
	}
}

func printGate(w io.Writer, row func(what, format string, args ...any), g *status.Gate, now time.Time) {
	_, _ = fmt.Fprintf(w, "\ngate %s, %s, loaded %s ago\n", g.Label, g.Mode, ago(now, g.Since))
	for _, route := range g.Routes {
		row(strings.Join(route.Methods, ",")+" "+route.Path, "%d %s requests", route.Requests, route.Class)
	}
	row("pages", "%d", g.Pages)
	for _, session := range g.Sessions {
		texts := make([]string, 0, len(session.Outcomes))
		for _, outcome := range slices.Sorted(maps.Keys(session.Outcomes)) {
			texts = append(texts, fmt.Sprint(session.Outcomes[outcome], " ", outcome))
		}
		row("session "+session.Kind, "%s in the last %s", cmp.Or(strings.Join(texts, ", "), "none"), ago(now, g.Window))
	}
	if p := g.Profile; p != nil {
		row("profile", "%s, %s; cached: %d preferences, %d of accounts that were only named", p.URL, failureText(p.Failure, "no failure", now), p.Preferences, p.NamedPreferences)
		if p.Feed != nil {
			connected := "not connected"
			if p.Feed.Connected {
				connected = "connected"
			}
			row("change feed", "%s, %.0f s old", failureText(p.Feed.Failure, connected, now), p.Feed.AgeSeconds)
		}
	}
	printAsked(row, g.Asked, now)
	row("tokens", "%d remembered", g.Tokens)
}

func printAsked(row func(what, format string, args ...any), asked []status.Asked, now time.Time) {
	for _, a := range asked {
		well := "no failure"
		switch {
		case a.For == status.KeySet && a.Fetched.IsZero():
			well = "not fetched yet"
		case a.For == status.KeySet:
			well = "fetched " + ago(now, a.Fetched) + " ago"
		}
		row(a.For, "%s, %s", a.Source, failureText(a.Failure, well, now))
	}
}

func failureText(f *status.Failure, well string, now time.Time) string {
	if f == nil {
		return well
	}
	return "fails" + sinceText(f.Since, now)
}

func errorText(prefix, err string) string {
	if err == "" {
		return ""
	}
	return prefix + err
}

func sinceText(since, now time.Time) string {
	if since.IsZero() {
		return ""
	}
	return fmt.Sprintf(", since %s UTC (%s)", since.UTC().Format(time.DateTime), ago(now, since))
}

// ago is how long ago a time is, as roughly as people say it.
func ago(now, then time.Time) string {
	switch d := now.Sub(then); {
	case d < 2*time.Minute:
		return fmt.Sprint(int(max(d, 0)/time.Second), " s")
	case d < 2*time.Hour:
		return fmt.Sprint(int(d/time.Minute), " min")
	case d < 48*time.Hour:
		return fmt.Sprint(int(d/time.Hour), " h")
	default:
		return fmt.Sprint(int(d/(24*time.Hour)), " days")
	}
}
