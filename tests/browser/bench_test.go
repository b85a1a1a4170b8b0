package browser_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
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
