package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/browser"
)

// Handshake asks the browser whether its user already switched telemetry off,
// and brings the page on which people choose. Its addresses are below
// /.well-known/metrics-gate/. In shadow mode it is off altogether.
type Handshake struct {
	// Timeout is how long a page waits for the browser's answer; nothing else
	// waits for it. Default: 2s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// ContextTimeouts are timeouts of their own for pages whose query
	// parameter context has that value, such as fx_desktop_v3. Default: none.
	ContextTimeouts map[string]caddy.Duration `json:"context_timeouts,omitempty"`

	// Inject puts the script into HTML pages on their way. False is for
	// applications that have the script's tag themselves. Default: true.
	Inject *bool `json:"inject,omitempty"`

	// Embedders are the origins, such as https://www.example.org, whose pages
	// may hold this site in a frame and are told whether its user opted out.
	// Default: none.
	Embedders []string `json:"embedders,omitempty"`

	// CookieLife is how long the signal's cookie is kept. Default: 180d.
	CookieLife caddy.Duration `json:"cookie_life,omitempty"`

	// Sticky keeps blocking a browser after an account opted out in it and
	// signed out, with a cookie that holds one bit. Default: true.
	Sticky *bool `json:"sticky,omitempty"`

	// SiteName is what the preference page calls this site. Default: the
	// request's host.
	SiteName string `json:"site_name,omitempty"`
}

const (
	defaultHandshakeTimeout = 2 * time.Second
	defaultCookieLife       = 180 * 24 * time.Hour
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
}

// ownAddress serves one of the gate's own addresses.
type ownAddress func(g *Gate, w http.ResponseWriter, r *http.Request)

func (h *Handshake) provision(repl *caddy.Replacer) (*handshake, error) {
	embedders, err := resolveAll(repl, h.Embedders)
	problems := []error{at(err, "embedder")}
	for i := range embedders {
		if err == nil {
			embedders[i], err = browser.ParseOrigin(embedders[i])
			problems = append(problems, at(err, "embedder"))
		}
	}
	siteName := h.SiteName
	if siteName != "" {
		siteName, err = resolve(repl, h.SiteName)
		problems = append(problems, at(err, "site_name"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	timeouts := make(map[string]time.Duration, len(h.ContextTimeouts))
	for context, timeout := range h.ContextTimeouts {
		timeouts[context] = time.Duration(timeout)
	}
	ready := &handshake{
		script: browser.NewScript(browser.ScriptConfig{
			Timeout:   cmp.Or(time.Duration(h.Timeout), defaultHandshakeTimeout),
			Timeouts:  timeouts,
			Embedders: embedders,
		}),
		inject:   h.Inject == nil || *h.Inject,
		framed:   len(embedders) > 0,
		sticky:   h.Sticky == nil || *h.Sticky,
		cookies:  newSignalCookies(cmp.Or(time.Duration(h.CookieLife), defaultCookieLife)),
		siteName: siteName,
		page:     browser.NewPreferencePage(),
		forgery:  http.NewCrossOriginProtection(),
	}
	ready.own = map[string]ownAddress{
		"handshake.js":   func(_ *Gate, w http.ResponseWriter, r *http.Request) { ready.script.ServeHTTP(w, r) },
		"preference.css": func(_ *Gate, w http.ResponseWriter, r *http.Request) { browser.ServePreferenceCSS(w, r) },
		"signal":         (*Gate).serveSignal,
		"status":         (*Gate).serveStatus,
		"preference":     (*Gate).servePreference,
	}
	return ready, nil
}

// validate finds what is wrong with the values, wherever they come from.
func (h *Handshake) validate() error {
	if h == nil {
		return nil
	}
	var problems []error
	if h.Timeout < 0 {
		problems = append(problems, wrongAt("timeout", "is negative; leave it out for 2s"))
	}
	for context, timeout := range h.ContextTimeouts {
		if timeout <= 0 || context == "" {
			problems = append(problems, wrongAt("timeout", "%v for context %q is not possible; write timeout <duration> <context>", time.Duration(timeout), context))
		}
	}
	if h.CookieLife < 0 {
		problems = append(problems, wrongAt("cookie_life", "is negative; leave it out for 180d"))
	}
	for _, embedder := range h.Embedders {
		if isPlaceholder(embedder) {
			continue // known when the configuration is loaded
		}
		if _, err := browser.ParseOrigin(embedder); err != nil {
			problems = append(problems, at(err, "embedder"))
		}
	}
	return errors.Join(problems...)
}

// address returns what serves an own address, or nil. The path is compared as
// it is written in the pages that link there.
func (h *handshake) address(path string) ownAddress {
	name, below := strings.CutPrefix(path, browser.Base)
	if !below {
		return nil
	}
	return h.own[name]
}

// serveOwn answers one of the gate's own addresses. None of them is kept in
// the access log: the size of a reply alone would tell who opted out.
func (g *Gate) serveOwn(w http.ResponseWriter, r *http.Request, serve ownAddress) {
	if !g.LogBlocked {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	serve(g, w, r)
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
	// Where the connection has no deadlines, the server's own timeout holds.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
}

// fromHere says whether a request comes from this site itself: by what the
// browser says of it (Fetch metadata) or, where it says nothing, by its
// Origin. A request without either comes from no browser that could be made to
// send it.
func (g *Gate) fromHere(r *http.Request) bool {
	return g.handshake.forgery.Check(r) == nil && (r.Header.Get("Sec-Fetch-Site") != "" || isOwnOrigin(r))
}

// isOwnOrigin says whether an Origin is this site's, scheme included, or is
// not said.
func isOwnOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || origin == scheme(r)+"://"+r.Host
}

// scheme is the one that the client used. X-Forwarded-Proto counts from the
// proxies only that Caddy's trusted_proxies names.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		if forwarded := r.Header.Get("X-Forwarded-Proto"); forwarded != "" {
			return forwarded
		}
	}
	return "http"
}
