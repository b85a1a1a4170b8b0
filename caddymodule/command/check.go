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
FAIL (exit 1) where one did not, and where it is known that none can see the
beacon of the account that opted out. INCONCLUSIVE (exit 3) where that could not
be found out: no gate has seen a beacon, a session did not verify, or a
preference could not be learnt; and where status says that something is wrong
with what comes to a gate that decided: it may decide otherwise what your pages
send.
Each comes with its cause and what to do.

A gate in shadow mode passes if it decided as it should; NOT STOPPED then says
that people who opted out are still being measured. Where you have one of the two
accounts only, its beacon is sent, and there is no PASS.

For tokens write @file, or use the environment
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
			if asJSON { // the line goes to a file, and whoever runs this is told why
				result.explain(cmd.ErrOrStderr())
			}
			if result.Verdict == pass {
				return nil
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
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON; where it is no PASS, or stopped nothing, the standard error says why")
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

// checkedAccount is whom a beacon is from: proven by a token, named by a uid. It is
// missing where neither is given.
type checkedAccount struct {
	token, uid string
	missing    error
}

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

	// NotStopped says that the beacon of the opted-out account reached the application,
	// since the gate is in shadow mode.
	NotStopped bool `json:"not_stopped,omitempty"`

	strayed // what kept a beacon from the gates, and what is wrong with those that decided one
}

// checkedBeacon is one beacon, and how it was decided.
type checkedBeacon struct {
	Account string       `json:"account"`
	Verdict verdict      `json:"verdict"`
	Why     string       `json:"why"`
	Marker  string       `json:"marker"` // in the address, for the application's log
	Status  int          `json:"status,omitempty"`
	Traces  []gate.Trace `json:"traces"`

	request *http.Request
	expected
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
	if err != nil {
		result.Verdict, result.Why = inconclusive, err.Error()
		return result
	}
	c.optedOut.complete("account that opted out", "optout", "METRICS_GATE_OPTOUT_TOKEN")
	c.allowed.complete("account that allows metrics", "allow", "METRICS_GATE_ALLOW_TOKEN")
	marker := rand.Text()
	// A marker in the query reaches the application's log whatever the body does.
	result.Beacons = append(result.Beacons,
		c.sent(ctx, method, site.JoinPath(path), c.optedOut, checkedBeacon{Account: accountOptedOut, Marker: "metrics-gate-check=" + marker + "-optout", expected: expected{optedOut: true}}),
		c.sent(ctx, method, site.JoinPath(path), c.allowed, checkedBeacon{Account: accountAllowed, Marker: "metrics-gate-check=" + marker + "-allow"}))
	s := c.admin.known()
	for i := range result.Beacons {
		b := &result.Beacons[i]
		if b.Why == "" {
			c.judge(result, b, s)
		}
		result.Verdict = max(result.Verdict, b.Verdict)
		result.NotStopped = result.NotStopped || b.optedOut && letThrough(b.Traces)
	}
	return result
}

// sent sends one beacon. What keeps it from that is inconclusive.
func (c *siteCheck) sent(ctx context.Context, method string, target *url.URL, from checkedAccount, b checkedBeacon) checkedBeacon {
	b.proven = from.token != ""
	err := from.missing
	if err == nil {
		b.request, err = c.beacon(method, target, from, b.Marker)
	}
	if err == nil {
		b.Status, b.Traces, err = c.send(ctx, b.request)
	}
	if err != nil {
		b.Verdict, b.Why = inconclusive, err.Error()
	}
	if b.Traces == nil {
		b.Traces = []gate.Trace{}
	}
	return b
}

// judge says of a beacon whether it was decided as it should, and what of the status is
// about that.
func (c *siteCheck) judge(r *checkResult, b *checkedBeacon, s *status.Status) {
	b.Verdict, b.Why = b.judge(b.Traces)
	if isUngated(b.Traces) {
		b.Why += ": " + c.ungated(b, s)
	}
	r.doubt(b, s.Wrong)
	if isDecided(b.Traces) {
		return
	}
	known := c.strayed(s, b.request, b.Traces)
	r.Mistake, r.certain = known.Mistake, known.certain
	for _, problem := range known.Wrong {
		r.tell(problem)
	}
	sure := slices.IndexFunc(known.Wrong, func(problem status.Problem) bool { return known.certain && !problem.Traffic })
	switch {
	case len(b.Traces) > 0:
	case known.Mistake != nil:
		b.Why = "it came to no gate: " + known.Mistake.Where + ": " + known.Mistake.What
	case sure >= 0:
		b.Why = "no gate can see it: " + known.Wrong[sure].What
		if b.optedOut {
			b.Verdict = fail
		}
	}
}

// ungated says that the gates which have seen a beacon have no route for it, and which
// they have.
func (c *siteCheck) ungated(b *checkedBeacon, s *status.Status) string {
	text := fmt.Sprintf("%s %s is no gated route of the gate %s", b.request.Method, b.request.URL.Path, b.Traces[0].Gate)
	if routes := gatedRoutes(s, b.Traces[0].Gate); routes != "" {
		text += ", whose routes are " + routes
	}
	if site, _ := url.Parse(c.site); strings.Trim(site.Path, "/") != "" { // run has parsed it
		return text + ". Write the site without a path, and the whole path into --route"
	}
	return text + ". Compare --route with them"
}

// doubt has a beacon pass only where nothing is known to be wrong with what else comes
// to the gates that decided it: what pages send may be decided otherwise, as where they
// have another cookie than the one that was sent here. Of one that does not pass, all
// that is wrong with these gates is told.
func (r *checkResult) doubt(b *checkedBeacon, wrong []status.Problem) {
	passed := b.Verdict == pass
	for _, problem := range wrong {
		switch {
		case passed && !problem.Traffic,
			!slices.ContainsFunc(b.Traces, func(t gate.Trace) bool { return t.Kind == gate.TraceGated && problem.Where == "gate "+t.Gate }):
			continue
		case b.Verdict == pass:
			b.Verdict = inconclusive
			b.Why += ". What your pages send may be decided otherwise: " + problem.Where + ": " + problem.What
		}
		r.tell(problem)
	}
}

// tell adds what is wrong, once.
func (r *checkResult) tell(problem status.Problem) {
	if !slices.ContainsFunc(r.Wrong, func(known status.Problem) bool { return known.Where == problem.Where && known.What == problem.What }) {
		r.Wrong = append(r.Wrong, problem)
	}
}

// complete reads the token from where it is kept.
func (a *checkedAccount) complete(who, flag, environment string) {
	if a.uid == "" {
		a.token = cmp.Or(a.token, os.Getenv(environment))
	}
	token, err := textOrFile(a.token)
	_, noFile := os.Stat(a.token)
	given := a.token
	a.token = strings.TrimSpace(string(token))
	switch {
	case err != nil:
		a.missing = fmt.Errorf("--%s-token: %w", flag, err)
	case a.token == "" && a.uid == "":
		a.missing = fmt.Errorf("no %s is given; write --%s-token or --%s-uid, or set %s", who, flag, flag, environment)
	case given != "" && noFile == nil:
		a.missing = fmt.Errorf("--%s-token: this is no token, and there is a file of that name; write @%s", flag, given)
	case strings.ContainsAny(a.token, "\r\n"): // it is not quoted, since it may hold one
		a.missing = fmt.Errorf("--%s-token: it has several lines, and must be the token alone; caddy metrics-gate trace takes headers", flag)
	}
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

// explain says what made the verdict, and what is wrong. Of a PASS there is something to
// say only where the gate stopped nothing.
func (r *checkResult) explain(w io.Writer) {
	why := r.Why
	for _, b := range r.Beacons {
		if why == "" && b.Verdict == r.Verdict && (b.Verdict != pass || r.NotStopped) {
			why = "the beacon of the account " + b.Account + ": " + b.Why
		}
	}
	if why == "" {
		return
	}
	_, _ = fmt.Fprintf(w, "%s: %s\n", r.Verdict, strings.ReplaceAll(why, "\n", "; "))
	r.strayed.print(w)
}

func (r *checkResult) print(w io.Writer) {
	if r.Why != "" {
		_, _ = fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Why)
		return
	}
	r.strayed.print(w)
	seen := true
	for i := range r.Beacons {
		b := &r.Beacons[i]
		seen = seen && (b.Status == 0 || len(b.Traces) > 0)
		which, must := "The beacon of the allowed account", "must be"
		if b.optedOut {
			which, must = "The beacon of the opted-out account", "must not be"
			if r.NotStopped {
				must = "in shadow mode is"
			}
		}
		if b.Status != 0 {
			which += fmt.Sprintf(" (%s, which %s in the application's log)", b.Marker, must)
		}
		_, _ = fmt.Fprintf(w, "%s:\n", which)
		for _, t := range b.Traces {
			if t.Decision != "" {
				_, _ = fmt.Fprintf(w, "  the gate %s (%s) decided %s, because of %s%s\n", t.Gate, t.Mode, t.Decision, t.Reason, byName[t.ByName])
			}
		}
		why := b.Why
		if i > 0 && why == r.Beacons[0].Why {
			why = "the same"
		}
		_, _ = fmt.Fprintf(w, "  %s: %s\n", b.Verdict, why)
	}
	if !seen {
		r.strayed.printGuesses(w)
	}
	_, _ = fmt.Fprintln(w, r.Verdict.String()+map[bool]string{true: ", and NOT STOPPED, since the gate is in shadow mode"}[r.NotStopped])
}
