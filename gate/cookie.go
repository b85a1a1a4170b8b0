package gate

import (
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/session"
)

// The values of the signal's cookie, besides those of package session: each who
// writes one has its own, so that it takes back what it wrote and nothing else.
const (
	cookieOptedOut    = "1"    // the handshake learnt it
	cookieNoObjection = "0"    // likewise
	cookieChosen      = "true" // a person chose it for this browser
)

// signalCookies are the Set-Cookie lines of the signal's cookie, made once.
// Each holds one bit and no identifier.
type signalCookies struct {
	handshake, framed           map[string]string // by value
	chosen, remembered, removed string
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
			cookieOptedOut:     line(cookieOptedOut, seconds),
			cookieNoObjection:  line(cookieNoObjection, seconds),
			cookieChosen:       line(cookieChosen, seconds),
			session.Remembered: line(session.Remembered, seconds),
			session.NoAnswer:   line(session.NoAnswer, 0), // until the browser is closed
			"":                 line("", -1),
		}
	}
	lax := lines(http.SameSiteLaxMode, false)
	return signalCookies{
		handshake: lax,
		// A frame on another site gets no cookie but a partitioned one.
		framed:     lines(http.SameSiteNoneMode, true),
		chosen:     lax[cookieChosen],
		remembered: lax[session.Remembered],
		removed:    lax[""],
	}
}

// chosenCookie says whether somebody chose that this browser is not measured,
// on the preference page or in the application. Only that page takes it back.
func chosenCookie(h http.Header) bool {
	return session.CookieHolds(h, signalCookie, cookieChosen)
}

// rememberedCookie says whether the gate remembers an account that opted out
// in this browser.
func rememberedCookie(h http.Header) bool {
	return session.CookieHolds(h, signalCookie, session.Remembered)
}

// reportedOptOut says whether the browser holds the cookie of a handshake that
// learnt an opt-out.
func reportedOptOut(h http.Header) bool {
	return session.CookieHolds(h, signalCookie, cookieOptedOut)
}

func setCookie(w http.ResponseWriter, line string) { w.Header().Add("Set-Cookie", line) }

// remember keeps blocking the browser of an account that opted out, when it has
// signed out. It says whether a cookie had to be set for that.
func (g *Gate) remember(w http.ResponseWriter, r *http.Request) bool {
	if g.handshake == nil || !g.handshake.sticky || chosenCookie(r.Header) || rememberedCookie(r.Header) {
		return false
	}
	setCookie(w, g.handshake.cookies.remembered)
	return true
}

// forget ends that: a proven account allows, or somebody chose otherwise on the
// preference page. What a person chose for this browser stays.
func (g *Gate) forget(w http.ResponseWriter, r *http.Request) {
	if g.handshake != nil && rememberedCookie(r.Header) && !chosenCookie(r.Header) {
		setCookie(w, g.handshake.cookies.removed)
	}
}
