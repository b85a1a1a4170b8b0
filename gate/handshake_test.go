package gate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

const firefoxAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"

// handshakeConfig is fxaConfig with the handshake.
func handshakeConfig(tb testing.TB, handshake Handshake) Config {
	config := fxaConfig(tb)
	config.WriteBack = true
	config.Handshake = &handshake
	return config
}

func handshakeGate(tb testing.TB, handshake Handshake) *Gate {
	return newGate(tb, handshakeConfig(tb, handshake))
}

// ask sends a request through the gate, with headers as "Name: value", and
// returns the reply and what the application saw of it, if it did.
func ask(tb testing.TB, g *Gate, line, body, page string, headers ...string) (*httptest.ResponseRecorder, *http.Request) {
	tb.Helper()
	method, target, _ := strings.Cut(line, " ")
	r, w := request(method, target, body, headerOf(headers))
	var passed *http.Request
	err := g.ServeHTTP(w, r, NextFunc(func(w http.ResponseWriter, r *http.Request) error {
		passed = r.Clone(r.Context())
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("ETag", `"1"`)
		_, err := w.Write([]byte(page))
		return err
	}))
	wait(tb, g)
	if err != nil {
		tb.Fatal(err)
	}
	return w, passed
}

// headerOf reads headers that are written as "Name: value".
func headerOf(lines []string) map[string]string {
	header := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		header[name] = value
	}
	return header
}

const sameOrigin = "Sec-Fetch-Site: same-origin"

func TestSignalReports(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{Embedders: []string{"https://www.example.org"}})
	const attributes = "; Path=/; Max-Age=15552000; HttpOnly; Secure; SameSite=Lax"
	for _, c := range []struct {
		name, body, cookie string
		headers            []string
		status             int
		want               string
	}{
		{name: "opted out", body: `{"metrics_optout":true}`, status: 204, want: "metrics_optout=1" + attributes},
		{name: "no objection", body: `{}`, status: 204, want: "metrics_optout=0" + attributes},
		{name: "no answer", body: `{"answered":false}`, status: 204, want: "metrics_optout=none; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "an opt-out wins", body: `{"answered":false,"metrics_optout":true}`, status: 204, want: "metrics_optout=1" + attributes},
		{name: "unknown keys", body: `{"more":[1],"Metrics_Optout":true}`, status: 204, want: "metrics_optout=0" + attributes},
		{
			name: "framed", body: `{"metrics_optout":true,"framed":true}`, status: 204,
			want: "metrics_optout=1; Path=/; Max-Age=15552000; HttpOnly; Secure; SameSite=None; Partitioned",
		},
		{name: "no objection takes back", body: `{}`, cookie: "1", status: 204, want: "metrics_optout=0" + attributes},
		{name: "no objection leaves a choice", body: `{}`, cookie: "true", status: 204},
		{name: "opted out leaves a choice", body: `{"metrics_optout":true}`, cookie: "true", status: 204},
		{name: "no objection leaves what is remembered", body: `{}`, cookie: "account", status: 204},
		{name: "no answer beside others", body: `{"answered":false}`, cookie: "none; metrics_optout=1", status: 204},
		{name: "opted out beside others", body: `{"metrics_optout":true}`, cookie: "none; metrics_optout=0", status: 204, want: "metrics_optout=1" + attributes},
		{name: "no answer takes nothing back", body: `{"answered":false}`, cookie: "1", status: 204},
		{name: "another site", body: `{}`, headers: []string{"Sec-Fetch-Site: cross-site"}, status: 403},
		{name: "a sibling", body: `{}`, headers: []string{"Sec-Fetch-Site: same-site"}, status: 403},
		{name: "another origin", body: `{}`, headers: []string{"Origin: http://evil.example"}, status: 403},
		{name: "this origin", body: `{}`, headers: []string{"Origin: http://example.com"}, status: 204, want: "metrics_optout=0" + attributes},
		{name: "another scheme", body: `{}`, headers: []string{"Origin: https://example.com"}, status: 403},
		{
			name: "a scheme that anybody forwards", body: `{}`,
			headers: []string{"Origin: https://example.com", "X-Forwarded-Proto: https"}, status: 403,
		},
		{name: "no JSON", body: `metrics_optout`, status: 400},
		{name: "no object", body: `null`, status: 400},
		{name: "a list", body: `[]`, status: 400},
		{name: "a string", body: `{"metrics_optout":"true"}`, status: 400},
		{name: "nothing", status: 400},
		{name: "too much", body: `{"x":"` + strings.Repeat("x", maxReport) + `"}`, status: 413},
		{name: "another type", body: `{}`, headers: []string{sameOrigin, "Content-Type: text/plain"}, status: 415},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			headers := c.headers
			if headers == nil {
				headers = []string{sameOrigin}
			}
			if c.status != 415 {
				headers = append(headers, "Content-Type: application/json")
			}
			if c.cookie != "" {
				headers = append(headers, "Cookie: metrics_optout="+c.cookie)
			}
			w, passed := ask(t, g, "POST /.well-known/metrics-gate/signal", c.body, "", headers...)
			if got := w.Header().Get("Set-Cookie"); w.Code != c.status || got != c.want || passed != nil {
				t.Errorf("status %d, cookie %q, passed on: %t; want %d, %q", w.Code, got, passed != nil, c.status, c.want)
			}
		})
	}
}

func TestProbing(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{})
	for _, c := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"Firefox that said nothing", []string{"User-Agent: " + firefoxAgent}, "probing"},
		{"another browser", []string{"User-Agent: Mozilla/5.0 Chrome/156.0"}, "default"},
		{"no objection", []string{"User-Agent: " + firefoxAgent, "Cookie: metrics_optout=0"}, "default"},
		{"no answer", []string{"User-Agent: " + firefoxAgent, "Cookie: metrics_optout=none"}, "default"},
		{"opted out", []string{"User-Agent: " + firefoxAgent, "Cookie: metrics_optout=1"}, "signal"},
		{"a session without a choice", []string{"User-Agent: " + firefoxAgent, "Cookie: " + sessionOf(t, unsetUID)}, "probing"},
		{"a session without a choice, no objection", []string{"User-Agent: " + firefoxAgent, "Cookie: metrics_optout=0; " + sessionOf(t, unsetUID)}, "default"},
		{"a session that allows", []string{"User-Agent: " + firefoxAgent, "Cookie: " + sessionOf(t, allowedUID)}, "explicit_allow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			header := headerOf(c.headers)
			header["Content-Type"] = "application/json"
			r, _ := request(http.MethodPost, "/metrics", `{"uid":"none"}`, header)
			if got := g.engine.Gated(r, g.routes.match(http.MethodPost, "/metrics"), nil).decision; got.Reason.String() != c.want {
				t.Errorf("%s, want %s", got.Reason, c.want)
			}
		})
	}
}

func TestSticky(t *testing.T) {
	t.Parallel()
	const beacon = `{"uid":"none"}`
	for _, c := range []struct {
		name              string
		options           Handshake
		uid, cookie, want string
	}{
		{name: "opted out", uid: optedOutUID, want: "metrics_optout=account; Path=/; Max-Age=15552000; HttpOnly; Secure; SameSite=Lax"},
		{name: "cookie_life", options: Handshake{CookieLife: time.Hour}, uid: optedOutUID, want: "metrics_optout=account; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"},
		{name: "already", uid: optedOutUID, cookie: "account"},
		{name: "what a person chose is more", uid: optedOutUID, cookie: "true"},
		{name: "beside others", uid: optedOutUID, cookie: "0; metrics_optout=none", want: "metrics_optout=account; Path=/; Max-Age=15552000; HttpOnly; Secure; SameSite=Lax"},
		{name: "off", options: Handshake{NotSticky: true}, uid: optedOutUID},
		{name: "the browser's own", uid: unsetUID, cookie: "1"},
		{name: "allowed leaves what a person chose", uid: allowedUID, cookie: "true"},
		{name: "and does so beside it", uid: allowedUID, cookie: "account; metrics_optout=true"},
		{name: "allowed again", uid: allowedUID, cookie: "account", want: "metrics_optout=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"},
		{name: "allowed takes nothing else back", uid: allowedUID, cookie: "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := ask(t, handshakeGate(t, c.options), "POST /metrics", beacon, "",
				"Content-Type: application/json", "Cookie: "+sessionOf(t, c.uid)+"; metrics_optout="+c.cookie)
			if got := w.Header().Get("Set-Cookie"); got != c.want {
				t.Errorf("cookie %q, want %q", got, c.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{})
	for _, c := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"opted out", []string{sameOrigin, "Cookie: " + sessionOf(t, optedOutUID)}, `{"metrics_optout":true,"source":"preference"}`},
		{"allowed", []string{sameOrigin, "Cookie: " + sessionOf(t, allowedUID)}, `{"metrics_optout":false,"source":"preference"}`},
		{"signal", []string{sameOrigin, "Cookie: metrics_optout=1"}, `{"metrics_optout":true,"source":"signal"}`},
		{"nobody", []string{sameOrigin}, `{"metrics_optout":false,"source":"default"}`},
		{"probing", []string{sameOrigin, "User-Agent: " + firefoxAgent}, `{"metrics_optout":null,"source":"unknown"}`},
		{"a session that does not hold", []string{sameOrigin, "Cookie: session=x"}, `{"metrics_optout":null,"source":"unknown"}`},
		{"no browser", nil, `{"metrics_optout":false,"source":"default"}`},
		{"another site", []string{"Sec-Fetch-Site: cross-site"}, "403"},
		{"a sibling", []string{"Sec-Fetch-Site: same-site"}, "403"},
		{"typed", []string{"Sec-Fetch-Site: none"}, "403"},
		{"another origin", []string{"Origin: https://example.org"}, "403"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := ask(t, g, "GET /.well-known/metrics-gate/status", "", "", c.headers...)
			got := strings.TrimSpace(w.Body.String())
			if w.Code == http.StatusForbidden {
				got = "403"
			}
			if got != c.want || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%q, %v; want %q", got, w.Header(), c.want)
			}
		})
	}
}

// TestStatusWhereNothingProves: what is sent may name an account, and no request
// can prove one, so nobody is told that they are measured.
func TestStatusWhereNothingProves(t *testing.T) {
	t.Parallel()
	const status = "GET /.well-known/metrics-gate/status"
	named := handshakeConfig(t, Handshake{AccountURL: "https://accounts.example.org/settings"})
	named.Sessions = nil
	for name, test := range map[string]struct {
		config  Config
		headers []string
		want    string
	}{
		"a name may decide":  {named, []string{sameOrigin}, `{"metrics_optout":null,"source":"unknown"}`},
		"the browser did":    {named, []string{sameOrigin, "Cookie: metrics_optout=1"}, `{"metrics_optout":true,"source":"signal"}`},
		"no name can either": {Config{Routes: []Route{{Methods: []string{"POST"}, Path: "/beacon"}}, Handshake: &Handshake{}}, []string{sameOrigin}, `{"metrics_optout":false,"source":"default"}`},
	} {
		w, _ := ask(t, newGate(t, test.config), status, "", "", test.headers...)
		if got := strings.TrimSpace(w.Body.String()); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	w, _ := ask(t, newGate(t, named), "GET /.well-known/metrics-gate/preference", "", "")
	if page := w.Body.String(); !strings.Contains(page, "That can depend on your account.") || !strings.Contains(page, `href="https://accounts.example.org/settings"`) {
		t.Errorf("the preference page is %s", page)
	}
}

func TestOwnAddressesPassWhereTheirFeatureIsOff(t *testing.T) {
	t.Parallel()
	shadow := handshakeConfig(t, Handshake{})
	shadow.Shadow = true
	for name, config := range map[string]Config{"no handshake": fxaConfig(t), "shadow": shadow} {
		for _, own := range []string{"handshake.js", "status", "preference", "preference.css"} {
			if _, passed := ask(t, newGate(t, config), "GET /.well-known/metrics-gate/"+own, "", ""); passed == nil {
				t.Errorf("%s: %s did not pass", name, own)
			}
		}
	}
	if _, passed := ask(t, handshakeGate(t, Handshake{}), "GET /.well-known/metrics-gate/else", "", ""); passed == nil {
		t.Error("an address that is nobody's did not pass")
	}
}

func TestPagesAreChanged(t *testing.T) {
	t.Parallel()
	const page = "<!doctype html><html><head><meta name=flags content=\"%7B%22rate%22%3A1%2C%22other%22%3A2%7D\"><title>x</title></head><body></body></html>"
	config := fxaConfig(t)
	config.Handshake = &Handshake{}
	config.ExperimentParams = []string{"forceExperiment", "forceExperimentGroup"}
	config.FeatureFlags = []FeatureFlags{{Meta: "flags", Flags: map[string]json.RawMessage{"rate": json.RawMessage("0")}}}
	g := newGate(t, config)
	const navigate = "Sec-Fetch-Dest: document"
	inserted := func(w *httptest.ResponseRecorder) string {
		before, after, _ := strings.Cut(w.Body.String(), "<head>")
		if before != "<!doctype html><html>" {
			t.Errorf("the document begins with %q", before)
		}
		tag, _, _ := strings.Cut(after, "</script>")
		return tag
	}

	w, passed := ask(t, g, "GET /?a=1&forceExperiment=x&b=%20&force%45xperimentGroup=y", "", page,
		navigate, "Accept-Encoding: gzip", "If-None-Match: \"1\"", "Range: bytes=0-", "Cookie: "+sessionOf(t, optedOutUID))
	if passed.URL.RawQuery != "a=1&b=%20" || passed.RequestURI != "/?a=1&b=%20" {
		t.Errorf("the application got %q, %q", passed.URL.RawQuery, passed.RequestURI)
	}
	if passed.Header.Get("Accept-Encoding") != "identity" || passed.Header.Get("If-None-Match")+passed.Header.Get("Range") != "" {
		t.Errorf("the application got %v", passed.Header)
	}
	if tag := inserted(w); !strings.HasPrefix(tag, `<script src="/.well-known/metrics-gate/handshake.js?v=`) ||
		!strings.Contains(tag, `data-strip="forceExperiment forceExperimentGroup"`) {
		t.Errorf("inserted %q", tag)
	}
	if !strings.Contains(w.Body.String(), `content="%7B%22other%22%3A2%2C%22rate%22%3A0%7D"`) {
		t.Errorf("the flags are not overridden in %s", w.Body)
	}
	if w.Header().Get("Cache-Control") != "private, no-cache" || w.Header().Get("ETag") != "" {
		t.Errorf("header %v", w.Header())
	}

	w, passed = ask(t, g, "GET /?forceExperiment=x", "", page, navigate, "Cookie: "+sessionOf(t, allowedUID))
	if passed.URL.RawQuery != "forceExperiment=x" || strings.Contains(inserted(w), "data-strip") ||
		!strings.Contains(w.Body.String(), `content="%7B%22rate%22%3A1%2C%22other%22%3A2%7D"`) {
		t.Errorf("who allowed got %q and %s", passed.URL.RawQuery, w.Body)
	}
	if w.Header().Get("Cache-Control") != "private, no-cache" {
		t.Errorf("who allowed got %v", w.Header())
	}

	w, passed = ask(t, g, "HEAD /", "", "", navigate, "If-None-Match: \"1\"")
	if w.Header().Get("Cache-Control") != "private, no-cache" || passed.Header.Get("If-None-Match") == "" {
		t.Errorf("HEAD got %v", w.Header())
	}

	// What is no navigation is not touched.
	w, passed = ask(t, g, "GET /part", "", page, "Sec-Fetch-Dest: empty", "Accept-Encoding: gzip")
	if w.Body.String() != page || passed.Header.Get("Accept-Encoding") != "gzip" || w.Header().Get("ETag") == "" {
		t.Errorf("a fetch got %v, %s", w.Header(), w.Body)
	}
	if w, _ = ask(t, handshakeGate(t, Handshake{NoInject: true}), "GET /", "", page, navigate); w.Body.String() != page || w.Header().Get("ETag") == "" {
		t.Errorf("inject off: %s", w.Body)
	}
}

// TestPagesAskForAReport holds the case of somebody who signs in after the
// handshake: their browser has reported already, and their profile must still
// learn of it.
func TestPagesAskForAReport(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{})
	for _, c := range []struct {
		name    string
		headers []string
		want    bool
	}{
		{"nobody", nil, false},
		{"nobody, opted out", []string{"Cookie: metrics_optout=1"}, false},
		{"no choice in the account, opted out", []string{"Cookie: " + sessionOf(t, unsetUID) + "; metrics_optout=1"}, true},
		{"no choice in the account, somebody else's choice for the browser", []string{"Cookie: " + sessionOf(t, unsetUID) + "; metrics_optout=true"}, false},
		{"no choice in the account", []string{"Cookie: " + sessionOf(t, unsetUID) + "; metrics_optout=0"}, false},
		{"Firefox that said nothing", []string{"User-Agent: " + firefoxAgent}, true},
		{"no choice in the account, Firefox that lost its cookie", []string{"User-Agent: " + firefoxAgent, "Cookie: " + sessionOf(t, unsetUID)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := ask(t, g, "GET /", "", "<head></head>", append(c.headers, "Sec-Fetch-Dest: document")...)
			if got := strings.Contains(w.Body.String(), "data-report"); got != c.want {
				t.Errorf("asks: %t, want %t", got, c.want)
			}
		})
	}
}

func TestPreferenceForm(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{})
	const form = "Content-Type: application/x-www-form-urlencoded"
	for _, c := range []struct {
		name, body string
		headers    []string
		status     int
		cookie     string
	}{
		{"this browser", "choice=browser_optout", []string{sameOrigin}, 303, "metrics_optout=true"},
		{"this browser, beside others", "choice=browser_optout", []string{sameOrigin, "Cookie: metrics_optout=0; metrics_optout=none"}, 303, "metrics_optout=true"},
		{"undone", "choice=browser_undo", []string{sameOrigin, "Cookie: metrics_optout=true"}, 303, "metrics_optout="},
		{"an account's choice", "choice=optout", []string{sameOrigin, "Cookie: " + sessionOf(t, unsetUID)}, 303, "metrics_optout=account"},
		{"this browser, beside an account's", "choice=browser_optout", []string{sameOrigin, "Cookie: metrics_optout=account"}, 303, "metrics_optout=true"},
		{"an account's is undone with the browser's", "choice=browser_undo", []string{sameOrigin, "Cookie: metrics_optout=account"}, 303, "metrics_optout="},
		{"following forgets the account", "choice=follow", []string{sameOrigin, "Cookie: metrics_optout=account; " + sessionOf(t, unsetUID)}, 303, "metrics_optout="},
		{"following leaves the browser's mark", "choice=follow", []string{sameOrigin, "Cookie: metrics_optout=true; " + sessionOf(t, unsetUID)}, 303, ""},
		{"allowing leaves it as well", "choice=allow", []string{sameOrigin, "Cookie: metrics_optout=true; " + sessionOf(t, unsetUID)}, 303, ""},
		{"allowing forgets the account", "choice=allow", []string{sameOrigin, "Cookie: metrics_optout=account; " + sessionOf(t, unsetUID)}, 303, "metrics_optout="},
		{"the account's own form", "choice=allow&account=" + formAccount(unsetUID), []string{sameOrigin, "Cookie: " + sessionOf(t, unsetUID)}, 303, ""},
		{"another account's form", "choice=allow&account=" + formAccount(allowedUID), []string{sameOrigin, "Cookie: " + sessionOf(t, unsetUID)}, 409, ""},
		{"nobody's", "choice=optout", []string{sameOrigin}, 403, ""},
		{"no choice", "choice=all", []string{sameOrigin}, 400, ""},
		{"another site", "choice=browser_optout", []string{"Sec-Fetch-Site: cross-site"}, 403, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := ask(t, g, "POST /.well-known/metrics-gate/preference", c.body, "", append(c.headers, form)...)
			cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
			if w.Code != c.status || cookie != c.cookie || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("status %d, cookie %q, %v", w.Code, cookie, w.Header())
			}
		})
	}
	w, _ := ask(t, g, "GET /.well-known/metrics-gate/preference", "", "", "Cookie: "+sessionOf(t, unsetUID))
	if !strings.Contains(w.Body.String(), `name="account" value="`+formAccount(unsetUID)+`"`) {
		t.Errorf("the form does not say whose it is:\n%s", w.Body)
	}
	for header, want := range map[string]bool{sameOrigin: true, "Sec-Fetch-Site: cross-site": false} {
		w, _ := ask(t, g, "GET /.well-known/metrics-gate/preference?saved", "", "", header)
		if got := strings.Contains(w.Body.String(), `role="status"`); got != want {
			t.Errorf("%s: says saved: %t", header, got)
		}
	}
}

// hurried is a client whose connection has deadlines.
type hurried struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (h *hurried) SetReadDeadline(deadline time.Time) error {
	h.deadline = deadline
	return nil
}

func TestBodiesHaveADeadline(t *testing.T) {
	t.Parallel()
	g := handshakeGate(t, Handshake{})
	for own, contentType := range map[string]string{"signal": "application/json", "preference": "application/x-www-form-urlencoded"} {
		r, recorder := request(http.MethodPost, "/.well-known/metrics-gate/"+own, "{}", map[string]string{"Content-Type": contentType})
		client := &hurried{ResponseRecorder: recorder}
		if err := g.ServeHTTP(client, r, NextFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(client.deadline); left <= 0 || left > bodyTime {
			t.Errorf("%s: the deadline is %v away", own, left)
		}
	}
}

// FuzzSignalReport holds that only a body which says true, as a JSON object by
// the letter, is ever taken for an opt-out.
func FuzzSignalReport(f *testing.F) {
	for _, body := range []string{
		`{"metrics_optout":true}`, `{}`, `{"answered":false}`, `{"framed":true}`, `null`, `[]`, `{"metrics_optout":"true"}`,
		`{"metrics_optout":true,"metrics_optout":false}`, `{"Metrics_Optout":true}`, ` { "metrics_optout" : true } `,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r, w := request(http.MethodPost, "/", body, map[string]string{"Content-Type": "application/json"})
		report, status := readReport(w, r, maxReport)
		var says map[string]any
		if report.optedOut && status == 0 && (json.Unmarshal([]byte(body), &says) != nil || says["metrics_optout"] != true) {
			t.Errorf("%q is taken for an opt-out", body)
		}
		if len(body) > maxReport && status != http.StatusRequestEntityTooLarge {
			t.Errorf("%d bytes: status %d", len(body), status)
		}
		if status != 0 && status != http.StatusBadRequest && status != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d", status)
		}
	})
}

// TestPresetsPages: with a handshake the preset takes blocked users' pages out of
// the client's own experiments, and switches off what beacons past the edge, for
// the client of each time. One's own flags add to that, and win.
func TestPresetsPages(t *testing.T) {
	t.Parallel()
	meta := func(name, content string) string {
		return `<meta name="` + name + `" content="` + url.PathEscape(content) + `">`
	}
	page := "<head>" +
		meta("fxa-config", `{"glean":{"enabled":true,"uploadEnabled":true,"channel":"x"},"sentry":{"dsn":"https://k@sentry.example.net/1","sampleRate":1},"env":"prod"}`) +
		meta("fxa-feature-flags", `{"metricsSampleRate":1,"tokenCodeClients":{"sync":{"groups":["a"],"rolloutRate":1}}}`) + "</head>"
	flagsOf := func(config Config, uid, name string) string {
		w, _ := ask(t, newGate(t, config), "GET /?forceExperiment=x&a=1", "", page, "Sec-Fetch-Dest: document", "Cookie: metrics_optout=0; "+sessionOf(t, uid))
		_, content, _ := strings.Cut(w.Body.String(), `<meta name="`+name+`" content="`)
		content, _, _ = strings.Cut(content, `"`)
		decoded, err := url.PathUnescape(content)
		if err != nil {
			t.Fatal(err)
		}
		return decoded
	}
	const off = `{"env":"prod","glean":{"channel":"x","enabled":false,"uploadEnabled":false},"sentry":{"dsn":"","sampleRate":0}}`
	stock := handshakeConfig(t, Handshake{})
	if got := flagsOf(stock, optedOutUID, "fxa-config"); got != off {
		t.Errorf("opted out: fxa-config %s", got)
	}
	if got := flagsOf(stock, optedOutUID, "fxa-feature-flags"); got != `{"metricsSampleRate":0,"sentrySampleRate":0,"smsCountries":{},"tokenCodeClients":{"sync":{"groups":["a"],"rolloutRate":0}}}` {
		t.Errorf("opted out: fxa-feature-flags %s", got)
	}
	for name, config := range map[string]Config{"allowed": stock, "without a handshake": fxaConfig(t)} {
		uid := map[string]string{"allowed": allowedUID, "without a handshake": optedOutUID}[name]
		if got := flagsOf(config, uid, "fxa-config"); !strings.Contains(got, `"enabled":true`) {
			t.Errorf("%s: fxa-config %s", name, got)
		}
	}
	own := handshakeConfig(t, Handshake{})
	own.FeatureFlags = []FeatureFlags{{Meta: "fxa-config", Flags: map[string]json.RawMessage{"sentry.dsn": json.RawMessage(`"mine"`), "more": json.RawMessage("1")}}}
	want := strings.NewReplacer(`"dsn":""`, `"dsn":"mine"`, `,"sentry"`, `,"more":1,"sentry"`).Replace(off)
	if got := flagsOf(own, optedOutUID, "fxa-config"); got != want {
		t.Errorf("one's own: fxa-config %s, want %s", got, want)
	}
}
