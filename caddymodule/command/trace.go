package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

func traceCommand() *cobra.Command {
	var t tracer
	var method, data string
	var headers []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "trace <url>",
		Short: "Sends a request and says, step by step, how each gate on its way decided it",
		Long: `
Sends a request, and prints how each gate that it met came to its decision:
which credentials it found, whose preference it knew and from where, what the
browser said, the row of the rules, and what became of the reply. No account
and no credential is in it.

It ends with 0 where a gate decided, and with 1 where none did; then it says
what to look for. The request is a real one: what is collected reaches the
application.`,
		Example: `  caddy metrics-gate trace https://app.example.org/api/beacon -X POST --data '{}' -H @headers.txt
  caddy metrics-gate trace https://app.example.org/ -H "Accept: text/html" -H "Sec-GPC: 1"`,
		Args: takes("the address to send the request to", "trace https://app.example.org/api/beacon -X POST --data '{}'", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := tracedRequest(method, args[0], headers, data)
			if err != nil {
				return err
			}
			cmd.SilenceUsage = true
			answered, traces, err := t.send(cmd.Context(), r)
			if err != nil {
				return err
			}
			var known strayed
			var s *status.Status
			decided := isDecided(traces)
			if !decided {
				s = t.admin.known()
				known = t.strayed(s, r, traces)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				err = printTracesJSON(out, answered, traces, &known)
			} else {
				printTraces(out, t.admin.address(), r, answered, traces, s, &known)
			}
			if err == nil && !decided {
				return exit(cmd, 1)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&method, "request", "X", "", "the method (default: GET, or POST with --data)")
	flags.StringArrayVarP(&headers, "header", "H", nil, "a header, such as \"Sec-GPC: 1\"; @file holds some, one a line; repeatable")
	flags.StringVarP(&data, "data", "d", "", "the body; @file holds it")
	flags.BoolVar(&asJSON, "json", false, "print it as JSON")
	tracerFlags(cmd, &t)
	return cmd
}

// tracedRequest is the request that the flags describe.
func tracedRequest(method, target string, headers []string, data string) (*http.Request, error) {
	body, err := textOrFile(data)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	fallback := http.MethodGet
	if data != "" {
		fallback = http.MethodPost
	}
	r, err := http.NewRequest(cmp.Or(method, fallback), target, bytes.NewReader(body)) //nolint:noctx // send brings it
	if err != nil || r.URL.Host == "" || (r.URL.Scheme != "http" && r.URL.Scheme != "https") {
		return nil, fmt.Errorf("%q is not an address; write one such as https://app.example.org/api/beacon", target)
	}
	if data != "" {
		r.Header.Set("Content-Type", contentTypeOf(body))
	}
	sent := map[string]bool{}
	for _, given := range headers {
		lines, err := textOrFile(given)
		if err != nil {
			return nil, fmt.Errorf("--header: %w", err)
		}
		for line := range strings.Lines(string(lines)) {
			line = strings.TrimSpace(line)
			name, value, ok := strings.Cut(line, ":")
			if !ok && line != "" { // which may hold a token, so it is not quoted
				return nil, errors.New("--header: a line has no colon; write one such as \"Sec-GPC: 1\", or @ and the name of a file with some")
			}
			name, value = http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
			switch {
			case line == "":
			case name == "Host":
				r.Host = value
			case sent[name]:
				r.Header.Add(name, value)
			default: // in the place of the one that was made up
				r.Header.Set(name, value)
				sent[name] = true
			}
		}
	}
	return r, nil
}

func printTracesJSON(w io.Writer, answered int, traces []gate.Trace, known *strayed) error {
	if traces == nil {
		traces = []gate.Trace{}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Status int          `json:"status"`
		Traces []gate.Trace `json:"traces"`
		*strayed
	}{answered, traces, known})
}

// printTraces says in plain words what the gates wrote down, and with what status they
// have, where none decided.
func printTraces(w io.Writer, admin string, r *http.Request, answered int, traces []gate.Trace, s *status.Status, known *strayed) {
	_, _ = fmt.Fprintf(w, "%s %s was answered with %d.\n", r.Method, r.URL.Redacted(), answered)
	if len(traces) == 0 {
		_, _ = fmt.Fprintf(w, "\nNo gate of the Caddy with the admin API %s has seen it.\n", admin)
	}
	known.print(w)
	if len(traces) == 0 {
		known.printGuesses(w)
	}
	for i := range traces {
		printTrace(w, &traces[i], r, s)
	}
}

func printTrace(w io.Writer, t *gate.Trace, r *http.Request, s *status.Status) {
	step := 0
	say := func(what, format string, values ...any) {
		step++
		_, _ = fmt.Fprintf(w, "%3d. %-12s %s\n", step, what, fmt.Sprintf(format, values...))
	}
	_, _ = fmt.Fprintf(w, "\nThe gate %s (%s)\n", t.Gate, t.Mode)
	switch t.Kind {
	case gate.TraceUntouched:
		say("request", "is no gated route of this gate, or an exception from one, and no page")
		compare := "compare method and path with the gate's routes"
		if routes := gatedRoutes(s, t.Gate); routes != "" {
			compare += ", which are " + routes
		}
		say("decision", "none: it passes as it came; %s", compare)
		return
	case gate.TraceOwn:
		say("request", "is for an address of the gate's own, which it answers by itself")
		return
	case gate.TracePage:
		say("request", "is a page")
	default:
		say("request", "is gated by the route %s (%s)", t.Route, t.Class)
	}
	say("credentials", "%s", credentials(t))
	if missing := missing(t, r); missing != "" {
		say("carried", "%s", missing)
	}
	say("session", "%s", t.Session)
	for _, p := range t.Preferences {
		say("preference", "%s: %s; so far: %s", whoseIs(p), preferenceOf(p), p.Then)
	}
	if len(t.Names) > 0 {
		say("names", "no account is named: looked for %s", strings.Join(t.Names, ", "))
	}
	say("signal", "%s", strings.Join(append([]string{signalWords[t.Signal]}, t.SignalFrom...), ", "))
	if t.Row != nil {
		say("rule", "| %s | %s | %s | %s | %s |", t.Row.Session, t.Row.Preference, t.Row.Signal, t.Row.Decision, t.Row.Reason)
		if then := beyondRow(t); then != "" {
			say("then", "that row collects; %s", then)
		}
	}
	say("decision", "%s, because of %s%s%s", t.Decision, t.Reason, byName[t.ByName], doubtWords[t.Doubt])
	say("reply", "%s", replyOf(t))
}

func credentials(t *gate.Trace) string {
	if len(t.Credentials) == 0 {
		return "this gate looks for none"
	}
	words := make([]string, len(t.Credentials))
	for i, c := range t.Credentials {
		words[i] = c.Kind + ": " + c.Outcome
		if c.LookedFor != "" {
			words[i] += " (looked for " + c.LookedFor + ")"
		}
		if about := strings.Join(slices.DeleteFunc([]string{c.Detail, adviceOn(&c)}, func(s string) bool { return s == "" }), "; "); about != "" {
			words[i] += " (" + about + ")"
		}
	}
	return strings.Join(words, "; ")
}

// adviceOn says what to do about a credential, where that does not say it itself.
func adviceOn(c *gate.TracedCredential) string {
	if strings.HasSuffix(c.Detail, session.IssuersFault) {
		return ""
	}
	return caddymodule.Advice(c.Outcome)
}

// missing says what a request carries that has no credential, where it could have one.
func missing(t *gate.Trace, r *http.Request) string {
	carried := strings.Join(t.Carried, ", ")
	for _, one := range t.Carried {
		name, _ := strings.CutPrefix(one, "cookie ")
		for _, cookie := range r.CookiesNamed(name) {
			switch {
			case strings.HasPrefix(cookie.Value, "eyJ") && strings.Count(cookie.Value, ".") == 2:
				return carried + "; " + one + " holds a JWT: if that is the session, write it into the gate's session block; until then it proves nobody, so an opt-out in the account does not count"
			case cookie.Value == "" && slices.ContainsFunc(t.Credentials, func(c gate.TracedCredential) bool { return slices.Contains(strings.Split(c.LookedFor, " or "), one) }):
				return carried + "; " + one + " is empty"
			}
		}
	}
	switch {
	case len(t.Carried) > 0:
		return carried + "; compare the names with what is looked for, letter by letter"
	case slices.ContainsFunc(t.Credentials, func(c gate.TracedCredential) bool { return c.LookedFor != "" }) &&
		!slices.ContainsFunc(t.Credentials, func(c gate.TracedCredential) bool { return c.Outcome != "absent" }):
		return "no cookie and no Authorization; -H @file sends the headers of a browser"
	}
	return ""
}

// whoseIs says whose a preference is.
func whoseIs(p gate.TracedPreference) string {
	if p.Expired {
		return "the account of the expired credential, which is only named"
	}
	return whose[p.Of]
}

// beyondRow says what blocks where the row of the first account does not.
func beyondRow(t *gate.Trace) string {
	switch last := len(t.Preferences) - 1; {
	case t.Decision != policy.Block.String() || t.Reason == t.Row.Reason && !t.ByName:
		return ""
	case last < 0 || t.Preferences[last].Then != t.Decision:
		return "an account that is only named could be decided otherwise, which is not looked up here, so it blocks"
	default:
		return "then this blocks: " + whoseIs(t.Preferences[last])
	}
}

func preferenceOf(p gate.TracedPreference) string {
	age := time.Duration(p.AgeSeconds * float64(time.Second)).Round(time.Millisecond)
	from := map[string]string{
		"cache": fmt.Sprintf(", known for %v", age), "lookup": ", as the profile server was asked",
		"claim": ", as its token says", "feed": fmt.Sprintf(", told by the change feed %v ago", age),
	}
	return preferenceWords[p.Preference] + from[p.From]
}

func replyOf(t *gate.Trace) string {
	switch {
	case t.Reply == gate.TraceBlocked:
		return "the gate's answer; the application got nothing"
	case t.Reply == gate.TraceHidden && t.Upstream == "":
		return "hidden: the client got the route's answer, and the application has the request and has not answered yet"
	case t.Reply == gate.TraceHidden:
		return "hidden: the client got the route's answer, and the application has the request (" + t.Upstream + ")"
	case t.Mode == caddymodule.ModeShadow && t.Decision == "block" && t.Kind == gate.TraceGated:
		return "the application's: shadow mode stopped nothing"
	default:
		return "the application's"
	}
}

var (
	whose = map[string]string{
		gate.OfProven:  "the account that is proven",
		gate.OfAlso:    "another account that is proven",
		gate.OfNamed:   "an account that is only named",
		gate.OfUnasked: "the account of a credential that could not be asked about",
		gate.OfHiding:  "what a credential that was not read, being too long or one too many, may hide",
		gate.OfUnread:  "what the body names, which could not be read",
	}
	preferenceWords = map[string]string{
		"true": "opted out (true)", "false": "allows metrics (false)", "null": "made no choice (null)",
		"unknown": "could not be learnt (caddy metrics-gate status, or Caddy's log, says why)", "hidden": "could not be learnt, and the request may have caused that",
	}
	signalWords = map[string]string{
		"opted_out": "opted out", "unrecorded": "opted out, which is never written into a profile", "no_objection": "no objection",
		"probing": "none yet: the browser, or its page, is being asked", "none": "none", "unread": "not read, since the account's choice stands above it",
	}
	byName     = map[bool]string{true: ", by an account that is only named"}
	doubtWords = map[string]string{
		"ours": "; something on our side was missing, so on_unknown counts", "sender": "; the request may have caused that something was missing, so it blocks",
	}
)
