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
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/gate"
)

func checkCommand() *cobra.Command {
	var c siteCheck
	cmd := &cobra.Command{
		Use:   "check <site> --optout-token <token> --allow-token <token>",
		Short: "Sends a beacon of an opted-out and of an allowed account to a running gate and says what became of them",
		Long: `
Sends two beacons to a running gate: one of an account that opted out, which
must be blocked, and one of an account that allows metrics, which must be
collected. Prints PASS or FAIL, and how to find the beacons at the upstream.

A blocked and a collected beacon get the same answer, so that nobody can ask
for another's preference. The command therefore reads the gate's counters
before and after, from the admin API of the Caddy that runs it. On a busy
site other requests are counted in between; the upstream's log is the proof.`,
		Example: `  caddy metrics-gate check https://app.example.org --route "POST /api/beacon" \
    --optout-token "$(caddy metrics-gate token --uid 1111… --key session.secret)" \
    --allow-token  "$(caddy metrics-gate token --uid 2222… --key session.secret)"

  Where the body names the account, as Firefox Accounts' beacons do:

  caddy metrics-gate check https://accounts.example.org --optout-uid 1111… --allow-uid 2222…`,
		Args:          cobra.ExactArgs(1),
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.site, c.out = args[0], cmd.OutOrStdout()
			address, err := caddycmd.DetermineAdminAPIAddress(c.admin, nil, "", "")
			if err != nil {
				return err
			}
			c.admin = address
			if err := c.run(cmd.Context()); err != nil {
				_, _ = fmt.Fprintf(c.out, "FAIL: %v\n", err)
				return err
			}
			_, _ = fmt.Fprintln(c.out, "PASS")
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.optedOut.token, "optout-token", "", "a session token of an account that opted out")
	flags.StringVar(&c.allowed.token, "allow-token", "", "a session token of an account that allows metrics")
	flags.StringVar(&c.optedOut.uid, "optout-uid", "", "the account that opted out, for a gate that reads it from the body")
	flags.StringVar(&c.allowed.uid, "allow-uid", "", "the account that allows metrics, likewise")
	flags.StringVar(&c.field, "field", "uid", "the field of the body that names the account (names)")
	flags.StringVar(&c.cookie, "cookie", "session", "the cookie that carries the token")
	flags.StringVar(&c.header, "header", "", "the header that carries the token, as a bearer token, instead of a cookie")
	flags.StringVar(&c.route, "route", "POST /metrics", "method and path of the gated route")
	flags.StringVar(&c.admin, "address", "", "the admin API of the Caddy that runs the gate (default: Caddy's own)")
	cmd.MarkFlagsOneRequired("optout-token", "optout-uid")
	cmd.MarkFlagsOneRequired("allow-token", "allow-uid")
	return cmd
}

// siteCheck is one run of the check command.
type siteCheck struct {
	site, route           string
	optedOut, allowed     checkedAccount
	cookie, header, field string
	admin                 string
	out                   io.Writer
}

// checkedAccount is whom a beacon is from: proven by a token, named by a uid.
type checkedAccount struct{ token, uid string }

// checkTimeout bounds each beacon of a check.
const checkTimeout = 10 * time.Second

func (c *siteCheck) run(ctx context.Context) error {
	method, path, ok := strings.Cut(c.route, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("--route: %q is not a method and a path; write one such as \"POST /metrics\"", c.route)
	}
	site, err := url.Parse(c.site)
	if err != nil || site.Host == "" || (site.Scheme != "http" && site.Scheme != "https") {
		return fmt.Errorf("%q is not the address of a site; write one such as https://accounts.example.org", c.site)
	}
	// A marker in the query reaches the upstream's log whatever the body does.
	marker := rand.Text()
	optedOut, allowed := marker+"-optout", marker+"-allow"
	_, _ = fmt.Fprintf(c.out, "At the upstream, metrics-gate-check=%s must not be found, and metrics-gate-check=%s must.\n", optedOut, allowed)
	return errors.Join(
		c.beacon(ctx, method, site.JoinPath(path), optedOut, c.optedOut, "block", "preference"),
		c.beacon(ctx, method, site.JoinPath(path), allowed, c.allowed, "collect", ""),
	)
}

// beacon sends one beacon and holds what the gate counted against what it
// should have done.
func (c *siteCheck) beacon(ctx context.Context, method string, target *url.URL, marker string, from checkedAccount, decision, reason string) error {
	before, err := c.counters(target.Path)
	if err != nil {
		return err
	}
	status, err := c.send(ctx, method, target, marker, from)
	if err != nil {
		return fmt.Errorf("the %s beacon did not get through: %w", marker, err)
	}
	after, err := c.counters(target.Path)
	if err != nil {
		return err
	}
	counted := after.since(before)
	_, _ = fmt.Fprintf(c.out, "%s: answered %d; counted: %s\n", marker, status, counted)
	switch {
	case len(counted.requests) == 0:
		return fmt.Errorf("the gate counted no request for the %s beacon: is %s %s a gated route, and %s the admin API of this site's Caddy?",
			marker, method, target.Path, c.admin)
	case counted.has(caddymodule.ModeShadow, "", ""):
		return errors.New("the gate is in shadow mode, so opted-out users are still being measured")
	case !counted.has(caddymodule.ModeEnforce, decision, reason):
		return fmt.Errorf("the %s beacon should have been decided as %s %s%s", marker, decision, reason, counted.hint())
	}
	return nil
}

func (c *siteCheck) send(ctx context.Context, method string, target *url.URL, marker string, from checkedAccount) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	marked := *target
	marked.RawQuery = url.Values{"metrics-gate-check": {marker}}.Encode()
	body, err := json.Marshal(map[string]any{"events": []string{}, c.field: cmp.Or(from.uid, "none")})
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, method, marked.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	switch {
	case from.token == "":
	case c.header != "":
		request.Header.Set(c.header, "Bearer "+from.token)
	default:
		request.Header.Set("Cookie", c.cookie+"="+from.token)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_ = response.Body.Close()
	return response.StatusCode, nil
}

// counted is what a gate has counted, by labels.
type counted struct {
	requests map[[3]string]float64 // mode, decision, reason
	sessions map[string]float64    // outcome
}

// counters reads the counters of the gated route from Caddy's admin API. It
// knows the path as the flag has it, or as the site's address makes it.
func (c *siteCheck) counters(target string) (*counted, error) {
	_, path, _ := strings.Cut(c.route, " ")
	response, err := caddycmd.AdminAPIRequest(c.admin, http.MethodGet, "/metrics", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the gate's counters from the admin API: %w; name it with --address", err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the gate's counters from the admin API: %w", err)
	}
	read := &counted{requests: map[[3]string]float64{}, sessions: map[string]float64{}}
	for _, metric := range families["caddy_metrics_gate_requests_total"].GetMetric() {
		labels := labelsOf(metric)
		if !covers(labels["route"], path) && !covers(labels["route"], target) {
			continue // somebody else's beacon
		}
		read.requests[[3]string{labels["mode"], labels["decision"], labels["reason"]}] += metric.GetCounter().GetValue()
	}
	for _, metric := range families["caddy_metrics_gate_sessions_total"].GetMetric() {
		read.sessions[labelsOf(metric)["outcome"]] += metric.GetCounter().GetValue()
	}
	return read, nil
}

// covers says whether a configured route, as the counters name it, takes the
// path, in whatever spelling.
func covers(path, requested string) bool {
	route := gate.Route{Methods: []string{http.MethodPost}, Path: path}
	return route.Takes(http.MethodPost, requested)
}

func labelsOf(metric *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range metric.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

// since returns what was counted after before.
func (c *counted) since(before *counted) *counted {
	grown := &counted{requests: map[[3]string]float64{}, sessions: map[string]float64{}}
	for labels, value := range c.requests {
		if value > before.requests[labels] {
			grown.requests[labels] = value - before.requests[labels]
		}
	}
	for outcome, value := range c.sessions {
		if value > before.sessions[outcome] {
			grown.sessions[outcome] = value - before.sessions[outcome]
		}
	}
	return grown
}

// has says whether a request was counted with these labels; an empty one
// fits any.
func (c *counted) has(mode, decision, reason string) bool {
	for labels := range c.requests {
		if labels[0] == mode && (decision == "" || labels[1] == decision) && (reason == "" || labels[2] == reason) {
			return true
		}
	}
	return false
}

// hint says what is wrong with the token, where something is.
func (c *counted) hint() string {
	for _, outcome := range slices.Sorted(maps.Keys(c.sessions)) {
		if outcome != "verified" {
			return fmt.Sprintf("; the session was %s: check the token, and that --cookie or --header is where the gate looks for it", outcome)
		}
	}
	return ""
}

func (c *counted) String() string {
	texts := make([]string, 0, len(c.requests))
	for labels := range c.requests {
		texts = append(texts, fmt.Sprintf("%s (%s, %s)", labels[1], labels[2], labels[0]))
	}
	if len(texts) == 0 {
		return "nothing"
	}
	return strings.Join(texts, ", ")
}
