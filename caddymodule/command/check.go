package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
)

func checkCommand() *cobra.Command {
	var c siteCheck
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check <site>",
		Short: "Sends a beacon of an opted-out and of an allowed account through a running gate and says whether it keeps the promise",
		Long: `
Sends two beacons: one of an account that opted out, which must be blocked
because of that account's preference, and one of an account that allows
metrics, which must be collected by its preference. Each is traced, so what
counts is how the gates decided this very beacon, and nobody else's.

PASS (exit 0) where every gate that the beacons met decided as it should.
FAIL (exit 1) where one did not. INCONCLUSIVE (exit 3) where that could not be
found out: no gate has seen a beacon, a session did not verify, or a
preference could not be learnt; and where status says that something is wrong
with what comes to a gate that decided: it may decide otherwise what your pages
send.
Each comes with its cause and what to do.

A gate in shadow mode passes if it decided as it should; that it stopped
nothing is said. For tokens write @file, or use the environment
(METRICS_GATE_OPTOUT_TOKEN, METRICS_GATE_ALLOW_TOKEN), since everybody on the
machine can read the list of processes.`,
		Example: `  caddy metrics-gate check https://app.example.org --route "POST /api/beacon" \
    --optout-token @optout.token --allow-token @allow.token

  Where the body names the account, as Firefox Accounts' beacons do:

  caddy metrics-gate check https://accounts.example.org --optout-uid 1111… --allow-uid 2222…

  A line of evidence every hour, from a timer, with a beacon as your pages send it:

  caddy metrics-gate check https://app.example.org --body beacon.json --json >> checks.jsonl`,
		Args: takes("the site's address", `check https://app.example.org --route "POST /api/beacon"`, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			c.site = args[0]
			result := c.run(cmd.Context())
			if asJSON {
				_ = json.NewEncoder(cmd.OutOrStdout()).Encode(result)
			} else {
				result.print(cmd.OutOrStdout())
			}
			if result.Verdict == pass {
				return nil
			}
			if asJSON { // the line goes to a file, and whoever runs this is told why
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", result.Verdict, result.why())
			}
			return exit(cmd, map[verdict]int{fail: 1, inconclusive: exitInconclusive}[result.Verdict])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.optedOut.token, "optout-token", "", "a session token of an account that opted out, or @file (default: METRICS_GATE_OPTOUT_TOKEN)")
	flags.StringVar(&c.allowed.token, "allow-token", "", "a session token of an account that allows metrics, or @file (default: METRICS_GATE_ALLOW_TOKEN)")
	flags.StringVar(&c.optedOut.uid, "optout-uid", "", "the account that opted out, for a gate that reads it from the body")
	flags.StringVar(&c.allowed.uid, "allow-uid", "", "the account that allows metrics, likewise")
	flags.StringVar(&c.field, "field", "uid", "the field of the body that names the account (names)")
	flags.StringVar(&c.cookie, "cookie", "session", "the cookie in which your pages send the token")
	flags.StringVar(&c.header, "header", "", "the header in which your pages send the token, as a bearer token, instead of a cookie")
	flags.StringVar(&c.route, "route", "POST /metrics", "method and path of the gated route")
	flags.StringVar(&c.body, "body", "", "a file with a recorded beacon to send; {uid} in it stands for the account of --optout-uid and --allow-uid")
	flags.StringVar(&c.contentType, "content-type", "", "the type of --body (default: what it looks like)")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON; where it is no PASS, the standard error says why")
	tracerFlags(cmd, &c.tracer)
	return cmd
}

// siteCheck is one run of the check command.
type siteCheck struct {
	tracer
	site, route           string
	optedOut, allowed     checkedAccount
	cookie, header, field string
	body, contentType     string
}

// checkedAccount is whom a beacon is from: proven by a token, named by a uid.
type checkedAccount struct{ token, uid string }

// verdict is what a check comes to; of several the greatest counts.
type verdict uint8

const (
	pass verdict = iota
	inconclusive
	fail
)

func (v verdict) String() string {
	return [...]string{pass: "PASS", inconclusive: "INCONCLUSIVE", fail: "FAIL"}[v]
}

// MarshalText writes the verdict as it is printed.
func (v verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// checkResult is a run, as a line of evidence.
type checkResult struct {
	Time    time.Time       `json:"time"`
	Verdict verdict         `json:"verdict"`
	Site    string          `json:"site"`
	Route   string          `json:"route"`
	Why     string          `json:"why,omitempty"` // no beacon was sent
	Beacons []checkedBeacon `json:"beacons"`

	// Wrong is what may have kept a beacon from the gates, and what is wrong with what
	// else comes to those that decided one as they should.
	Wrong []status.Problem `json:"wrong,omitempty"`

	strayed strayed // a beacon that no gate has decided
}

// checkedBeacon is one beacon, and how it was decided.
type checkedBeacon struct {
	Account string       `json:"account"`
	Verdict verdict      `json:"verdict"`
	Why     string       `json:"why"`
	Marker  string       `json:"marker"` // in the address, for the application's log
	Status  int          `json:"status,omitempty"`
	Traces  []gate.Trace `json:"traces"`
}

// The accounts of a check.
const (
	accountOptedOut = "opted_out"
	accountAllowed  = "allowed"
)

// run sends both beacons. What keeps it from that is inconclusive as well.
func (c *siteCheck) run(ctx context.Context) *checkResult {
	result := &checkResult{Time: time.Now().UTC(), Route: c.route, Beacons: []checkedBeacon{}}
	site, err := url.Parse(c.site)
	if err != nil || site.Host == "" || (site.Scheme != "http" && site.Scheme != "https") {
		err = fmt.Errorf("%q is not the address of a site; write one such as https://accounts.example.org", c.site)
	} else {
		result.Site = site.Redacted()
	}
	method, path, ok := strings.Cut(c.route, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		err = errors.Join(err, fmt.Errorf("--route: %q is not a method and a path; write one such as \"POST /metrics\"", c.route))
	}
	err = errors.Join(err, c.optedOut.complete("optout", "METRICS_GATE_OPTOUT_TOKEN"), c.allowed.complete("allow", "METRICS_GATE_ALLOW_TOKEN"))
	if err != nil {
		result.Verdict, result.Why = inconclusive, err.Error()
		return result
	}
	marker := rand.Text()
	for _, from := range []struct {
		account, suffix string
		checkedAccount
	}{{accountOptedOut, "-optout", c.optedOut}, {accountAllowed, "-allow", c.allowed}} {
		// A marker in the query reaches the application's log whatever the body does.
		beacon := checkedBeacon{Account: from.account, Marker: "metrics-gate-check=" + marker + from.suffix, Traces: []gate.Trace{}}
		if known := c.check(ctx, method, site.JoinPath(path), from.checkedAccount, &beacon); known != nil {
			result.strayed, result.Wrong = *known, known.wrong
		}
		result.Beacons = append(result.Beacons, beacon)
	}
	result.doubt(c.admin.known().Wrong)
	for _, beacon := range result.Beacons {
		result.Verdict = max(result.Verdict, beacon.Verdict)
	}
	return result
}

// doubt has a beacon pass only where nothing is known to be wrong with what else comes
// to the gates that decided it: what pages send may be decided otherwise, as where they
// have another cookie than the one that was sent here.
func (r *checkResult) doubt(wrong []status.Problem) {
	for i := range r.Beacons {
		b := &r.Beacons[i]
		if b.Verdict != pass {
			continue
		}
		for _, problem := range wrong {
			if !problem.Traffic || !slices.ContainsFunc(b.Traces, func(t gate.Trace) bool { return t.Kind == gate.TraceGated && problem.Where == "gate "+t.Gate }) {
				continue
			}
			if b.Verdict == pass {
				b.Verdict = inconclusive
				b.Why += ". What your pages send may be decided otherwise: " + problem.Where + ": " + problem.What
			}
			if !slices.ContainsFunc(r.Wrong, func(known status.Problem) bool { return known.Where == problem.Where && known.What == problem.What }) {
				r.Wrong = append(r.Wrong, problem)
			}
		}
	}
}

// complete reads the token from where it is kept.
func (a *checkedAccount) complete(flag, environment string) error {
	if a.uid == "" {
		a.token = cmp.Or(a.token, os.Getenv(environment))
	}
	token, err := textOrFile(a.token)
	if err != nil {
		return fmt.Errorf("--%s-token: %w", flag, err)
	}
	if a.token = strings.TrimSpace(string(token)); a.token == "" && a.uid == "" {
		return fmt.Errorf("no account is given; write --%s-token or --%s-uid, or set %s", flag, flag, environment)
	}
	return nil
}

// check sends one beacon and judges how it was decided. Where no gate has, it returns
// what is known of that.
func (c *siteCheck) check(ctx context.Context, method string, target *url.URL, from checkedAccount, beacon *checkedBeacon) *strayed {
	request, err := c.beacon(method, target, from, beacon.Marker)
	var traces []gate.Trace
	if err == nil {
		beacon.Status, traces, err = c.send(ctx, request)
	}
	if err != nil {
		beacon.Verdict, beacon.Why = inconclusive, err.Error()
		return nil
	}
	if traces != nil {
		beacon.Traces = traces
	}
	e := expected{optedOut: beacon.Account == accountOptedOut, proven: from.token != ""}
	beacon.Verdict, beacon.Why = e.judge(traces)
	if isDecided(traces) {
		return nil
	}
	known := c.strayed(request)
	return &known
}

func (c *siteCheck) beacon(method string, target *url.URL, from checkedAccount, marker string) (*http.Request, error) {
	contents := map[string]any{"events": []string{}}
	if from.uid != "" {
		contents[c.field] = from.uid
	}
	body, err := json.Marshal(contents)
	contentType := "text/plain;charset=UTF-8" // as sendBeacon has it
	if err == nil && c.body != "" {
		if body, err = os.ReadFile(c.body); err == nil && from.uid != "" && !bytes.Contains(body, []byte("{uid}")) {
			err = errors.New("it does not say where the account stands; write {uid} in its place, or use tokens")
		}
		body = bytes.ReplaceAll(body, []byte("{uid}"), []byte(from.uid))
		contentType = cmp.Or(c.contentType, contentTypeOf(body))
	}
	if err != nil {
		return nil, fmt.Errorf("--body: %w", err)
	}
	marked := *target
	marked.RawQuery = marker
	request, err := http.NewRequest(method, marked.String(), bytes.NewReader(body)) //nolint:noctx // send brings it
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	switch {
	case from.token == "":
	case c.header != "":
		request.Header.Set(c.header, "Bearer "+from.token)
	default:
		request.Header.Set("Cookie", c.cookie+"="+from.token)
	}
	return request, nil
}

// why is what made the verdict.
func (r *checkResult) why() string {
	why := r.Why
	for _, b := range r.Beacons {
		if why == "" && b.Verdict == r.Verdict {
			why = "the beacon of the account " + b.Account + ": " + b.Why
		}
	}
	return strings.ReplaceAll(why, "\n", "; ")
}

func (r *checkResult) print(w io.Writer) {
	if r.Why != "" {
		_, _ = fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Why)
		return
	}
	printWrong(w, r.Wrong, time.Now())
	seen := true
	for i := range r.Beacons {
		b := &r.Beacons[i]
		seen = seen && (b.Status == 0 || len(b.Traces) > 0)
		which, must := "The beacon of the allowed account", "must be"
		if b.Account == accountOptedOut {
			which, must = "The beacon of the opted-out account", "must not be"
		}
		_, _ = fmt.Fprintf(w, "%s (%s, which %s in the application's log):\n", which, b.Marker, must)
		for _, t := range b.Traces {
			if t.Decision != "" {
				_, _ = fmt.Fprintf(w, "  the gate %s (%s) decided %s, because of %s%s\n", t.Gate, t.Mode, t.Decision, t.Reason, byName[t.ByName])
			}
		}
		_, _ = fmt.Fprintf(w, "  %s: %s\n", b.Verdict, b.Why)
	}
	if !seen {
		r.strayed.printGuesses(w)
	}
	_, _ = fmt.Fprintln(w, r.Verdict)
}
