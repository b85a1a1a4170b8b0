package caddymodule

import (
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/gate"
)

// Handshake asks the browser whether its user already switched telemetry off,
// and brings the page on which people choose. Its addresses are below
// /.well-known/metrics-gate/. In shadow mode it is off, but for the script where
// pages prove accounts.
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
	Embedders []string `json:"embedders,omitempty" word:"embedder"`

	// SessionLife is how long the gate's own session can name its account, and so
	// block: it proves it for 10 minutes, and never for longer than the
	// credential that it came from. Only where pages prove accounts. Default: 1d.
	SessionLife caddy.Duration `json:"session_life,omitempty"`

	// CookieLife is how long the signal's cookie is kept. Default: 180d.
	CookieLife caddy.Duration `json:"cookie_life,omitempty"`

	// Sticky keeps blocking a browser after an account opted out in it and
	// signed out, with a cookie that holds one bit. Default: true.
	Sticky *bool `json:"sticky,omitempty"`

	// SiteName is what the preference page calls this site. Default: the
	// request's host.
	SiteName string `json:"site_name,omitempty"`

	// AccountURL is where the preference page sends people for the choice in
	// their account, where no session of this gate can prove one. Default:
	// nowhere.
	AccountURL string `json:"account_url,omitempty"`
}

// config is the handshake of the gate, and nil of none.
func (h *Handshake) config() *gate.Handshake {
	if h == nil {
		return nil
	}
	timeouts := make(map[string]time.Duration, len(h.ContextTimeouts))
	for context, timeout := range h.ContextTimeouts {
		timeouts[context] = time.Duration(timeout)
	}
	return &gate.Handshake{
		Timeout:         time.Duration(h.Timeout),
		ContextTimeouts: timeouts,
		NoInject:        h.Inject != nil && !*h.Inject,
		Embedders:       h.Embedders,
		CookieLife:      time.Duration(h.CookieLife),
		NotSticky:       h.Sticky != nil && !*h.Sticky,
		SiteName:        h.SiteName,
		AccountURL:      h.AccountURL,
	}
}
