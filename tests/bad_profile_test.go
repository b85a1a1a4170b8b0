package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Whatever the profile server does wrong: the preference is unknown, metrics
// are blocked, pages are served, and the log has one line for the failure and
// one for its end, however many requests meet it.
func TestProfileServerFaults(t *testing.T) {
	t.Parallel()
	all := map[string]struct {
		begin   func(*profile)
		outcome string
	}{"down": {(*profile).down, "unreachable"}}
	outcomes := map[string]string{
		"slow beyond the timeout": "timeout", "500": "bad_status", "401": "unauthorized", "404": "bad_status", "HTML": "bad_type",
		"HTML type": "bad_type", "a word for a boolean": "malformed", "another field": "malformed", "10 MB": "too_large",
		"closes half-way": "", "closes at once": "unreachable", "redirect": "redirect",
	}
	for name, f := range faults {
		all[name] = struct {
			begin   func(*profile)
			outcome string
		}{func(p *profile) { p.failWith(f) }, outcomes[name]}
	}

	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			behind, profile := newContentServer(t), newProfile(t)
			addr, lenient := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
			caddy := testcaddy.Start(t,
				testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block("timeout 250ms", "follow off")), testcaddy.ProxyTo(behind.addr())),
				testcaddy.Site(lenient, testcaddy.Gate("preset fxa", "on_unknown collect", testcaddy.SessionJWT(), profile.block("timeout 250ms", "follow off")), testcaddy.ProxyTo(behind.addr())))
			known := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
			testcaddy.Until(t, "the first lookup", func() bool { return send(t, behind, addr, "POST /metrics", "{}", known).collected() })
			before := len(gateLines(caddy))

			c.begin(profile)
			for range 8 {
				uid := profile.account(allow) // has never been looked up
				if a := send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))); a.collected() || a.status != 200 || a.body != success {
					t.Errorf("collected %v, answered %d %q", a.collected(), a.status, a.body)
				}
				if a := send(t, behind, addr, "GET /signin", "", testcaddy.Cookie(testcaddy.Session(uid)), "Accept: text/html"); a.status != 200 || a.body != page {
					t.Errorf("page: answered %d %q", a.status, a.body)
				} else if got := a.passed().header.Get("Metrics-Gate-Decision"); got != "block" {
					t.Errorf("page: the application was told %q", got)
				}
				if a := send(t, behind, addr, "POST /metrics", flushOf(t, profile.account(allow))); a.collected() {
					t.Error("a named account whose preference is unknown was collected")
				}
			}
			if a := send(t, behind, lenient, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(allow)))); !a.collected() {
				t.Error("on_unknown collect blocked")
			}
			if !send(t, behind, addr, "POST /metrics", "{}", known).collected() {
				t.Error("an answer that is still fresh was not used")
			}
			if got := caddy.Metric("requests_total", "decision", "block", "reason", "unknown"); got < 16 {
				t.Errorf("%v requests of at least 16 were counted as unknown", got)
			}
			if c.outcome != "" && caddy.Metric("profile_lookups_total", "outcome", c.outcome) == 0 {
				t.Errorf("no lookup was counted as %s:\n%v", c.outcome, lookupSamples(caddy))
			}
			if name == "down" {
				profile.up()
			}
			profile.failWith(nil)
			testcaddy.Until(t, "the recovery", func() bool {
				return send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(allow)))).collected()
			})
			want := []string{`"level":"warn"`}
			if name == "down" || name == "500" {
				// It says so when the profile server has been well for a while, so
				// that one which fails now and then does not fill the log.
				want = append(want, `"level":"info"`)
				testcaddy.Until(t, "the log to tell of the recovery", func() bool {
					send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(allow))))
					return len(gateLines(caddy)) > before+1
				})
			}
			caddy.Stop()
			lines := gateLines(caddy)[before:]
			fits := len(lines) == len(want)
			for i := range lines {
				fits = fits && strings.Contains(lines[i], want[i])
			}
			if !fits {
				t.Errorf("%d log lines tell of the failure and its end, want %d:\n%s", len(lines), len(want), strings.Join(lines, "\n"))
			}
		})
	}
}

// gateLines is what the gate has logged.
func gateLines(s *testcaddy.Server) []string {
	return s.Log.Where(func(line string) bool { return strings.Contains(line, `"logger":"http.handlers.metrics_gate`) })
}

func lookupSamples(s *testcaddy.Server) (found []testcaddy.Sample) {
	for _, sample := range s.Samples() {
		if strings.HasSuffix(sample.Name, "profile_lookups_total") {
			found = append(found, sample)
		}
	}
	return found
}

// While the profile server fails, what allowed is used up to its age and not
// beyond; what opted out goes on.
func TestStale(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	const maxAge = 2 * time.Second
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient, "max_age 2s")), testcaddy.ProxyTo(behind.addr())))
	in, out, none := profile.account(allow), profile.account(optOut), profile.account(unset)
	decision := func(uid string) string {
		return send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision()
	}
	for uid, want := range map[string]string{in: "collect", out: "block", none: "collect"} {
		if got := decision(uid); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	profile.down()
	failed := time.Now()
	for _, uid := range []string{in, none} {
		testcaddy.Until(t, "what allowed to age", func() bool {
			asked := time.Now()
			got := decision(uid)
			if got == "collect" && asked.Sub(failed) > maxAge {
				t.Fatalf("collected %v after the last answer", asked.Sub(failed))
			}
			return got == "block"
		})
	}
	testcaddy.Until(t, "what opted out to age", func() bool {
		if got := decision(out); got != "block" {
			t.Fatalf("what opted out was forgotten: %s", got)
		}
		return time.Since(failed) > maxAge
	})
	before := caddy.Metric("requests_total", "reason", "preference")
	if decision(out) != "block" || caddy.Metric("requests_total", "reason", "preference") != before+1 {
		t.Error("what opted out is no longer known, past its age, while the profile server fails")
	}
}

// An opt-out acts within max_age, as typed, whoever keeps asking meanwhile.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	const maxAge = time.Second
	testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profile.block(patient, "max_age 1s")), testcaddy.ProxyTo(behind.addr())))
	uid := profile.account(allow)
	token := testcaddy.Cookie(testcaddy.Session(uid))
	if !send(t, behind, addr, "POST /metrics", "{}", token).collected() {
		t.Fatal("not collected")
	}
	profile.set(uid, optOut)
	changed := time.Now()
	testcaddy.Until(t, "the opt-out to act", func() bool {
		asked := time.Now()
		collected := send(t, behind, addr, "POST /metrics", "{}", token).collected()
		if collected && asked.Sub(changed) > maxAge {
			t.Fatalf("collected %v after the opt-out", asked.Sub(changed))
		}
		return !collected
	})
	if n := profile.lookups(uid); n > 3 {
		t.Errorf("%d lookups in one max_age", n)
	}
}

// Uids forged by the thousand use a bounded share of the profile server and of
// the cache, and push no verified user out.
func TestForgedUIDs(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr := testcaddy.FreeAddr(t)
	const concurrency, entries, forged = 16, 200, 4000
	caddy := testcaddy.Start(t, testcaddy.Site(addr, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(),
		profile.block(patient, fmt.Sprintf("concurrency %d\nmax_entries %d", concurrency, entries))), testcaddy.ProxyTo(behind.addr())))
	verified := make([]string, 50)
	for i := range verified {
		verified[i] = profile.account(allow)
		if !send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(verified[i]))).collected() {
			t.Fatal("not collected")
		}
	}

	// First so slowly that they pile up: half of all lookups are for them, and the
	// others wait for their turn.
	release := profile.stall()
	profile.most.Store(0)
	const piled = 200
	var answered testcaddy.Ledger[answer]
	flood(t, piled, 64, func(int) error {
		a, err := trySend(behind, addr, "POST /metrics", flushOf(t, testcaddy.NewUID(t)))
		answered.Add(a)
		return err
	}, func() {
		testcaddy.Until(t, "as many lookups as forged names may have", func() bool { return profile.most.Load() >= concurrency/2 })
		fresh := profile.account(allow)
		done := make(chan answer, 1)
		go func() {
			a, _ := trySend(behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(fresh)))
			done <- a
		}()
		profile.awaitAsked(fresh, http.MethodGet, 1)
		release()
		if a := testcaddy.Await(t, "a verified user's answer", done); !a.collected() {
			t.Error("a verified user found no place beside forged names")
		}
		if most := profile.most.Load(); most > concurrency/2+1 { // the verified user's
			t.Errorf("%d lookups at once for forged names, of at most %d", most, concurrency/2)
		}
	})
	for _, a := range answered.All() {
		if a.status != http.StatusOK || a.body != success {
			t.Errorf("a forged name was answered %d %q", a.status, a.body)
		}
	}

	// Then as fast as they can.
	flood(t, forged, 16, func(int) error {
		_, err := trySend(behind, addr, "POST /metrics", flushOf(t, testcaddy.NewUID(t)))
		return err
	}, nil)

	for _, uid := range verified {
		if !send(t, behind, addr, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).collected() {
			t.Error("a verified user is no longer collected")
		}
		if n := profile.lookups(uid); n > 2 { // the second only if the test takes so long that it is refreshed
			t.Errorf("a verified user's entry was looked up %d times", n)
		}
	}
	for _, sample := range caddy.Samples() {
		if sample.Name == "caddy_metrics_gate_cache_entries" && sample.Value > entries {
			t.Errorf("cache %v holds %v entries, of at most %d", sample.Labels, sample.Value, entries)
		}
	}
}

// flood calls f n times, width at a time; meanwhile runs beside it.
func flood(t *testing.T, n, width int, f func(int) error, meanwhile func()) {
	t.Helper()
	work := make(chan int)
	var workers sync.WaitGroup
	for range width {
		workers.Go(func() {
			for i := range work {
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		for i := range n {
			work <- i
		}
		close(work)
	}()
	if meanwhile != nil {
		meanwhile()
	}
	workers.Wait()
}
