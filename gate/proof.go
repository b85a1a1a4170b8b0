package gate

import (
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/session"
)

// maxProofReport bounds a report that may hold a proof.
const maxProofReport = 16 << 10

// takeProof takes what a page says of who is signed in, and keeps it in the
// browser's own session. From then on it is the request's own session as well, so
// that the report is decided like all that follows it. It returns what came of a
// proof, and Absent where there is none.
func (g *Gate) takeProof(w http.ResponseWriter, r *http.Request, report *signalReport) session.Outcome {
	own, now := g.engine.own, time.Now()
	switch {
	case own == nil:
	case report.nobody:
		g.keepOwn(w, r, session.OwnNone, own.Life())
	case report.proof != "":
		value, life, outcome := own.Prove(r, report.proof, now)
		g.engine.observeSession(len(g.engine.sessions), "", outcome)
		// What could not be asked about proves nothing, and ends nothing either.
		if outcome != session.KeysUnavailable && outcome != session.TooMany {
			g.keepOwn(w, r, value, life)
		}
		return outcome
	}
	return session.Absent
}

// keepOwn makes this the browser's own session; an empty one ends it.
func (g *Gate) keepOwn(w http.ResponseWriter, r *http.Request, value string, life time.Duration) {
	maxAge := -1
	if value != "" {
		maxAge = int(life / time.Second)
	}
	setCookie(w, (&http.Cookie{
		Name: session.OwnCookie, Value: value, Path: "/", MaxAge: maxAge,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}).String())
	session.ReplaceOwn(r.Header, value)
}

// wantsProof says whether the script is to hand over what it finds, although it
// did so a short while ago: the request carries no own session that is verified,
// and no word that nobody is signed in.
func (e *engine) wantsProof(r *http.Request, own session.Outcome) bool {
	return e.own != nil && own != session.Verified && !session.CookieHolds(r.Header, session.OwnCookie, session.OwnNone)
}

// mustProve says that the request comes from a browser whose pages could say
// whether somebody is signed in, and have not.
func (e *engine) mustProve(r *http.Request, own session.Outcome) bool {
	return own == session.Absent && r.Header["Sec-Fetch-Site"] != nil && e.wantsProof(r, own)
}
