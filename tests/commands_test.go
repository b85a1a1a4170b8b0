package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// caddy metrics-gate token mints what the gate takes for a session.
func TestTokenCommand(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", "session jwt {\ncookie session\nkey "+testcaddy.FromFile("rsa.pub")+"\nkey "+testcaddy.FromFile("ec.pub")+"\nkey "+testcaddy.FromFile("ed.pub")+
		"\nissuer "+testcaddy.SessionIssuer+"\naudience web\n}", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)

	for file, c := range map[string]struct {
		algorithms []string
		key        any
	}{
		"session.secret": {[]string{"HS256"}, []byte(testcaddy.SessionSecret)},
		"rsa.key":        {[]string{"RS256"}, testcaddy.RSAKey.Public()},
		"ec.key":         {[]string{"ES256"}, testcaddy.ECKey.Public()},
		"ed.key":         {[]string{"EdDSA"}, testcaddy.EdKey.Public()},
	} {
		for uid, want := range map[string]string{out: "block", in: "collect"} {
			stdout, stderr, code := testcaddy.Command(t, "metrics-gate", "token", "--uid", uid, "--key", testcaddy.KeyFile(file), "--issuer", testcaddy.SessionIssuer,
				"--audience", "web", "--client-id", "tester", "--scope", "profile openid", "--lifetime", "90m")
			token := strings.TrimSuffix(stdout, "\n")
			if code != 0 || strings.ContainsAny(token, " \n") {
				t.Fatalf("%s: exit %d, %q, %s", file, code, stdout, stderr)
			}
			got := jwt.MapClaims{}
			if _, err := jwt.ParseWithClaims(token, got, func(*jwt.Token) (any, error) { return c.key, nil }, jwt.WithValidMethods(c.algorithms)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			issued, _ := got["iat"].(float64)
			expires, _ := got["exp"].(float64)
			if got["sub"] != uid || got["iss"] != testcaddy.SessionIssuer || got["client_id"] != "tester" || got["scope"] != "profile openid" ||
				expires-issued != 5400 || time.Since(time.Unix(int64(issued), 0)).Abs() > time.Minute {
				t.Errorf("%s: the claims are %v", file, got)
			}
			if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(token)); a.decision() != want {
				t.Errorf("%s: %s, want %s", file, a.decision(), want)
			}
		}
	}

	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("too short a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"no uid":             {"--key", testcaddy.KeyFile("session.secret")},
		"no key":             {"--uid", in},
		"a key that is gone": {"--uid", in, "--key", short + ".gone"},
		"a short secret":     {"--uid", in, "--key", short},
		"a public key":       {"--uid", in, "--key", testcaddy.KeyFile("rsa.pub")},
		"an unknown flag":    {"--uid", in, "--key", testcaddy.KeyFile("session.secret"), "--forever"},
	} {
		stdout, stderr, code := testcaddy.Command(t, append([]string{"metrics-gate", "token"}, args...)...)
		if code == 0 || strings.TrimSpace(stderr) == "" || strings.Count(stdout, ".") == 2 {
			t.Errorf("%s: exit %d, printed %q, said %q", name, code, stdout, stderr)
		}
		if strings.Contains(stderr, "too short a secret") {
			t.Errorf("%s: the error tells the secret", name)
		}
	}
}

// What caddy metrics-gate does not know is an error, for scripts as well.
func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"stauts", 1, []string{`"stauts"`, "backup, check, daily"}},
		{"chekc http://localhost", 1, []string{"did you mean check?", "backup, check, daily"}},
		{"preferences stauts", 1, []string{`"stauts"`, "export, forget, import, move, show"}},
		{"preferences exprot --store x", 1, []string{"did you mean export?", "export, forget, import, move, show"}},
		{"", 0, []string{"Available Commands:", "explain", "preferences"}},
		{"preferences", 0, []string{"Available Commands:", "export", "import"}},
		{"--help", 0, []string{"Available Commands:"}},
	} {
		stdout, stderr, code := testcaddy.Command(t, append([]string{"metrics-gate"}, strings.Fields(c.args)...)...)
		if code != c.code || (stdout == "") != (c.code != 0) || (stderr == "") != (c.code == 0) {
			t.Errorf("%q: exit %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
		for _, want := range c.want {
			if !strings.Contains(stdout+stderr, want) {
				t.Errorf("%q: %q is missing in\n%s%s", c.args, want, stdout, stderr)
			}
		}
	}
}

// caddy metrics-gate explain says what the table says.
func TestExplainCommand(t *testing.T) {
	t.Parallel()
	signals := map[string]string{"none": "", "opted_out": "opted out", "no_objection": "no objection", "unrecorded": "unrecorded", "probing": "probing"}
	type ask struct {
		session, preference, signal string
		options                     policyOptions
		named                       []preference
	}
	usual := policyOptions{"block", "collect"}
	for _, c := range []ask{
		{"verified", "true", "none", usual, nil},
		{"verified", "true", "no_objection", policyOptions{"collect", "collect"}, nil},
		{"verified", "false", "opted_out", usual, nil},
		{"verified", "null", "opted_out", usual, nil},
		{"verified", "null", "unrecorded", usual, nil},
		{"verified", "null", "none", usual, nil},
		{"verified", "null", "none", policyOptions{"block", "block"}, nil},
		{"verified", "unknown", "none", usual, nil},
		{"verified", "unknown", "none", policyOptions{"collect", "collect"}, nil},
		{"verified", "unknown", "opted_out", policyOptions{"collect", "collect"}, nil},
		{"verified", "false", "none", usual, []preference{unset, optOut}},
		{"verified", "null", "none", usual, []preference{unknown}},
		{"verified", "null", "probing", usual, nil},
		{"verified", "null", "none", policyOptions{"collect", "collect"}, []preference{unlearnable}},
		{"unverifiable", "null", "opted_out", usual, nil},
		{"unverifiable", "null", "none", usual, nil},
		{"unverifiable", "null", "none", policyOptions{"collect", "block"}, nil},
		{"none", "null", "opted_out", usual, nil},
		{"none", "null", "probing", usual, nil},
		{"none", "null", "probing", policyOptions{"collect", "block"}, nil},
		{"none", "null", "no_objection", usual, nil},
		{"none", "null", "none", usual, []preference{allow, unset, optOut}},
		{"expired", "null", "none", usual, []preference{optOut}},
		{"expired", "null", "opted_out", usual, nil},
	} {
		want := c.options.judge(c.session, c.preference, signals[c.signal], c.named)
		args := []string{"metrics-gate", "explain", "--session", c.session, "--preference", c.preference, "--signal", c.signal,
			"--on-unknown", c.options.onUnknown, "--on-unset", c.options.onUnset}
		if c.named != nil {
			var named []string
			for _, name := range c.named {
				named = append(named, strings.Replace(string(name), string(unlearnable), "hidden", 1))
			}
			args = append(args, "--named", strings.Join(named, ","))
		}
		stdout, stderr, code := testcaddy.Command(t, args...)
		words := strings.FieldsFunc(stdout, func(r rune) bool { return strings.ContainsRune(" \n\t:|`,.", r) })
		if code != 0 || !slices.Contains(words, want.decision) || !slices.Contains(words, want.reason) {
			t.Errorf("%q: exit %d, want %s because of %s\n%s%s", args[2:], code, want.decision, want.reason, stdout, stderr)
		}
		if !strings.Contains(stdout, "| "+c.session) && !strings.Contains(stdout, c.session+" |") && !strings.Contains(stdout, "named") && !strings.Contains(stdout, "none, or expired") {
			t.Errorf("%q: no row of the table\n%s", args[2:], stdout)
		}
	}
	for _, args := range [][]string{
		{"--preference", "maybe"}, {"--signal", "loud"}, {"--session", "old"}, {"--on-unknown", "ask"}, {"--named", "true,maybe"}, {"stray"},
	} {
		if stdout, stderr, code := testcaddy.Command(t, append([]string{"metrics-gate", "explain"}, args...)...); code == 0 || stderr == "" {
			t.Errorf("%q: exit %d, printed %q", args, code, stdout)
		}
	}
}

// caddy metrics-gate check tells a gate that keeps the promise from one that
// does not, by how its own two beacons are decided, however busy other sites are.
func TestCheckCommand(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	good, shadowed, open, renamed, issuer, late := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	ask := testcaddy.SessionJWT() + "\n" + profile.block(patient)
	caddy := testcaddy.Start(t,
		testcaddy.Site(good, testcaddy.Gate("preset fxa", ask), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(shadowed, "metrics_gate shadow {\npreset fxa\n"+ask+"\n}", testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(open, testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(renamed, testcaddy.Gate("preset fxa", strings.Replace(ask, "cookie session", "cookie sid", 1)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(issuer, testcaddy.Gate("preset fxa", strings.Replace(ask, "issuer ", "issuer not-", 1)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(late, "route {\n"+testcaddy.ProxyTo(behind.addr())+"\n"+testcaddy.Gate("preset fxa", ask)+"\n}"))
	out, in, unchosen := testcaddy.Session(profile.account(optOut)), testcaddy.Session(profile.account(allow)), testcaddy.Session(profile.account(unset))
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(out+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, done := make(chan struct{}), make(chan struct{})
	go func() { // another site that keeps the promise, and counts it
		defer close(done)
		often := time.NewTicker(5 * time.Millisecond)
		defer often.Stop()
		for {
			select {
			case <-busy:
				return
			case <-often.C:
				request, _ := http.NewRequest(http.MethodPost, "http://"+good+"/metrics", nil)
				request.Header.Set("Cookie", "session="+out)
				if response, err := testcaddy.Client.Do(request); err == nil {
					response.Body.Close()
				}
			}
		}
	}()

	for _, c := range []struct {
		name, site, out, allow string
		more                   []string
		code                   int
		says                   string
	}{
		{"a gate that keeps the promise", good, out, in, nil, 0, ""},
		{"no choice allows", good, out, unchosen, nil, 0, "null"},
		{"a token in a file", good, "@" + file, in, nil, 0, ""},
		{"another cookie", renamed, out, in, []string{"--cookie", "sid"}, 0, ""},
		{"another route", good, out, in, []string{"--route", "POST /navigation-timing"}, 0, ""},
		{"shadow", shadowed, out, in, nil, 0, "NOT STOPPED: shadow mode let it through"},
		{"the wrong cookie", renamed, out, in, nil, 1, "--cookie"},
		{"no gate at all, while another site is busy", open, out, in, nil, 3, "it came to no gate: port "},
		{"a gate behind the proxy, while another site is busy", late, out, in, nil, 1, "no gate can see it"},
		{"no route of the gate", good, out, in, []string{"--route", "POST /metricz"}, 1, "--route"},
		{"the opted-out token allows", good, in, in, nil, 1, "has not opted out"},
		{"the opted-out token never opted out", good, unchosen, in, nil, 1, "has not opted out"},
		{"the allowing token opted out", good, out, out, nil, 1, "has opted out"},
		{"the other way round", good, in, out, nil, 1, ""},
		{"the wrong issuer", issuer, out, in, nil, 3, "an issuer of yours"},
		{"the opted-out token does not verify", good, "garbage", in, nil, 3, "malformed"},
		{"the allowing token does not verify", good, out, "garbage", nil, 3, "malformed"},
		{"nobody there", testcaddy.FreeAddr(t), out, in, nil, 3, "did not get through"},
		{"no admin API", good, out, in, []string{"--address", testcaddy.FreeAddr(t)}, 3, "--address"},
		{"a preference that is unknown", good, testcaddy.Session(profile.account(unknown)), in, nil, 3, "profile server"},
	} {
		args := append([]string{"metrics-gate", "check", "http://" + c.site, "--address", caddy.Admin, "--optout-token", c.out, "--allow-token", c.allow}, c.more...)
		stdout, stderr, code := testcaddy.Command(t, args...)
		said := map[int]string{0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[c.code]
		if c.site == shadowed {
			said += ", and NOT STOPPED, since the gate is in shadow mode"
		}
		if code != c.code || !strings.HasSuffix(stdout, said+"\n") || !strings.Contains(stdout, c.says) {
			t.Errorf("%s: exit %d, want %d, %s and %q\n%s%s", c.name, code, c.code, said, c.says, stdout, stderr)
		}
		for _, token := range []string{out, in} {
			if strings.Contains(stdout+stderr, token) {
				t.Errorf("%s: it prints a token", c.name)
			}
		}
		if c.code == 0 && c.site != shadowed {
			findable(t, stdout, behind.log.Where(func(r received) bool {
				_, marker, marked := strings.Cut(r.uri, "?")
				return marked && strings.Contains(stdout, marker)
			}))
		}
	}
	close(busy)
	<-done
}

// check --json is a line of evidence, of a beacon that was recorded, with tokens
// out of the environment.
func TestCheckCommandInATimer(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	recorded := filepath.Join(t.TempDir(), "beacon.json")
	if err := os.WriteFile(recorded, []byte(`{"events":[{"type":"recorded-needle"}],"uid":"{uid}"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, in := profile.account(optOut), profile.account(allow)
	check := []string{"metrics-gate", "check", "http://" + addr, "--address", caddy.Admin, "--body", recorded, "--json"}
	tokens := []string{"METRICS_GATE_OPTOUT_TOKEN=" + testcaddy.Session(out), "METRICS_GATE_ALLOW_TOKEN=" + testcaddy.Session(in)}
	for name, c := range map[string]struct {
		environment, args []string
		code              int
	}{
		"tokens":   {tokens, check, 0},
		"accounts": {nil, append(check, "--optout-uid", out, "--allow-uid", in), 0},
		"neither":  {nil, check, 3},
	} {
		stdout, stderr, code := testcaddy.CommandWith(t, c.environment, c.args...)
		var line struct {
			Time    time.Time
			Verdict string
			Beacons []struct {
				Account, Verdict string
				Traces           []struct{ Decision, Reply string }
			}
		}
		if err := json.Unmarshal([]byte(stdout), &line); err != nil || strings.Count(stdout, "\n") != 1 || code != c.code || time.Since(line.Time).Abs() > time.Hour {
			t.Errorf("%s: exit %d, %v\n%s%s", name, code, err, stdout, stderr)
			continue
		}
		for _, needle := range []string{out, in, "eyJ", "recorded-needle"} {
			if strings.Contains(stdout+stderr, needle) {
				t.Errorf("%s: it prints %q: %s%s", name, needle, stdout, stderr)
			}
		}
		if c.code != 0 {
			continue
		}
		if len(line.Beacons) != 2 || line.Verdict != "PASS" || line.Beacons[0].Traces[0].Decision != "block" || line.Beacons[1].Traces[0].Decision != "collect" {
			t.Errorf("%s: %s", name, stdout)
		}
	}
	arrived := behind.log.Where(func(r received) bool { return strings.Contains(string(r.body), "recorded-needle") })
	if len(arrived) != 2 || arrived[0].header.Get("Content-Type") != "application/json" {
		t.Errorf("%d recorded beacons reached the application, want those of the allowed account", len(arrived))
	}
}

// caddy metrics-gate trace says how a request was decided, or where to look if
// no gate did.
func TestTraceCommand(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, open := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, testcaddy.Gate("label edge", "preset fxa", "signal {\ngpc\n}", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(open, testcaddy.ProxyTo(behind.addr())))
	out := profile.account(optOut)
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Cookie: session="+testcaddy.Session(out)+"; other=c00kie-needle\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"opted out", []string{"http://" + addr + "/metrics", "--data", `{"p4yload-needle":1}`, "-H", "@" + headers}, 0,
			[]string{"The gate edge (enforce)", "route /metrics (metrics)", "jwt: verified", "opted out (true)", "| verified | true | any | block | preference |", "application got nothing"}},
		{"a signal", []string{"http://" + addr + "/metrics", "-X", "POST", "-H", "Sec-GPC: 1"}, 0, []string{"jwt: absent", "opted out", "header Sec-GPC", "block, because of signal"}},
		{"a page", []string{"http://" + addr + "/signin", "-H", "Accept: text/html"}, 0, []string{"is a page", "collect, because of default"}},
		{"named", []string{"http://" + addr + "/metrics", "--data", flushOf(t, profile.account(allow))}, 0, []string{"only named: allows metrics (false)", "hidden", "(2xx)"}},
		{"neither", []string{"http://" + addr + "/asset.js"}, 1, []string{"no gated route"}},
		{"no gate", []string{"http://" + open + "/metrics", "-X", "POST"}, 1, []string{"No gate", "YOUR ADDRESS  port ", "no site there has a gate", "stand at port"}},
		{"as JSON", []string{"http://" + open + "/metrics", "-X", "POST", "--json"}, 1, []string{`"traces": []`}},
		{"nobody there", []string{"http://" + testcaddy.FreeAddr(t)}, 1, []string{"did not get through"}},
		{"no address", []string{addr}, 1, []string{"is not an address"}},
	} {
		stdout, stderr, code := testcaddy.Command(t, append([]string{"metrics-gate", "trace", "--address", caddy.Admin}, c.args...)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d\n%s%s", c.name, code, c.code, stdout, stderr)
		}
		for _, want := range c.says {
			if !strings.Contains(stdout+stderr, want) {
				t.Errorf("%s: it does not say %q\n%s%s", c.name, want, stdout, stderr)
			}
		}
		for _, needle := range []string{out, "eyJ", "c00kie-needle", "p4yload-needle"} {
			if strings.Contains(stdout+stderr, needle) {
				t.Errorf("%s: it prints %q\n%s%s", c.name, needle, stdout, stderr)
			}
		}
	}
}

// Who traces a host that no site has is told which sites have a gate.
func TestTraceOfAnotherHost(t *testing.T) {
	t.Parallel()
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, "http://app.test"+strings.TrimPrefix(testcaddy.Site(addr, "metrics_gate {\npreset fxa\n}", "respond ok"), "http://"))
	for site, want := range map[string]string{
		addr:       "YOUR ADDRESS  host 127.0.0.1: no site of it has a gate; the gates of this Caddy stand in the sites: app.test\n",
		"app.test": "is gated by the route /metrics",
	} {
		if stdout, stderr, _ := caddy.Ask("trace", "http://"+site+"/metrics", "--dial", addr, "-X", "POST"); !strings.Contains(stdout, want) {
			t.Errorf("of %s it does not say %q\n%s%s", site, want, stdout, stderr)
		}
	}
}

// Where the application has no session cookie, check names the accounts in the
// body, as its beacons do.
func TestCheckCommandWithoutSessions(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)
	for said, uids := range map[string][2]string{"PASS": {out, in}, "FAIL": {in, out}} {
		stdout, stderr, code := testcaddy.Command(t, "metrics-gate", "check", "http://"+addr, "--address", caddy.Admin, "--optout-uid", uids[0], "--allow-uid", uids[1])
		if (code == 0) != (said == "PASS") || !strings.Contains(stdout+stderr, said) {
			t.Errorf("%s: exit %d\n%s%s", said, code, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, out) || strings.Contains(stdout+stderr, in) {
			t.Error("it prints an account")
		}
	}
}

// findable tells whether what check printed finds its beacon in the log of the
// application: it got one of the two, and a word of the output is in it.
func findable(t *testing.T, output string, arrived []received) {
	t.Helper()
	if len(arrived) != 1 {
		t.Errorf("%d requests of check reached the application, not one", len(arrived))
		return
	}
	request := arrived[0]
	whole := request.uri + string(request.body) + string(testcaddy.Must(json.Marshal(request.header)))
	for _, word := range strings.FieldsFunc(output, func(r rune) bool { return strings.ContainsRune(" \n\t'\"`,;:()", r) }) {
		if strings.HasPrefix(word, "metrics-gate-check=") && strings.Contains(whole, word) {
			return
		}
	}
	t.Errorf("nothing that check printed finds its beacon:\n%s\nin %s", output, whole)
}
