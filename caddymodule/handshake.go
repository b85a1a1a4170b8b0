package caddymodule

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/gate"
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

// config is the handshake of the gate, but for what placeholders stand for.
func (h *Handshake) config() *gate.Handshake {
	timeouts := make(map[string]time.Duration, len(h.ContextTimeouts))
	for context, timeout := range h.ContextTimeouts {
		timeouts[context] = time.Duration(timeout)
	}
	return &gate.Handshake{
		Timeout:         time.Duration(h.Timeout),
		ContextTimeouts: timeouts,
		NoInject:        h.Inject != nil && !*h.Inject,
		CookieLife:      time.Duration(h.CookieLife),
		NotSticky:       h.Sticky != nil && !*h.Sticky,
	}
}

// resolved is config with what placeholders stand for, and nil of no handshake.
func (h *Handshake) resolved(repl *caddy.Replacer) (*gate.Handshake, error) {
	if h == nil {
		return nil, nil
	}
	config := h.config()
	var err error
	config.Embedders, err = placeholder.ResolveAll(repl, h.Embedders)
	problems := []error{at(err, "embedder")}
	if h.SiteName != "" {
		config.SiteName, err = placeholder.Resolve(repl, h.SiteName)
		problems = append(problems, at(err, "site_name"))
	}
	return config, errors.Join(problems...)
}

// validate finds what is wrong with the values, wherever they come from. What a
// placeholder stands for is known when the configuration is loaded.
func (h *Handshake) validate() error {
	config := h.config()
	for _, embedder := range h.Embedders {
		if !placeholder.Is(embedder) {
			config.Embedders = append(config.Embedders, embedder)
		}
	}
	return config.Validate()
}
