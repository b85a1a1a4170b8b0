package gate

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/metricsgate/metricsgate/session"
)

// maxReport bounds what the handshake's script may report.
const maxReport = 1 << 10

// ReportOutcome says what came of a report of the handshake's script. The set
// is closed: metrics have one label value for each.
type ReportOutcome uint8

const (
	// ReportOptedOut: the browser's user switched telemetry off.
	ReportOptedOut ReportOutcome = iota
	// ReportNoObjection: the browser answered, and its user did not.
	ReportNoObjection
	// ReportNoAnswer: the browser was asked and did not answer in time.
	ReportNoAnswer
	// ReportRefused: it did not come from this site's own pages.
	ReportRefused
	// ReportMalformed: it cannot be read.
	ReportMalformed

	// ReportOutcomeCount is the number of outcomes, for tables indexed by
	// ReportOutcome.
	ReportOutcomeCount
)

var reportOutcomeNames = [ReportOutcomeCount]string{
	ReportOptedOut:    "opted_out",
	ReportNoObjection: "no_objection",
	ReportNoAnswer:    "no_answer",
	ReportRefused:     "refused",
	ReportMalformed:   "malformed",
}

// String returns the outcome as metrics spell it.
func (o ReportOutcome) String() string { return reportOutcomeNames[o] }

// cookie is the value of the signal's cookie that keeps the outcome.
func (o ReportOutcome) cookie() string {
	switch o {
	case ReportOptedOut:
		return cookieOptedOut
	case ReportNoObjection:
		return cookieNoObjection
	default:
		return session.NoAnswer
	}
}

// signalReport is what the handshake's script says that the browser said.
type signalReport struct{ optedOut, noAnswer, framed bool }

func (s signalReport) outcome() ReportOutcome {
	switch {
	case s.optedOut:
		return ReportOptedOut
	case s.noAnswer:
		return ReportNoAnswer
	default:
		return ReportNoObjection
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
		g.observer.Report(ReportRefused)
		refuse(w, http.StatusForbidden, "only this site's own pages may report")
		return
	}
	report, status := readReport(w, r)
	if status != 0 {
		g.observer.Report(ReportMalformed)
		refuse(w, status, `write application/json of at most 1 KB, such as {"metrics_optout":true}`)
		return
	}
	outcome := report.outcome()
	g.observer.Report(outcome)
	if outcome == ReportOptedOut && g.engine.writeBack {
		g.engine.Reported(r)
	}
	if line := g.reportedCookie(r.Header, outcome.cookie(), report.framed); line != "" {
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

// reportedCookie is the Set-Cookie line that keeps an outcome, or "" where
// the browser's cookie stays as it is. What somebody chose, and what is
// remembered of an account, is never replaced, and no answer replaces no answer
// that was given before.
func (g *Gate) reportedCookie(h http.Header, value string, framed bool) string {
	answered := reportedOptOut(h) || session.CookieHolds(h, signalCookie, cookieNoObjection)
	if chosenCookie(h) || rememberedCookie(h) || value == session.NoAnswer && answered {
		return ""
	}
	if framed && g.handshake.framed {
		return g.handshake.cookies.framed[value]
	}
	return g.handshake.cookies.handshake[value]
}
