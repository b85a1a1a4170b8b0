package gate

import (
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/session"
)

// The values of the signal's cookie. The handshake writes 1 where everyone
// else writes true, so that it can take back what it wrote and nothing else.
const (
	cookieOptedOut    = "1"
	cookieNoObjection = "0"
	cookieChosen      = "true"
)

// signalCookies are the Set-Cookie lines of the signal's cookie, made once.
// Each holds one bit and no identifier.
type signalCookies struct {
	handshake, framed map[string]string // by value
	chosen, removed   string
}

func newSignalCookies(life time.Duration) signalCookies {
	lines := func(sameSite http.SameSite, partitioned bool) map[string]string {
		line := func(value string, maxAge int) string {
			return (&http.Cookie{ //nolint:gosec // None is for frames, and partitioned
				Name: signalCookie, Value: value, Path: "/", MaxAge: maxAge,
				Secure: true, HttpOnly: true, SameSite: sameSite, Partitioned: partitioned,
			}).String()
		}
		seconds := max(1, int(life/time.Second))
		return map[string]string{
			cookieOptedOut:    line(cookieOptedOut, seconds),
			cookieNoObjection: line(cookieNoObjection, seconds),
			cookieChosen:      line(cookieChosen, seconds),
			session.NoAnswer:  line(session.NoAnswer, 0), // until the browser is closed
			"":                line("", -1),
		}
	}
	lax := lines(http.SameSiteLaxMode, false)
	return signalCookies{
		handshake: lax,
		// A frame on another site gets no cookie but a partitioned one.
		framed:  lines(http.SameSiteNoneMode, true),
		chosen:  lax[cookieChosen],
		removed: lax[""],
	}
}

// chosenCookie says whether the browser holds the cookie that somebody chose:
// by opting out in an account, on the preference page, or in the application.
func chosenCookie(h http.Header) bool {
	return session.CookieHolds(h, signalCookie, cookieChosen)
}

// reportedOptOut says whether the browser holds the cookie of a handshake that
// learnt an opt-out.
func reportedOptOut(h http.Header) bool {
	return session.CookieHolds(h, signalCookie, cookieOptedOut)
}

func setCookie(w http.ResponseWriter, line string) { w.Header().Add("Set-Cookie", line) }

// stick keeps blocking the browser of an account that opted out.
func (g *Gate) stick(w http.ResponseWriter, r *http.Request) {
	if g.handshake != nil && g.handshake.sticky && !chosenCookie(r.Header) {
		setCookie(w, g.handshake.cookies.chosen)
	}
}

// unstick ends that for an account that explicitly allows.
func (g *Gate) unstick(w http.ResponseWriter, r *http.Request) {
	if g.handshake != nil && g.handshake.sticky && chosenCookie(r.Header) {
		setCookie(w, g.handshake.cookies.removed)
	}
}
