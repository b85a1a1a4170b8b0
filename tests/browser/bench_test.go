package browser_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/fxa"
)

// How long after a navigation begins the outcome is known, where the browser
// has been asked nothing before. Run with -benchtime 20x for a median of 20.
func BenchmarkOutcome(b *testing.B) {
	for _, c := range []struct {
		name  string
		start func(testing.TB, *site) driver
	}{
		{"Firefox,optedOut", func(t testing.TB, s *site) driver { return respondingFirefox(t, optedOutFirefox, s.origin) }},
		{"Firefox,noObjection", func(t testing.TB, s *site) driver { return respondingFirefox(t, noObjectionFirefox, s.origin) }},
		{"Firefox,noResponder", func(t testing.TB, _ *site) driver { return newFirefox(t, noObjectionFirefox) }},
		{"Chromium", func(t testing.TB, _ *site) driver { return newChromium(t) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := newSite(b, handshake())
			browser := c.start(b, s)
			open := func() (outcome, reported float64) {
				browser.navigate(s.origin)
				s.reported(browser)
				const entry = `performance.getEntriesByName(location.origin + "/.well-known/metrics-gate/signal")[0]`
				browser.eval(&outcome, entry+".startTime")
				browser.eval(&reported, entry+".responseEnd")
				return outcome, reported
			}
			first, _ := open() // the first page of a browser's life pays for much else
			var outcomes, reports []float64
			for b.Loop() {
				forget(browser)
				outcome, reported := open()
				outcomes, reports = append(outcomes, outcome), append(reports, reported)
			}
			b.ReportMetric(first, "outcome-ms-first-page")
			report(b, "outcome", outcomes)
			report(b, "reported", reports)
		})
	}
}

// How long after a navigation begins the gate's own session is there, in a
// browser that is signed in and has proven nothing yet. Run with -benchtime 20x
// for a median of 20.
func BenchmarkProof(b *testing.B) {
	const publicURL = "https://auth.example.org/v1"
	for name, start := range map[string]func(testing.TB) driver{
		"Firefox":  func(t testing.TB) driver { return newFirefox(t, noObjectionFirefox) },
		"Chromium": func(t testing.TB) driver { return newChromium(t) },
	} {
		b.Run(name, func(b *testing.B) {
			auth := fxa.StartAuthServer(b, publicURL)
			s := newSite(b, "session fxa "+publicURL+" {\ndial "+auth.URL+"\n}", handshake())
			uid := testcaddy.NewUID(b)
			auth.SignIn(sessionToken(known), uid)
			browser := start(b)
			browser.navigate(s.origin)
			s.reported(browser)
			var proofs []float64
			for b.Loop() {
				forget(browser)
				browser.eval(nil, fxaSignIn(uid, sessionToken(known)))
				browser.navigate(s.origin)
				browser.wait("the proof", `localStorage.getItem("metrics_gate_proof") !== null`)
				var took float64
				browser.eval(&took, `performance.getEntriesByName(location.origin + "/.well-known/metrics-gate/signal")[0].responseEnd`)
				if got := browser.cookie("__Host-metrics_gate"); len(got) < 100 {
					b.Fatalf("the cookie is %q", got)
				}
				proofs = append(proofs, took)
			}
			report(b, "proof", proofs)
		})
	}
}

// report states the median, the least and the most in milliseconds.
func report(b *testing.B, what string, all []float64) {
	b.Helper()
	slices.Sort(all)
	b.ReportMetric(all[len(all)/2], what+"-ms-median")
	b.ReportMetric(all[0], what+"-ms-min")
	b.ReportMetric(all[len(all)-1], what+"-ms-max")
}

// forget makes the browser one that was never at the site whose page it shows.
func forget(browser driver) {
	browser.eval(nil, `(localStorage.clear(), sessionStorage.clear())`)
	browser.forget()
}

// What a user of Firefox who allows loses while the browser is being asked:
// the part of the beacons that do not get through, by the time after the page
// began at which they are sent.
func BenchmarkProbingWindow(b *testing.B) {
	s := newSite(b, handshake())
	f := respondingFirefox(b, noObjectionFirefox, s.origin)
	f.navigate(s.origin)
	s.reported(f)
	times := []string{"0", "25", "50", "100", "200", "300", "500", "750", "1000"}
	pages := 0
	for b.Loop() {
		forget(f)
		f.navigate(s.origin + "/?flush=" + strings.Join(times, "+"))
		pages++
		testcaddy.Until(b, "every beacon to be decided", func() bool {
			return s.decided("block", "")+s.decided("collect", "") == pages*len(times)
		})
	}
	collected := s.decided("collect", "")
	all := strings.Join(func() (bodies []string) {
		for _, beacon := range s.app.beacons.Wait(b, "what was collected", func(all []beacon) bool { return len(all) == collected }) {
			bodies = append(bodies, beacon.body)
		}
		return bodies
	}(), "\n")
	for _, at := range times {
		lost := pages - strings.Count(all, fmt.Sprintf(`"at.%s"`, at))
		b.ReportMetric(100*float64(lost)/float64(pages), "%lost@"+at+"ms")
	}
}
