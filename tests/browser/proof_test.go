package browser_test

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/fxa"
)

// What was told is the body of a report, and its member proof as it was written: "" where
// there is none.
type told struct{ body, proof string }

// An asking site is one whose gate asks for a proof. The gate is a stand-in that
// keeps what the script sends, so that these tests are about the script alone.
type asking struct {
	*httptest.Server
	t       testing.TB
	origin  string
	reports testcaddy.Ledger[told]
	reply   atomic.Pointer[func(told) string] // "" is 204
	slow    atomic.Int64                      // how far the stand-in's clock is behind

	want []string // the proofs so far
	kept string   // what the script kept of the last one, as JSON
}

func newAsking(t testing.TB, proof browser.Proof) *asking {
	t.Helper()
	return newAskingFor(t, proof, 100*time.Millisecond)
}

// newAskingFor is newAsking for a browser that has so long to answer.
func newAskingFor(t testing.TB, proof browser.Proof, timeout time.Duration) *asking {
	t.Helper()
	a := &asking{t: t, kept: "null"}
	script := browser.NewScript(browser.ScriptConfig{Timeout: timeout, Proof: &proof})
	pages := map[string]string{
		"/":       string(script.Tag(browser.TagOptions{})),
		"/other":  string(script.Tag(browser.TagOptions{})),
		"/report": string(script.Tag(browser.TagOptions{Report: true})),
		"/silent": regexp.MustCompile(` data-proof="[^"]*"`).ReplaceAllString(string(script.Tag(browser.TagOptions{})), ""),
		"/plain":  "",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		tag, ok := pages[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", strictPolicy)
		before := ""
		if r.URL.RawQuery == "clock" {
			before = `<script src="/clock.js"></script>`
		}
		_, _ = io.WriteString(w, "<!DOCTYPE html><html><head>"+before+tag+`<script src="/app.js"></script></head><body></body></html>`)
	})
	serve := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = io.WriteString(w, text)
		}
	}
	mux.HandleFunc("/app.js", serve(applicationJS))
	// Time passes when the test says so.
	mux.HandleFunc("/clock.js", serve(`const now = Date.now; window.ahead = 0; Date.now = () => now() + ahead;
		window.setInterval = (tick) => { window.tick = tick; return 1; };`))
	mux.Handle(browser.Base+"handshake.js", script)
	mux.HandleFunc("POST "+browser.Base+"signal", a.take)
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	a.origin = strings.Replace(a.URL, "127.0.0.1", "localhost", 1)
	return a
}

func (a *asking) take(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || r.Header.Get("Content-Type") != "application/json" {
		a.t.Errorf("the report %q cannot be read", body)
	}
	came := told{string(body), string(members["proof"])}
	w.Header().Set("Date", time.Now().UTC().Add(-time.Duration(a.slow.Load())).Format(http.TimeFormat))
	text := ""
	if reply := a.reply.Load(); reply != nil {
		text = (*reply)(came)
	}
	a.reports.Add(came)
	if text == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text)
}

func (a *asking) answer(reply func(told) string) { a.reply.Store(&reply) }

func (a *asking) proofs() (all []string) {
	for _, report := range a.reports.All() {
		if report.proof != "" {
			all = append(all, report.proof)
		}
	}
	return all
}

// comes waits for the next proof, and holds that it is this and that there was
// no other.
func (a *asking) comes(proof string) {
	a.t.Helper()
	a.want = append(a.want, proof)
	a.reports.Wait(a.t, "the proof "+proof, func([]told) bool { return len(a.proofs()) >= len(a.want) })
	if got := a.proofs(); !slices.Equal(got, a.want) {
		a.t.Errorf("handed over was %q, want %q", got, a.want)
	}
}

// comesFrom is comes, for a page that stays: it waits until the answer is there,
// after which only what happens next can have the page hand over anything.
func (a *asking) comesFrom(tab driver, proof string) {
	a.t.Helper()
	a.comes(proof)
	tab.wait("the answer", `localStorage.getItem("metrics_gate_proof") !== `+a.kept)
	tab.eval(&a.kept, `JSON.stringify(localStorage.getItem("metrics_gate_proof"))`)
}

// toldOutcome waits for a report of what the browser said and nothing else. On a
// page that has not asked the browser yet it is the last.
func (a *asking) toldOutcome() {
	a.t.Helper()
	a.reports.Wait(a.t, "the outcome", func(all []told) bool { return len(all) > len(a.proofs()) })
}

// sessionToken is the one of the vector that is known from FxA's own tests, and
// others beside it.
func sessionToken(first byte) string {
	token := make([]byte, 32)
	for i := range token {
		token[i] = first + byte(i)
	}
	return hex.EncodeToString(token)
}

const known = 0xa0

// bearer is what is handed over for a session token, as JSON.
func bearer(token string) string {
	secret := testcaddy.Must(hex.DecodeString(token))
	derived := testcaddy.Must(hkdf.Key(sha256.New, secret, nil, "identity.mozilla.com/picl/v1/sessionToken", 96))
	return `"Bearer fxs_` + hex.EncodeToString(derived[:32]) + `"`
}

// fxaSignIn is a script that keeps a session as FxA's client does; so does
// fxaSignOut.
func fxaSignIn(uid, token string) string {
	return fmt.Sprintf(`(localStorage.setItem("__fxa_storage.accounts", JSON.stringify({
		"00000000000000000000000000000000": { uid: "00000000000000000000000000000000" },
		[%[1]q]: { uid: %[1]q, sessionToken: %[2]q, email: "a@example.org", verified: true, lastLogin: 1 },
	})), localStorage.setItem("__fxa_storage.currentAccountUid", JSON.stringify(%[1]q)))`, uid, token)
}

const fxaSignOut = `localStorage.removeItem("__fxa_storage.currentAccountUid")`

var fxaBearer = browser.Proof{FxA: true}

func fxaHawk(publicURL string) browser.Proof { return browser.Proof{FxA: true, Hawk: publicURL} }

// inBothBrowsers runs a test in a Firefox that does not answer, and in Chromium.
func inBothBrowsers(t *testing.T, test func(*testing.T, driver)) {
	for name, start := range map[string]func(testing.TB) driver{
		"Firefox":  func(t testing.TB) driver { return newFirefox(t, noObjectionFirefox) },
		"Chromium": func(t testing.TB) driver { return newChromium(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

func (a *asking) unharmed(tab driver) {
	a.t.Helper()
	if console := tab.console(a.origin); len(console) > 0 {
		a.t.Errorf("the console has %q", console)
	}
	tab.wait("the page's own script to have run", `window.ready === true && violations.length === 0`)
}

func TestProofIsFound(t *testing.T) {
	t.Parallel()
	uid := testcaddy.NewUID(t)
	vector := bearer(sessionToken(known))
	if !strings.HasPrefix(vector, `"Bearer fxs_c0a29dcf`) || !strings.HasSuffix(vector, `95ab"`) {
		t.Fatalf("the known vector has become %s", vector)
	}
	local := browser.Proof{LocalStorage: "token"}
	in := func(path string) browser.Proof { return browser.Proof{LocalStorage: "token", Path: path} }
	set := func(value string) string { return fmt.Sprintf(`localStorage.setItem("token", %q)`, value) }
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		for _, c := range []struct {
			name   string
			where  browser.Proof
			before string // what is stored
			want   string // "" is nothing, also not that there is nobody
		}{
			{"FxA", fxaBearer, fxaSignIn(uid, sessionToken(known)), vector},
			{"FxA, nobody", fxaBearer, `0`, "null"},
			{"FxA, signed out", fxaBearer, `(` + fxaSignIn(uid, sessionToken(known)) + `,` + fxaSignOut + `)`, "null"},
			{"FxA, an account without a session", fxaBearer, fxaSignIn(uid, ""), "null"},
			{"FxA, an account that is not there", fxaBearer, `localStorage.setItem("__fxa_storage.currentAccountUid", '"x"')`, "null"},
			{"FxA, no session token", fxaBearer, fxaSignIn(uid, "a0a1"), ""},
			{"FxA, no JSON", fxaBearer, `(` + fxaSignIn(uid, sessionToken(known)) + `, localStorage.setItem("__fxa_storage.accounts", "{"))`, ""},
			{"a token", local, set("eyJ.e30.x"), `"Bearer eyJ.e30.x"`},
			{"a token as JSON", local, set(`"eyJ.e30.x"`), `"Bearer eyJ.e30.x"`},
			{"a token of digits", local, set("1234"), `"Bearer 1234"`},
			{"a token with its scheme", local, set("bearer eyJ.e30.x"), `"Bearer eyJ.e30.x"`},
			{"no token", local, "0", "null"},
			{"an empty token", local, set(""), "null"},
			{"null", local, set("null"), "null"},
			{"no token at all", local, set("not a token"), ""},
			{"a token longer than any", local, set(strings.Repeat("x", 8193)), ""},
			{"a path", in("user.token"), set(`{"user":{"token":"eyJ.e30.x"}}`), `"Bearer eyJ.e30.x"`},
			{"a path through a list", in("0.token"), set(`[{"token":"eyJ.e30.x"}]`), `"Bearer eyJ.e30.x"`},
			{"a path through JSON inside JSON", in("auth.token"), set(`{"auth":"{\"token\":\"\\\"eyJ.e30.x\\\"\"}"}`), `"Bearer eyJ.e30.x"`},
			{"a path to nothing", in("user.token"), set(`{"user":null}`), "null"},
			{"a path to null", in("user.token"), set(`{"user":{"token":null}}`), "null"},
			{"a path to no text", in("user"), set(`{"user":{"token":"eyJ.e30.x"}}`), ""},
			{"a path in what is no JSON", in("user"), set(`eyJ.e30.x`), ""},
			{"another storage", browser.Proof{SessionStorage: "token"}, `sessionStorage.setItem("token", "eyJ.e30.x")`, `"Bearer eyJ.e30.x"`},
		} {
			site := newAsking(t, c.where)
			tab.navigate(site.origin + "/plain")
			tab.eval(nil, `(`+c.before+`, 0)`)
			tab.navigate(site.origin)
			site.toldOutcome()
			var want []string
			if c.want != "" {
				want = append(want, c.want)
			}
			if got := site.proofs(); !slices.Equal(got, want) {
				t.Errorf("%s: handed over was %q, want %q", c.name, got, want)
			}
			var kept string
			tab.eval(&kept, `(JSON.stringify(localStorage) + JSON.stringify(sessionStorage)).match(/"metrics_gate\w*":"[^"]*"|$/g).join(" ").trim()`)
			if strings.Contains(kept, "eyJ") || strings.Contains(kept, uid) || !regexp.MustCompile(`^("metrics_gate(_proof)?":"[a-z0-9_-]{1,12} \d+" ?)*$`).MatchString(kept) {
				t.Errorf("%s: the script keeps %s", c.name, kept)
			}
			site.unharmed(tab)
		}
	})
}

// What is handed over is what Firefox Accounts' servers take: old ones, which
// verify a Hawk header against their public address, and new ones.
func TestProofIsVerifiedByHawk(t *testing.T) {
	t.Parallel()
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		for _, c := range []struct {
			publicURL string
			where     func(string) browser.Proof
			scheme    string
		}{
			{"https://auth.example.org/v1", fxaHawk, "Hawk id="},
			{"http://localhost:9000/v1", fxaHawk, "Hawk id="},
			{"https://api.example.org:8443/auth/v1", fxaHawk, "Hawk id="},
			{"https://auth.example.org/v1", func(string) browser.Proof { return fxaBearer }, "Bearer fxs_"},
		} {
			uid, token := testcaddy.NewUID(t), sessionToken(known)
			server := fxa.StartAuthServer(t, c.publicURL)
			server.SignIn(token, uid)
			site := newAsking(t, c.where(c.publicURL))
			tab.navigate(site.origin + "/plain")
			tab.eval(nil, fxaSignIn(uid, token))
			tab.navigate(site.origin)
			site.toldOutcome()
			var authorization string
			if proofs := site.proofs(); len(proofs) != 1 || json.Unmarshal([]byte(proofs[0]), &authorization) != nil || !strings.HasPrefix(authorization, c.scheme) {
				t.Fatalf("%s: handed over was %q", c.publicURL, proofs)
			}
			if status, body := sessionStatus(t, server, authorization); status != http.StatusOK || !strings.Contains(body, `"uid":"`+uid+`"`) {
				t.Errorf("%s: %d %s for %s", c.publicURL, status, body, authorization)
			}
			// Or the stand-in verifies nothing.
			changed := strings.NewReplacer(`mac="`, `mac="A`, "fxs_", "fxs_0").Replace(authorization)
			if status, body := sessionStatus(t, server, changed); status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s for %s", c.publicURL, status, body, changed)
			}
			server.Revoke(token)
			if status, body := sessionStatus(t, server, authorization); status != http.StatusUnauthorized || !strings.Contains(body, `"errno":110`) {
				t.Errorf("%s: %d %s for a revoked session", c.publicURL, status, body)
			}
		}
	})
}

func sessionStatus(t *testing.T, server *fxa.AuthServer, authorization string) (status int, body string) {
	t.Helper()
	request := testcaddy.Must(http.NewRequestWithContext(context.Background(), http.MethodGet, server.URL+"/session/status", nil))
	request.Header.Set("Authorization", authorization)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text := testcaddy.Must(io.ReadAll(response.Body))
	return response.StatusCode, string(text)
}

// Signing in, signing out and changing accounts are noticed without a page load,
// whatever tells of them.
func TestProofFollowsTheAccount(t *testing.T) {
	t.Parallel()
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		uid, first, second := testcaddy.NewUID(t), sessionToken(known), sessionToken(1)
		site := newAsking(t, fxaBearer)
		tab.navigate(site.origin + "/?clock")
		site.comesFrom(tab, "null")
		// Another tab's storage; a frame's is the same to this page.
		tab.eval(nil, `new Promise((done) => {
			const frame = document.createElement("iframe");
			frame.src = "/plain", frame.onload = done;
			document.body.append(frame);
		}).then(() => 0)`)
		tab.eval(nil, strings.ReplaceAll(fxaSignIn(uid, first), "localStorage", "frames[0].localStorage"))
		site.comesFrom(tab, bearer(first))
		// A page of the application's that is no page load.
		tab.eval(nil, `(`+fxaSignIn(uid, second)+`, history.pushState(null, "", "/settings"))`)
		site.comesFrom(tab, bearer(second))
		// Nothing at all tells: a look from time to time.
		tab.eval(nil, `(`+fxaSignOut+`, tick())`)
		site.comesFrom(tab, "null")
		tab.eval(nil, `(`+fxaSignIn(uid, first)+`, tick())`)
		site.comesFrom(tab, bearer(first))
		// The page is left.
		tab.eval(nil, fxaSignOut)
		tab.navigate(site.origin + "/plain")
		site.comes("null")
		for _, came := range site.reports.All() {
			if strings.Contains(came.body, `"framed"`) {
				t.Errorf("%s came from no frame", came.body)
			}
		}
	})
}

// The same session is handed over once in five minutes, whatever pages there
// are, and again where the gate asks.
func TestProofIsRenewed(t *testing.T) {
	t.Parallel()
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		proof := bearer(sessionToken(known))
		site := newAsking(t, fxaBearer)
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, fxaSignIn(testcaddy.NewUID(t), sessionToken(known)))
		tab.navigate(site.origin)
		site.comesFrom(tab, proof)
		tab.navigate(site.origin + "/other")
		tab.navigate(site.origin + "/?clock")
		tab.eval(nil, `(window.ahead = 4.5 * 60 * 1000, tick())`)
		tab.eval(nil, `(window.ahead = 5.5 * 60 * 1000, tick())`)
		site.comesFrom(tab, proof)
		tab.eval(nil, `tick()`)
		tab.navigate(site.origin + "/report?clock")
		site.comesFrom(tab, proof)

		// Nobody stays nobody.
		tab.eval(nil, `(`+fxaSignOut+`, tick())`)
		site.comesFrom(tab, "null")
		tab.navigate(site.origin + "/?clock")
		tab.eval(nil, `(window.ahead = 9 * 60 * 1000, tick())`)
		tab.navigate(site.origin + "/report")
		site.comes("null")
		site.unharmed(tab)
	})
}

// The gate's reply asks again.
func TestProofIsAskedForAgain(t *testing.T) {
	t.Parallel()
	again := func(withProof bool) func(told) string {
		return func(came told) string {
			if withProof == (came.proof != "") {
				return `{"again":true}`
			}
			return ""
		}
	}
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		proof := bearer(sessionToken(known))

		// To a report that brought none: at once, and once.
		site := newAsking(t, fxaBearer)
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, fxaSignIn(testcaddy.NewUID(t), sessionToken(known)))
		tab.navigate(site.origin)
		site.comesFrom(tab, proof)
		tab.wait("the outcome to be kept", `sessionStorage.getItem("metrics_gate") !== null`)
		site.answer(again(false))
		tab.eval(nil, `sessionStorage.removeItem("metrics_gate")`)
		tab.navigate(site.origin + "/other")
		site.comesFrom(tab, proof)

		// To one that brought a proof: not from this page before five minutes
		// are over, but from the next.
		site = newAsking(t, fxaBearer)
		site.answer(again(true))
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, fxaSignIn(testcaddy.NewUID(t), sessionToken(known)))
		tab.navigate(site.origin + "/?clock")
		site.comes(proof)
		site.toldOutcome()
		tab.eval(nil, `(window.ahead = 4.5 * 60 * 1000, tick(), dispatchEvent(new Event("pageshow")), document.dispatchEvent(new Event("visibilitychange")))`)
		tab.navigate(site.origin + "/other")
		site.comes(proof)
	})
}

// A wrong clock makes a Hawk header that no server takes. The gate says what
// time it is with every answer.
func TestProofOfAWrongClock(t *testing.T) {
	t.Parallel()
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		const publicURL = "https://auth.example.org/v1"
		uid, token := testcaddy.NewUID(t), sessionToken(known)
		site := newAsking(t, fxaHawk(publicURL))
		site.slow.Store(int64(time.Hour)) // so this browser is an hour ahead
		ts := func(proof string) (off time.Duration) {
			seconds := regexp.MustCompile(`ts=\\"(\d+)\\"`).FindStringSubmatch(proof)
			if seconds == nil {
				t.Fatalf("handed over was %s", proof)
			}
			return time.Since(time.Unix(testcaddy.Must(strconv.ParseInt(seconds[1], 10, 64)), 0))
		}
		site.answer(func(came told) string {
			if came.proof != "" && ts(came.proof) < 50*time.Minute {
				return `{"again":true}`
			}
			return ""
		})
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, fxaSignIn(uid, token))
		tab.navigate(site.origin)
		site.toldOutcome()
		proofs := site.proofs()
		if len(proofs) != 2 || ts(proofs[0]) > 10*time.Minute || ts(proofs[1]) < 50*time.Minute || ts(proofs[1]) > 70*time.Minute {
			t.Errorf("handed over was %q", proofs)
		}

		// What has no time in it is not handed over again for that.
		site = newAsking(t, fxaBearer)
		site.slow.Store(int64(time.Hour))
		site.answer(func(came told) string {
			if came.proof != "" {
				return `{"again":true}`
			}
			return ""
		})
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, fxaSignIn(uid, token))
		tab.navigate(site.origin)
		site.toldOutcome()
		site.comes(bearer(token))
	})
}

// What the browser said comes with the proof where it is known, and after it
// where it is not: an account that was proven then has to learn it.
func TestProofAndOutcome(t *testing.T) {
	t.Parallel()
	uid, token := testcaddy.NewUID(t), sessionToken(known)
	site := newAskingFor(t, fxaBearer, testcaddy.Patience)
	f := respondingFirefox(t, optedOutFirefox, site.origin)
	f.navigate(site.origin + "/plain")
	f.eval(nil, fxaSignIn(uid, token))
	f.hold()
	f.navigate(site.origin)
	site.comes(bearer(token))
	if first := site.reports.All()[0].body; first != `{"probing":true,"proof":`+bearer(token)+`}` {
		t.Errorf("the first report is %s", first)
	}
	f.release()
	site.toldOutcome()
	f.wait("both to be kept", `localStorage.getItem("metrics_gate_proof") !== null && localStorage.getItem("metrics_gate") !== null`)
	var before string
	f.eval(&before, `localStorage.getItem("metrics_gate_proof")`)
	f.eval(nil, fxaSignIn(uid, sessionToken(1)))
	f.navigate(site.origin + "/report")
	site.comes(bearer(sessionToken(1)))
	all := site.reports.All()
	if want := []string{`{"metrics_optout":true}`, `{"metrics_optout":true,"proof":` + bearer(sessionToken(1)) + `}`}; all[1].body != want[0] || all[2].body != want[1] {
		t.Errorf("the reports are %q", all)
	}

	// Also where the browser says what it said before.
	f.wait("the answer", `localStorage.getItem("metrics_gate_proof") !== `+asJSON(before))
	f.eval(nil, `localStorage.setItem("metrics_gate", "opted_out 1")`)
	f.eval(nil, fxaSignIn(uid, sessionToken(2)))
	f.navigate(site.origin)
	site.reports.Wait(t, "the outcome", func(all []told) bool { return all[len(all)-1].body == `{"metrics_optout":true}` && len(all) == 5 })
	site.comes(bearer(sessionToken(2)))
}

// A token that needs nothing derived is handed over as its page is left, and
// found within ten seconds where nothing tells of it.
func TestProofOfAStoredToken(t *testing.T) {
	t.Parallel()
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		site := newAsking(t, browser.Proof{LocalStorage: "token"})
		tab.navigate(site.origin + "/?clock")
		site.comesFrom(tab, "null")
		tab.eval(nil, `localStorage.setItem("token", "first")`)
		tab.navigate(site.origin + "/plain")
		site.comes(`"Bearer first"`)

		site = newAsking(t, browser.Proof{LocalStorage: "token"})
		tab.navigate(site.origin)
		site.comesFrom(tab, "null")
		tab.eval(nil, `localStorage.setItem("token", "first")`)
		site.comes(`"Bearer first"`)

		// Two pages of one browser can have different accounts in their own
		// storage. The gate knows one, and it is that of the page that is looked
		// at. Where both are, they do not take turns for ever.
		site = newAsking(t, browser.Proof{SessionStorage: "token"})
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, `sessionStorage.setItem("token", "first")`)
		tab.navigate(site.origin + "/?clock")
		site.comesFrom(tab, `"Bearer first"`)
		tab.eval(nil, `(localStorage.setItem("metrics_gate_proof", "other " + (Date.now() + 60000)), tick(),
			dispatchEvent(new StorageEvent("storage", { key: "metrics_gate_proof" })))`)
		tab.eval(nil, `document.dispatchEvent(new Event("visibilitychange"))`)
		site.comes(`"Bearer first"`)
	})
}

// Where the script cannot tell, it says nothing, and the page is as it was.
func TestProofSaysNothing(t *testing.T) {
	t.Parallel()
	says := func(t *testing.T, site *asking, tab driver, open func()) {
		t.Helper()
		open()
		site.toldOutcome()
		if got := site.proofs(); len(got) > 0 {
			t.Errorf("handed over was %q", got)
		}
		// Firefox itself remarks on storage that it partitions or refuses.
		if console := slices.DeleteFunc(tab.console(site.origin), func(line string) bool { return strings.Contains(line, "storage access") }); len(console) > 0 {
			t.Errorf("the console has %q", console)
		}
	}
	inBothBrowsers(t, func(t *testing.T, tab driver) {
		local := browser.Proof{LocalStorage: "token"}

		site := newAsking(t, local) // behind a gate that does not ask
		says(t, site, tab, func() { tab.navigate(site.origin + "/silent") })

		site = newAsking(t, local) // a frame of another site
		embedder := newEmbedder(t)
		says(t, site, tab, func() {
			tab.navigate(embedder)
			tab.eval(nil, fmt.Sprintf("hold(%q)", site.origin))
		})
		if all := site.reports.All(); !strings.Contains(all[0].body, `"framed":true`) {
			t.Errorf("the report is %q", all)
		}

		site = newAsking(t, local) // and one of the same, which can tell
		tab.navigate(site.origin + "/plain")
		tab.eval(nil, `(() => {
			const frame = document.createElement("iframe");
			frame.src = "/";
			document.body.append(frame);
		})()`)
		site.comes("null")
	})
	t.Run("Firefox without storage", func(t *testing.T) {
		t.Parallel()
		f := newFirefox(t, map[string]any{"network.cookie.cookieBehavior": 2})
		site := newAsking(t, fxaBearer)
		says(t, site, f, func() { f.navigate(site.origin) })
		f.wait("the page's own script to have run", `window.ready === true && violations.length === 0`)
	})
	t.Run("Chromium over http", func(t *testing.T) {
		t.Parallel()
		c := newChromium(t, chromedp.Flag("host-resolver-rules", "MAP app.example 127.0.0.1"))
		site := newAsking(t, browser.Proof{LocalStorage: "token"})
		site.origin = strings.Replace(site.origin, "localhost", "app.example", 1)
		says(t, site, c, func() { c.navigate(site.origin) })
		site.unharmed(c)
	})
}
