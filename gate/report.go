package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

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

// signalReport is what the handshake's script says that the browser said and, where
// pages prove accounts, what it found of who is signed in.
type signalReport struct {
	optedOut, noAnswer, framed bool
	// probing says that the browser is still being asked.
	probing bool
	// proof is what proves the account; nobody says that none is signed in.
	proof  string
	nobody bool
}

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
// session's profile that holds no choice. A proof that comes with it becomes the
// gate's own session. In shadow mode it is taken for that alone.
func (g *Gate) serveSignal(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodPost) {
		return
	}
	if !g.fromHere(r) {
		g.observer.Report(ReportRefused)
		refuse(w, http.StatusForbidden, "only this site's own pages may report")
		return
	}
	limit := int64(maxReport)
	if g.engine.own != nil {
		limit = maxProofReport
	}
	report, status := readReport(w, r, limit)
	if status != 0 {
		g.observer.Report(ReportMalformed)
		refuse(w, status, fmt.Sprintf(`write application/json of at most %d KB, such as {"metrics_optout":true}`, limit>>10))
		return
	}
	proof := g.takeProof(w, r, &report)
	if !g.shadow {
		g.takeSignal(w, r, &report, proof == session.Verified)
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	if g.asksAgain(r, &report, proof) {
		header.Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"again":true}`+"\n")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// asksAgain says whether the script is to hand over a proof again: this one was
// not taken, or there was none, and there should be. Frames of other sites
// cannot.
func (g *Gate) asksAgain(r *http.Request, report *signalReport, proof session.Outcome) bool {
	if proof != session.Absent || report.framed {
		return proof != session.Absent && proof != session.Verified
	}
	found := g.engine.sessions.Find(r, time.Now(), func(int, string, session.Outcome) {})
	return g.engine.wantsProof(r, found.Own)
}

// takeSignal takes what the browser said, in a report that may have proven an
// account.
func (g *Gate) takeSignal(w http.ResponseWriter, r *http.Request, report *signalReport, proven bool) {
	outcome := report.outcome()
	if !report.probing {
		g.observer.Report(outcome)
	}
	optsOut := outcome == ReportOptedOut
	if optsOut && g.engine.writeBack || proven {
		if v := g.engine.Reported(r, optsOut); v.optedOut() && g.remember(w, r) {
			return // which no report takes back
		}
	}
	if report.probing {
		return
	}
	if line := g.reportedCookie(r.Header, outcome.cookie(), report.framed); line != "" {
		setCookie(w, line)
	}
}

// readReport reads a report, or says with which status it is refused.
func readReport(w http.ResponseWriter, r *http.Request, limit int64) (report signalReport, status int) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return report, http.StatusUnsupportedMediaType
	}
	if r.ContentLength > limit {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // nobody needs the rest
		}
		return report, http.StatusRequestEntityTooLarge
	}
	limitBody(w, r, limit)
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
	report.probing = read("probing", false)
	switch proof := object["proof"]; {
	case proof == nil:
	case string(proof) == "null":
		report.nobody = true
	case json.Unmarshal(proof, &report.proof) != nil || report.proof == "":
		status = http.StatusBadRequest
	}
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
