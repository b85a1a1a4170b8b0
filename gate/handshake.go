package gate

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/browser"
)

// handshake is a Handshake made ready for requests.
type handshake struct {
	script   *browser.Script
	inject   bool
	framed   bool // an embedder is configured
	sticky   bool
	cookies  signalCookies
	siteName string
	page     *browser.PreferencePage
	forgery  *http.CrossOriginProtection
	own      map[string]ownAddress
	account  string // where an account's choice is made
}

// ownAddress serves one of the gate's own addresses.
type ownAddress func(g *Gate, w http.ResponseWriter, r *http.Request)

func newHandshake(all *Config) *handshake {
	config := all.Handshake
	embedders := make([]string, 0, len(config.Embedders))
	for _, embedder := range config.Embedders {
		origin, _ := browser.ParseOrigin(embedder) // Validate has looked at it
		embedders = append(embedders, origin)
	}
	h := &handshake{
		script: browser.NewScript(browser.ScriptConfig{
			Timeout:   cmp.Or(config.Timeout, defaultHandshakeTimeout),
			Timeouts:  config.ContextTimeouts,
			Embedders: embedders,
			Proof:     all.Proof,
		}),
		inject:   !config.NoInject,
		framed:   len(embedders) > 0,
		sticky:   !config.NotSticky,
		cookies:  newSignalCookies(cmp.Or(config.CookieLife, defaultCookieLife)),
		siteName: config.SiteName,
		page:     browser.NewPreferencePage(),
		forgery:  http.NewCrossOriginProtection(),
		account:  config.AccountURL,
	}
	h.own = map[string]ownAddress{
		"handshake.js": func(_ *Gate, w http.ResponseWriter, r *http.Request) { h.script.ServeHTTP(w, r) },
		"signal":       (*Gate).serveSignal,
	}
	if !all.Shadow {
		h.own["preference.css"] = func(_ *Gate, w http.ResponseWriter, r *http.Request) { browser.ServePreferenceCSS(w, r) }
		h.own["status"] = (*Gate).serveStatus
		h.own["preference"] = (*Gate).servePreference
	}
	return h
}

// address returns what serves an own address, or nil. The path is compared as
// it is written in the pages that link there.
func (h *handshake) address(r *http.Request) ownAddress {
	name, below := strings.CutPrefix(r.URL.Path, browser.Base)
	switch {
	case !below:
		return nil
	case h != nil:
		return h.own[name]
	case name == "signal" && r.Method == http.MethodPost:
		// A script of an earlier configuration hands over credentials, which the
		// application must not get.
		return func(_ *Gate, w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusNotFound, "nobody takes reports here; write handshake")
		}
	default:
		return nil
	}
}

// refuse answers what an own address does not accept, with what to do.
func refuse(w http.ResponseWriter, status int, what string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, what, status)
}

// allow refuses methods other than these.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	refuse(w, http.StatusMethodNotAllowed, "write "+strings.Join(methods, " or "))
	return false
}

// bodyTime is how long a report or a form may take to arrive: both are a few
// bytes, and the server's own timeout may be none.
const bodyTime = 5 * time.Second

// limitBody bounds a body in size and time.
func limitBody(w http.ResponseWriter, r *http.Request, size int64) {
	r.Body = http.MaxBytesReader(w, r.Body, size)
	limitTime(w, bodyTime)
}

// limitTime bounds how long a body may take to arrive. Where the connection has
// no deadlines, the server's own timeout holds.
func limitTime(w http.ResponseWriter, limit time.Duration) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
}

// fromHere says whether a request comes from this site itself: by what the
// browser says of it (Fetch metadata) or, where it says nothing, by its
// Origin. A request without either comes from no browser that could be made to
// send it.
func (g *Gate) fromHere(r *http.Request) bool {
	return g.handshake.forgery.Check(r) == nil && (r.Header.Get("Sec-Fetch-Site") != "" || g.isOwnOrigin(r))
}

// isOwnOrigin says whether an Origin is this site's, scheme included, or is
// not said.
func (g *Gate) isOwnOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || origin == g.scheme(r)+"://"+r.Host
}

// scheme is the one that the client used.
func (g *Gate) scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	if forwarded := r.Header.Get("X-Forwarded-Proto"); forwarded != "" && g.host.Trusts(r) {
		return forwarded
	}
	return "http"
}
