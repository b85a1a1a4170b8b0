package command

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// traced makes a trace of a gated request with a session by a token.
func traced(session policy.Session, outcome string, preference policy.Preference, rules policy.Rules, change ...func(*gate.Trace)) gate.Trace {
	d := rules.Decide(session, preference, policy.SignalNone)
	trace := gate.Trace{
		Time: time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC), Gate: "edge", Mode: caddymodule.ModeEnforce, Kind: gate.TraceGated, Route: "/metrics", Class: "metrics",
		Credentials: []gate.TracedCredential{{Kind: "jwt", Outcome: outcome}}, Session: session.String(), Signal: "none",
		Row: gate.RowOf(policy.Match(session, preference, policy.SignalNone)), Decision: d.Action.String(), Reason: d.Reason.String(), Doubt: d.Doubt.String(),
		Reply: map[policy.Action]string{policy.Block: gate.TraceBlocked, policy.Collect: gate.TraceShown}[d.Action],
	}
	if session == policy.Verified {
		trace.Preferences = []gate.TracedPreference{{Of: gate.OfProven, Preference: preference.String(), From: "cache", AgeSeconds: 12.3, Then: trace.Decision}}
	}
	if !preference.IsLearnt() && session == policy.Verified {
		trace.Preferences[0].From, trace.Preferences[0].AgeSeconds = "none", 0
	}
	if preference.IsChoice() {
		trace.Signal = "unread"
	}
	for _, c := range change {
		c(&trace)
	}
	return trace
}

var usual = policy.DefaultRules()

func proven(preference policy.Preference, change ...func(*gate.Trace)) gate.Trace {
	return traced(policy.Verified, "verified", preference, usual, change...)
}

// named is of a request that names an account and proves none.
func named(preference policy.Preference) gate.Trace {
	return traced(policy.NoSession, "absent", policy.Unknown, usual, func(t *gate.Trace) {
		d := usual.DecideNamed(policy.Decision{Action: policy.Collect, Reason: policy.ReasonDefault}, preference)
		t.Decision, t.Reason, t.ByName, t.Doubt = d.Action.String(), d.Reason.String(), d.ByName, d.Doubt.String()
		t.Preferences = []gate.TracedPreference{{Of: gate.OfNamed, Preference: preference.String(), From: "lookup", Then: t.Decision}}
		t.Reply, t.Upstream = gate.TraceHidden, "2xx"
		if d.Action == policy.Block {
			t.Reply, t.Upstream = gate.TraceBlocked, ""
		}
	})
}

func inShadow(t *gate.Trace)  { t.Mode, t.Reply = caddymodule.ModeShadow, gate.TraceShown }
func untouched(t *gate.Trace) { *t = gate.Trace{Gate: t.Gate, Mode: t.Mode, Kind: gate.TraceUntouched} }
func aPage(t *gate.Trace) {
	t.Kind, t.Route, t.Class, t.Reply = gate.TracePage, "", "", gate.TraceShown
}

// a site whose gates are not wrong.
func tracingSite(t *testing.T, requests ...[]gate.Trace) (addr string) {
	t.Helper()
	return wrongSite(t, status.Status{}, requests...)
}

// a site whose gates write down what they are told to, one list for each request
// that comes, and the admin API of its Caddy, which knows its status.
func wrongSite(t *testing.T, known status.Status, requests ...[]gate.Trace) (addr string) {
	t.Helper()
	opened := 0
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = map[string]string{"nonce": fmt.Sprint(opened)}
		switch nonce, reads := strings.CutPrefix(r.URL.Path, caddymodule.TracesPath+"/"); {
		case reads:
			var n int
			_, _ = fmt.Sscan(nonce, &n)
			answer = append([]gate.Trace{}, requests[n-1]...)
		case r.URL.Path == caddymodule.TracesPath && r.Method == http.MethodPost:
			opened++
			answer = caddymodule.OpenedTrace{Nonce: fmt.Sprint(opened)}
		case r.URL.Path == status.Path:
			answer = known
		case r.Header.Get(gate.TraceHeader) != fmt.Sprint(opened):
			t.Errorf("a request has the nonce %q", r.Header.Get(gate.TraceHeader))
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(site.Close)
	return site.Listener.Addr().String()
}

// exitCode is the one with which Caddy would end.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	code := 1
	_, _ = fmt.Sscanf(err.Error(), "exiting with status %d", &code)
	return code
}

// TestUnknownAuthority: who has Caddy sign its site's certificate is told how to have
// this machine believe it.
func TestUnknownAuthority(t *testing.T) {
	t.Parallel()
	site := httptest.NewUnstartedServer(http.NotFoundHandler())
	site.Config.ErrorLog = log.New(io.Discard, "", 0)
	site.StartTLS()
	t.Cleanup(site.Close)
	out, err := run(traceCommand(), site.URL, "--address", tracingSite(t))
	if err == nil || !strings.Contains(err.Error(), "; where the site has tls internal, have this machine believe Caddy: caddy trust, as root") {
		t.Errorf("error %v\n%s", err, out)
	}
}

// TestTracedOutput holds what trace and check print, and how they end, against
// the goldens.
func TestTracedOutput(t *testing.T) {
	t.Parallel()
	one := func(traces ...gate.Trace) [][]gate.Trace { return [][]gate.Trace{traces} }
	both := func(optedOut, allowed gate.Trace) [][]gate.Trace { return [][]gate.Trace{{optedOut}, {allowed}} }
	collectsUnknown := policy.Rules{OnUnknown: policy.Collect, OnUnset: policy.Collect}
	out, in := proven(policy.OptedOut), proven(policy.Allowed)
	tokens := []string{"--optout-token", "t0ken-needle", "--allow-token", "t0ken-needle"}
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Host: needle.test\nCookie: a=needle\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	routes := []status.Route{{Methods: []string{"POST"}, Path: "/metrics"}, {Methods: []string{"GET", "POST"}, Path: "/b/*"}}
	uids := []string{"--optout-uid", "uid-needle", "--allow-uid", "uid-needle"}
	renamed := traced(policy.NoSession, "absent", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].LookedFor, t.Carried = "cookie session", []string{"cookie theme", "cookie sid"}
	})
	emptied := traced(policy.NoSession, "absent", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].LookedFor, t.Carried = "cookie session or header Authorization", []string{"cookie session"}
	})
	bare := traced(policy.NoSession, "absent", policy.Unknown, usual, func(t *gate.Trace) { t.Credentials[0].LookedFor = "cookie session" })
	otherIssuer := traced(policy.Unverifiable, "wrong_issuer", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].Detail = `its iss is "https://a.test"; accepted is "https://b.test"`
	})
	expired := traced(policy.Expired, "expired", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].Detail = "iat is 3h0m0s ago, exp is 2h0m0s ago, by this machine's clock"
		t.Decision, t.Reason, t.ByName, t.Reply = "block", "preference", true, gate.TraceBlocked
		t.Preferences = []gate.TracedPreference{{Of: gate.OfNamed, Expired: true, Preference: "true", From: "cache", Then: "block"}}
	})
	born := traced(policy.Expired, "expired", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].Detail = "iat is 3h0m0s ago, exp is 4h0m0s ago, by this machine's clock; exp is before iat, and " + session.IssuersFault
	})
	never := traced(policy.Unverifiable, "not_yet_valid", policy.Unknown, usual, func(t *gate.Trace) {
		t.Credentials[0].Detail = "nbf is 3h0m0s ahead, exp is 2h0m0s ahead, by this machine's clock; nbf is after exp, and " + session.IssuersFault
	})
	second := proven(policy.Allowed, func(t *gate.Trace) {
		t.Credentials = append(t.Credentials, gate.TracedCredential{Kind: "jwt", Outcome: "conflicting"})
		t.Preferences = append(t.Preferences, gate.TracedPreference{Of: gate.OfAlso, Preference: "true", From: "lookup", Then: "block"})
		t.Decision, t.Reason, t.Reply = "block", "preference", gate.TraceBlocked
	})
	withheld := traced(policy.Expired, "expired", policy.Unknown, usual, func(t *gate.Trace) {
		t.Class, t.Decision, t.Reason, t.ByName, t.Doubt, t.Reply = "experiment", "block", "unknown", true, "ours", gate.TraceBlocked
	})
	unnamed := traced(policy.NoSession, "absent", policy.Unknown, usual, func(t *gate.Trace) { t.Names = []string{"body uid", "query u"} })
	failing := status.Problem{Where: "gate edge", What: "the profile server fails"}
	keptAway := status.Problem{Where: "gate edge", What: "GET /metrics cannot come to it", Advice: "write it in front", Requests: []string{"GET /metrics"}, Hosts: []string{"127.0.0.1"}}
	rewritten := status.Problem{Where: "gate edge", What: "POST /beacon was decided by no gate", Advice: "write it behind the rewrite", Requests: []string{"POST /beacon"}}
	past := keptAway
	past.Traffic = true
	silent := status.Problem{Where: "gate edge", What: "pages come, and not one request of this route", Traffic: true}
	elsewhere := status.Problem{Where: "gate other", What: "GET /metrics cannot come to it", Requests: []string{"GET /metrics"}, Hosts: []string{"*.other.test"}}
	refused := status.Problem{Where: "gate edge", What: "more credentials fail to verify than verify", Advice: "none of these people is measured", Traffic: true}
	nobody := status.Problem{Where: "gate edge", What: "no account is recognised in any gated request (requests 1000, looked_for [cookie session])", Advice: "compare the names", Traffic: true}
	marker, address := regexp.MustCompile(`metrics-gate-check=[A-Z2-7]+`), regexp.MustCompile(`127\.0\.0\.1:\d+`)
	now := regexp.MustCompile(`\{"time":"[^"]+","verdict"`)
	for name, c := range map[string]struct {
		command func() *cobra.Command
		args    []string
		traces  [][]gate.Trace
		code    int
		wrong   []status.Problem
	}{
		"trace_opted_out":       {traceCommand, nil, one(out), 0, nil},
		"trace_two_gates":       {traceCommand, nil, one(in, proven(policy.Allowed, inShadow, func(t *gate.Trace) { t.Gate = "inside" })), 0, nil},
		"trace_named":           {traceCommand, []string{"--data", "{}"}, one(named(policy.Unset)), 0, nil},
		"trace_forged":          {traceCommand, nil, one(traced(policy.Unverifiable, "wrong_issuer", policy.Unknown, usual)), 0, nil},
		"trace_not_learnt":      {traceCommand, nil, one(proven(policy.Unknown)), 0, nil},
		"trace_shadow":          {traceCommand, nil, one(proven(policy.OptedOut, inShadow)), 0, nil},
		"trace_page":            {traceCommand, []string{"-H", "Accept: text/html"}, one(proven(policy.Unset, aPage)), 0, nil},
		"trace_untouched":       {traceCommand, nil, one(proven(policy.OptedOut, untouched)), 1, nil},
		"trace_unseen":          {traceCommand, nil, one(), 1, nil},
		"trace_kept_away":       {traceCommand, nil, one(), 1, []status.Problem{failing, elsewhere, keptAway}},
		"trace_maybe_kept_away": {traceCommand, nil, one(), 1, []status.Problem{failing, elsewhere, rewritten}},
		"trace_rewritten":       {traceCommand, nil, one(proven(policy.OptedOut, untouched)), 1, []status.Problem{failing, rewritten}},
		"trace_kept_away_json":  {traceCommand, []string{"--json"}, one(), 1, []status.Problem{failing, keptAway}},
		"check_pages_fail":      {checkCommand, tokens, both(out, in), 3, []status.Problem{failing, elsewhere, nobody, silent}},
		"check_pages_fail_half": {checkCommand, tokens, both(out, out), 1, []status.Problem{nobody}},
		"check_pages_fail_json": {checkCommand, append(tokens, "--json"), both(out, in), 3, []status.Problem{nobody}},
		"check_kept_away":       {checkCommand, append(tokens, "--route", "GET /"), [][]gate.Trace{{}, {}}, 1, []status.Problem{failing, keptAway}},
		"check_got_past":        {checkCommand, append(tokens, "--route", "GET /"), [][]gate.Trace{{}, {}}, 3, []status.Problem{past}},
		"check_kept_away_json":  {checkCommand, append(tokens, "--route", "GET /", "--json"), [][]gate.Trace{{}, {}}, 1, []status.Problem{failing, keptAway}},
		"trace_json":            {traceCommand, []string{"--json"}, one(out), 0, nil},
		"trace_renamed":         {traceCommand, nil, one(renamed), 0, nil},
		"trace_renamed_jwt":     {traceCommand, []string{"-H", "Cookie: theme=dark; sid=eyJneedle.eyJneedle.needle"}, one(renamed), 0, nil},
		"trace_emptied":         {traceCommand, []string{"-H", "Cookie: session"}, one(emptied), 0, nil},
		"trace_bare":            {traceCommand, nil, one(bare), 0, nil},
		"trace_issuer":          {traceCommand, nil, one(otherIssuer), 0, nil},
		"trace_expired":         {traceCommand, nil, one(expired), 0, nil},
		"trace_born_expired":    {traceCommand, nil, one(born), 0, nil},
		"trace_never_valid":     {traceCommand, nil, one(never), 0, nil},
		"check_born_expired":    {checkCommand, tokens, both(born, never), 1, nil},
		"trace_second":          {traceCommand, nil, one(second), 0, nil},
		"trace_unasked_names":   {traceCommand, nil, one(withheld), 0, nil},
		"trace_no_names":        {traceCommand, nil, one(unnamed), 0, nil},
		"trace_renamed_json":    {traceCommand, []string{"--json"}, one(renamed), 0, nil},
		"check_renamed":         {checkCommand, tokens, both(renamed, renamed), 1, nil},
		"check_expired_both":    {checkCommand, tokens, both(expired, expired), 3, nil},
		"check_pass":            {checkCommand, tokens, both(out, in), 0, nil},
		"check_unset":           {checkCommand, tokens, both(out, proven(policy.Unset)), 0, nil},
		"check_named":           {checkCommand, uids, both(named(policy.OptedOut), named(policy.Allowed)), 0, nil},
		"check_shadow":          {checkCommand, tokens, both(proven(policy.OptedOut, inShadow), proven(policy.Allowed, inShadow)), 0, nil},
		"check_json":            {checkCommand, append(tokens, "--json"), both(out, in), 0, nil},
		"check_unseen":          {checkCommand, tokens, [][]gate.Trace{{}, {}}, 3, nil},
		"check_ungated":         {checkCommand, tokens, both(proven(policy.OptedOut, untouched), proven(policy.Allowed, untouched)), 1, nil},
		"check_never_out":       {checkCommand, tokens, both(proven(policy.Unset), in), 1, nil},
		"check_swapped":         {checkCommand, tokens, both(in, out), 1, nil},
		"check_second":          {checkCommand, tokens, [][]gate.Trace{{proven(policy.OptedOut, inShadow), traced(policy.NoSession, "absent", policy.Unknown, usual)}, {in}}, 1, nil},
		"check_not_learnt":      {checkCommand, tokens, both(proven(policy.Unknown), proven(policy.Unknown)), 3, nil},
		"check_lenient":         {checkCommand, tokens, both(traced(policy.Verified, "verified", policy.Unknown, collectsUnknown), traced(policy.Verified, "verified", policy.Unknown, collectsUnknown)), 1, nil},
		"check_issuer": {checkCommand, tokens, both(traced(policy.Unverifiable, "wrong_issuer", policy.Unknown, usual),
			traced(policy.Unverifiable, "wrong_issuer", policy.Unknown, usual)), 3, nil},
		"check_cookie":         {checkCommand, tokens, both(traced(policy.NoSession, "absent", policy.Unknown, usual), traced(policy.NoSession, "absent", policy.Unknown, usual)), 1, nil},
		"check_expired":        {checkCommand, tokens, both(expired, in), 3, nil},
		"check_consent":        {checkCommand, tokens, both(out, traced(policy.Verified, "verified", policy.Unset, policy.Rules{})), 1, nil},
		"check_no_names":       {checkCommand, uids, both(traced(policy.NoSession, "absent", policy.Unknown, usual), traced(policy.NoSession, "absent", policy.Unknown, usual)), 1, nil},
		"check_names_unlearnt": {checkCommand, uids, both(named(policy.Unknown), named(policy.Unknown)), 3, nil},
		"check_no_account":     {checkCommand, nil, nil, 3, nil},
		"check_one_account":    {checkCommand, tokens[:2], one(out), 3, nil},
		"check_one_wrong":      {checkCommand, tokens[:2], one(in), 1, nil},
		"check_no_at":          {checkCommand, []string{"--optout-token", "testdata/presets/fxa.caddyfile", "--allow-token", "t0ken-needle"}, one(in), 3, nil},
		"check_headers":        {checkCommand, []string{"--optout-token", "@" + headers, "--allow-token", "t0ken-needle"}, one(in), 3, nil},
		"check_shadow_json":    {checkCommand, append(tokens, "--json"), both(proven(policy.OptedOut, inShadow), proven(policy.Allowed, inShadow)), 0, nil},
		"check_shadow_stopped": {checkCommand, tokens, [][]gate.Trace{{proven(policy.OptedOut, inShadow), out}, {in}}, 0, nil},
		"check_issuer_told":    {checkCommand, tokens, both(otherIssuer, in), 3, []status.Problem{failing, refused, elsewhere}},
		"check_no_file":        {checkCommand, append(tokens, "--body", "testdata/nosuch.json"), both(out, in), 3, nil},
		"check_uid_in_body":    {checkCommand, append(uids, "--body", "testdata/presets/fxa.caddyfile"), both(out, in), 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := wrongSite(t, status.Status{Wrong: c.wrong, Gates: []status.Gate{{Label: "edge", Routes: routes}}}, c.traces...)
			got, err := run(c.command(), append([]string{"http://" + addr + "/metrics", "--address", addr}, c.args...)...)
			got = marker.ReplaceAllString(address.ReplaceAllString(got, "ADDRESS"), "metrics-gate-check=MARKER")
			got = now.ReplaceAllString(got, `{"time":"NOW","verdict"`)
			if code := exitCode(err); code != c.code {
				t.Errorf("it ends with %d, want %d (%v)", code, c.code, err)
			}
			if strings.Contains(got, "needle") {
				t.Errorf("it prints an account or a token:\n%s", got)
			}
			golden := filepath.Join("testdata", "traced", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if diff := cmp.Diff(string(want), got); diff != "" || err != nil {
				t.Errorf("%v (-want +got; write anew with -update)\n%s", err, diff)
			}
		})
	}
}

// TestCheckCannotBegin: what keeps check from sending a beacon is inconclusive,
// with the reason.
func TestCheckCannotBegin(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"accounts.example.org", "--optout-token", "a", "--allow-token", "b"},
		{"ftp://accounts.example.org", "--optout-token", "a", "--allow-token", "b"},
		{"http://localhost:1", "--route", "/metrics", "--optout-token", "a", "--allow-token", "b"},
		{"http://localhost:1", "--optout-token", "@nosuch", "--allow-token", "b"},
		{"http://localhost:1", "--optout-token", "a", "--allow-token", "b", "--address", "localhost:1"},
	} {
		if out, err := run(checkCommand(), args...); exitCode(err) != exitInconclusive || !strings.Contains(out, "INCONCLUSIVE: ") || strings.Contains(out, "PASS") {
			t.Errorf("%q: error %v and\n%s", args, err, out)
		}
	}
}

// TestDial: one edge is asked under the site's own name, wherever that leads.
func TestDial(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		command *cobra.Command
		args    []string
		traces  [][]gate.Trace
	}{
		"trace": {traceCommand(), nil, [][]gate.Trace{{proven(policy.OptedOut)}}},
		"check": {checkCommand(), []string{"--optout-token", "a", "--allow-token", "b"}, [][]gate.Trace{{proven(policy.OptedOut)}, {proven(policy.Allowed)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := tracingSite(t, c.traces...)
			out, err := run(c.command, append([]string{"http://site.invalid/metrics", "--address", addr, "--dial", addr}, c.args...)...)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestNoGateThere: who asks where no gate stands is told so first, set apart from what is
// wrong with the gates. Where another Caddy answers, that is not told at all.
func TestNoGateThere(t *testing.T) {
	t.Parallel()
	wrong := []status.Problem{{Where: "gate edge", What: "GET /metrics cannot come to it", Requests: []string{"GET /metrics"}}}
	tokens := []string{"--optout-token", "a", "--allow-token", "b", "--route", "GET /"}
	both := [][]string{{"localhost"}, {"*.example", "localhost"}}
	const (
		faults      = "WRONG  gate edge: GET /metrics cannot come to it\n"
		anotherHost = "YOUR ADDRESS  host 127.0.0.1: no site of it has a gate; the gates of this Caddy stand in the sites: *.example, localhost\n" +
			"       write one of these into the address in its place, with --dial <site> if that leads elsewhere; if another Caddy has the host, name its admin API with --address\n" + faults
		anotherCaddy = "YOUR ADDRESS  port <port>: the Caddy with the admin API <site> does not listen on it (but on 1, 2): another Caddy answers there\n" +
			"       name its admin API with --address; if what answers is only in front of this Caddy, --dial leads past it\n"
		anotherPort = "YOUR ADDRESS  port <port>: no site there has a gate; the gates of the Caddy with the admin API <site> stand at port 1\n" +
			"       write that port into the address, or metrics_gate into the site that is there\n"
	)
	for _, c := range []struct {
		name         string
		command      *cobra.Command
		args         []string
		hosts        [][]string // of gates
		gated, ports []string   // those of the gates, and all
		told         string
		faults       bool
	}{
		{"trace", traceCommand(), nil, both, nil, nil, anotherHost, true},
		{"check", checkCommand(), tokens, both, nil, nil, anotherHost, true},
		{"trace that was led there", traceCommand(), []string{"--dial", "<site>"}, both, nil, nil,
			"       write one of these into the address in its place; if another Caddy has the host, name its admin API with --address\n" + faults, true},
		{"trace of a host of theirs", traceCommand(), []string{"-H", "Host: app.example"}, both, nil, nil, faults, true},
		{"trace, and a gate for all", traceCommand(), nil, [][]string{{"*.example", "localhost"}, nil}, nil, nil, faults, true},
		{"trace, and no gate", traceCommand(), nil, nil, nil, nil, faults, true},
		{"trace of another Caddy", traceCommand(), nil, both, []string{"1"}, []string{"1", "2"}, anotherCaddy, false},
		{"trace of another Caddy's host", traceCommand(), []string{"-H", "Host: localhost"}, both, []string{"1"}, []string{"1", "2"}, anotherCaddy, false},
		{"check of another Caddy", checkCommand(), tokens, both, []string{"1"}, []string{"1", "2"}, anotherCaddy, false},
		{"trace of another Caddy that was led there", traceCommand(), []string{"--dial", "<site>"}, both, []string{"1"}, []string{"1"},
			"another Caddy answers there\n       name its admin API with --address\n", false},
		{"trace of a site without a gate", traceCommand(), nil, both, []string{"1"}, nil, anotherPort, false},
		{"check of a site without a gate", checkCommand(), tokens, both, []string{"1"}, nil, anotherPort, false},
		{"as JSON", checkCommand(), append(tokens, "--json"), both, []string{"1"}, nil, anotherPort, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			known := status.Status{Wrong: wrong, Ports: c.ports}
			for _, hosts := range c.hosts {
				known.Gates = append(known.Gates, status.Gate{Hosts: hosts, Ports: c.gated})
			}
			addr := wrongSite(t, known, []gate.Trace{}, []gate.Trace{})
			_, port, _ := strings.Cut(addr, ":")
			for i, arg := range c.args {
				c.args[i] = strings.ReplaceAll(arg, "<site>", addr)
			}
			out, err := run(c.command, append([]string{"http://" + addr + "/metrics", "--address", addr}, c.args...)...)
			told := strings.NewReplacer("<site>", addr, "<port>", port).Replace(c.told)
			if exitCode(err) == 0 || !strings.Contains(out, told) || strings.Contains(out, "YOUR ADDRESS") == (c.told == faults) ||
				strings.Contains(out, faults) != c.faults || strings.Contains(out, "Look for") || strings.Contains(out, "FAIL") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestTracedRequest is what the flags of trace come to.
func TestTracedRequest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("Cookie: a=b\n\nx-two: 1\nX-Two: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := tracedRequest("", "http://site.test/a?b", []string{"@" + file, "Host: other.test", "Content-Type: text/x"}, `{"a":1}`)
	if err != nil || r.Method != "POST" || r.Host != "other.test" || r.ContentLength != 7 {
		t.Fatalf("%+v, %v", r, err)
	}
	want := http.Header{"Cookie": {"a=b"}, "X-Two": {"1", "2"}, "Content-Type": {"text/x"}}
	if diff := cmp.Diff(want, r.Header); diff != "" {
		t.Error(diff)
	}
	for body, want := range map[string]string{
		`{"a":1}`: "application/json", "[]": "application/json", "a=b&c=%7B": "application/x-www-form-urlencoded",
		"hello there": "text/plain; charset=utf-8", "\x1f\x8b\x08": "application/x-gzip",
	} {
		if got := contentTypeOf([]byte(body)); got != want {
			t.Errorf("%q is %s, want %s", body, got, want)
		}
	}
	for _, args := range [][3]string{{"site.test", "", ""}, {"http://site.test", "nonsense t0ken", ""}, {"http://site.test", "@nosuch", ""}, {"http://site.test", "", "@nosuch"}} {
		_, err := tracedRequest("", args[0], append([]string{}, args[1]), args[2])
		if err == nil && args[1] != "" || err == nil && args[0] == "site.test" || err == nil && args[2] != "" || err != nil && strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
