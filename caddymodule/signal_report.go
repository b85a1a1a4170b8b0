package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// maxReport bounds what the handshake's script may report.
const maxReport = 1 << 10

// What came of a report, as the metric's label has it.
const (
	reportOptedOut    = "opted_out"
	reportNoObjection = "no_objection"
	reportNoAnswer    = "no_answer"
	reportRefused     = "refused"
	reportMalformed   = "malformed"
)

// signalReport is what the handshake's script says that the browser said.
type signalReport struct{ optedOut, noAnswer, framed bool }

// outcome is the value of the cookie, and the label of the metric.
func (s signalReport) outcome() (cookie, label string) {
	switch {
	case s.optedOut:
		return cookieOptedOut, reportOptedOut
	case s.noAnswer:
		return session.NoAnswer, reportNoAnswer
	default:
		return cookieNoObjection, reportNoObjection
	}
}

// serveSignal takes the report of the handshake's script: it keeps the
// outcome in the signal's cookie and has an opt-out written into a verified
// session's profile that holds no choice.
func (g *Gate) serveSignal(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodPost) {
		return
	}
	if !g.fromHere(r) {
		signalsTotal.WithLabelValues(reportRefused).Inc()
		refuse(w, http.StatusForbidden, "only this site's own pages may report")
		return
	}
	report, status := readReport(w, r)
	if status != 0 {
		signalsTotal.WithLabelValues(reportMalformed).Inc()
		refuse(w, status, `write application/json of at most 1 KB, such as {"metrics_optout":true}`)
		return
	}
	value, label := report.outcome()
	signalsTotal.WithLabelValues(label).Inc()
	if value == cookieOptedOut {
		g.recordSignal(r)
	}
	if line := g.reportedCookie(r.Header, value, report.framed); line != "" {
		setCookie(w, line)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// readReport reads a report, or says with which status it is refused.
func readReport(w http.ResponseWriter, r *http.Request) (report signalReport, status int) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return report, http.StatusUnsupportedMediaType
	}
	if r.ContentLength > maxReport {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // nobody needs the rest
		}
		return report, http.StatusRequestEntityTooLarge
	}
	limitBody(w, r, maxReport)
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return report, http.StatusRequestEntityTooLarge
	}
	var object map[string]json.RawMessage // whose keys are exact, unlike those of a struct
	if err != nil || json.Unmarshal(body, &object) != nil || object == nil {
		return report, http.StatusBadRequest
	}
	read := func(key string, otherwise bool) (value bool) {
		switch string(object[key]) {
		case "":
			return otherwise
		case "true":
			return true
		case "false":
			return false
		}
		status = http.StatusBadRequest
		return otherwise
	}
	report.optedOut = read("metrics_optout", false)
	report.noAnswer = !read("answered", true)
	report.framed = read("framed", false)
	return report, status
}

// recordSignal has the browser's opt-out written into the profile of the
// session that the report proves, if it holds no choice.
func (g *Gate) recordSignal(r *http.Request) {
	if !g.writeBack {
		return
	}
	now := time.Now()
	if standing := g.standing(r, now); g.rules.Decide(standing.subject.Session, standing.preference, policy.SignalOptedOut).WriteBack {
		g.profile.WriteBack(account(standing.subject), now)
	}
}

// reportedCookie is the Set-Cookie line that keeps an outcome, or "" where
// the browser's cookie stays as it is. What somebody chose (true) is never
// replaced, and no answer replaces no answer that was given before.
func (g *Gate) reportedCookie(h http.Header, value string, framed bool) string {
	answered := reportedOptOut(h) || session.CookieHolds(h, signalCookie, cookieNoObjection)
	if chosenCookie(h) || value == session.NoAnswer && answered {
		return ""
	}
	if framed && g.handshake.framed {
		return g.handshake.cookies.framed[value]
	}
	return g.handshake.cookies.handshake[value]
}
