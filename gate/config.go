package gate

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// Config is what a Gate is made of.
type Config struct {
	// Shadow decides and tells the observer, and changes nothing: nothing is
	// blocked, no page is changed, no cookie set, and the application is told
	// nothing. Opted-out users are still measured. Default: false.
	Shadow bool

	// Presets add the gated routes of known applications and SDKs. A route of
	// one's own for the same method and path takes the place of a preset's. Those
	// of two presets must not meet. With neither Sessions nor Profile the names
	// that they read are left alone, since no account is known. Default: none.
	Presets []UsedPreset

	// Routes are the gated routes, and the exceptions from them. Without any
	// that is gated, and without presets, New refuses the configuration.
	Routes []Route

	// Reject answers blocked metrics requests with 403 and an
	// application/problem+json instead of the route's answer. Experiment routes
	// always get their answer, and a block that only a named account caused
	// always looks like a success. Default: false.
	Reject bool

	// Reply is what the clients of collected metrics requests get, for routes
	// that do not say it themselves: "show", the application's reply, or "hide",
	// the route's answer. Default: hide where an account that is only named can
	// decide, or was looked up, and for every sender that is another site's page;
	// show elsewhere.
	Reply string

	// CORS lists the origins whose pages may read answers where replies are
	// shown. Where they are hidden every page may, since the answer is the same
	// for everyone. Default: none.
	CORS []string

	// Rules say what happens where a preference is unknown and where nobody
	// chose. Default: policy.DefaultRules, which block the former and collect
	// the latter.
	Rules *policy.Rules

	// Sessions are the ways in which a request can prove its account, in the
	// order in which they are tried. The caller closes them. Default: none.
	Sessions session.Sources

	// Own is the gate's own session, which counts like Sessions and after them:
	// the handshake's script finds at Proof what proves the account, and hands it
	// over. It needs a Handshake, whose script then runs in shadow mode as well.
	// Default: none.
	Own *session.Own

	// Proof is where pages keep what Own verifies. Required with it.
	Proof *browser.Proof

	// Names says where requests of metrics routes name accounts, but for routes
	// that say it themselves and those of a preset. A name can cause a block of
	// a metrics request, nothing else, and where one counts, clients get the
	// route's answer to collected requests as well. Default: nowhere.
	Names *session.NamesConfig

	// Profile is asked for preferences. The caller closes it. Default: none, so
	// that only the sessions' own claims say what accounts prefer.
	Profile *profileclient.Client

	// Signal adds to where the browser's word is found.
	Signal Signal

	// WriteBack has the browser's opt-out written into a verified session's
	// profile that holds no choice. Default: false.
	WriteBack bool

	// Handshake asks browsers whether their users already switched telemetry
	// off, and brings the preference page. Default: none.
	Handshake *Handshake

	// ExperimentParams are the query parameters that are taken out of blocked
	// users' navigations. Pages then wait for a lookup. Default: none.
	ExperimentParams []string

	// FeatureFlags overrides what a page says of features, for blocked users.
	// Pages then wait for a lookup. Default: none.
	FeatureFlags []FeatureFlags

	// Label is what traces call the gate, and SessionKinds what they call
	// Sessions, one each. Default: "" and "session".
	Label        string
	SessionKinds []string

	// LookedFor says to traces where each of Sessions, and then Own, is looked for,
	// such as "cookie session". Default: nothing is said.
	LookedFor []string

	// Keys says to traces what a kind of session verifies with, by its index in
	// Sessions, in words that hold no secret. Default: nothing is said.
	Keys func(source int) string

	// Traces are those that may be opened to see how a request is decided.
	// Default: none ever are.
	Traces *Traces

	// Observer is told what happens. Default: nobody is.
	Observer Observer

	// Host is what the server around the gate does for it. Default: what plain
	// net/http does.
	Host Host

	// Log is told what an operator has to act on and, where it takes the level
	// debug when the gate is made, how each decision came about. Nothing in it
	// says anything about a person. Default: nobody is.
	Log *zap.Logger
}

// knowsAccounts says whether there is any way to learn what an account prefers.
func (c *Config) knowsAccounts() bool {
	return c.Profile != nil || c.Own != nil || len(c.Sessions) > 0
}

// kinds are what traces call the sources of sessions.
func (c *Config) kinds() (kinds []string) {
	for i := range c.Sessions {
		kind := "session"
		if i < len(c.SessionKinds) {
			kind = c.SessionKinds[i]
		}
		kinds = append(kinds, kind)
	}
	return append(kinds, "own")
}

// ConfigError says which setting is wrong, by the words that it has in a
// configuration file, and how. An error of a part of a setting has another
// ConfigError inside.
type ConfigError struct {
	Setting string
	Err     error
}

func (e *ConfigError) Error() string { return e.Setting + ": " + e.Err.Error() }

func (e *ConfigError) Unwrap() error { return e.Err }

// wrong makes a ConfigError of what was found, or nil of nothing.
func wrong(setting string, err error) error {
	if err == nil {
		return nil
	}
	return &ConfigError{setting, err}
}

// validate finds what is wrong with the values by themselves.
func (c *Config) validate() error {
	var problems []error
	for i := range c.Presets {
		used := &c.Presets[i]
		err := used.Validate()
		for earlier := 0; err == nil && earlier < i; earlier++ {
			err = used.ValidateAfter(&c.Presets[earlier])
		}
		problems = append(problems, wrong("preset "+used.Name, err))
	}
	isGated := func(route Route) bool { return route.Class != ClassEssential }
	if len(c.Presets) == 0 && !slices.ContainsFunc(c.Routes, isGated) {
		problems = append(problems, errors.New("nothing is gated; write preset <name>, or route <METHOD> <path>"))
	}
	if !isReply(c.Reply) {
		problems = append(problems, wrongf("reply", "%q is neither hide nor show", c.Reply))
	}
	for _, origin := range c.CORS {
		_, err := browser.ParseOrigin(origin)
		problems = append(problems, wrong("cors", err))
	}
	_, err := namesOf(c.Names)
	problems = append(problems, wrong("names", err))
	for i := range c.Routes {
		route := &c.Routes[i]
		err := route.Validate()
		for earlier := 0; err == nil && earlier < i; earlier++ {
			err = route.ValidateAfter(&c.Routes[earlier])
		}
		problems = append(problems, wrong("route "+route.Path, err))
	}
	switch {
	case (c.Own == nil) != (c.Proof == nil):
		problems = append(problems, wrong("session", errors.New("an own session and where pages keep its proof go together; set both")))
	case c.Own != nil && c.Handshake == nil:
		problems = append(problems, wrong("handshake", errors.New("none is set, and its script is what hands over what pages keep in their storage; write handshake")))
	}
	return errors.Join(append(problems,
		wrong("signal", c.Signal.Validate()),
		wrong("handshake", c.Handshake.Validate()),
		wrong("feature_flags", validateFlags(c.FeatureFlags)),
	)...)
}

// origins are those of CORS as browsers write them.
func (c *Config) origins() []string {
	origins := make([]string, 0, len(c.CORS))
	for _, text := range c.CORS {
		origin, _ := browser.ParseOrigin(text) // validate has looked at it
		origins = append(origins, origin)
	}
	return origins
}

// Handshake asks the browser whether its user already switched telemetry off,
// and brings the page on which people choose. Its addresses are below
// /.well-known/metrics-gate/. The zero value is a handshake with all defaults.
type Handshake struct {
	// Timeout is how long a page waits for the browser's answer; nothing else
	// waits for it. Default: 2 seconds.
	Timeout time.Duration

	// ContextTimeouts are timeouts of their own for pages whose query parameter
	// context has that value. Default: none.
	ContextTimeouts map[string]time.Duration

	// NoInject is for applications that have the script's tag themselves, so
	// that it is not put into HTML pages on their way. Default: false.
	NoInject bool

	// Embedders are the origins whose pages may hold this site in a frame and
	// are told whether its user opted out. Default: none.
	Embedders []string

	// CookieLife is how long the signal's cookie is kept. Default: 180 days.
	CookieLife time.Duration

	// NotSticky stops blocking a browser when an account that opted out in it
	// has signed out. Default: false.
	NotSticky bool

	// SiteName is what the preference page calls this site. Default: the
	// request's host.
	SiteName string

	// AccountURL is where the preference page sends people for their account's
	// choice, where no request can prove one. Default: nowhere.
	AccountURL string
}

const (
	defaultHandshakeTimeout = 2 * time.Second
	defaultCookieLife       = 180 * 24 * time.Hour
)

// Validate finds what is wrong with the values. Of no handshake nothing is.
func (h *Handshake) Validate() error {
	if h == nil {
		return nil
	}
	var problems []error
	problem := func(setting, format string, args ...any) {
		problems = append(problems, wrongf(setting, format, args...))
	}
	if h.Timeout < 0 {
		problem("timeout", "is negative; leave it out for 2s")
	}
	for context, timeout := range h.ContextTimeouts {
		if timeout <= 0 || context == "" {
			problem("timeout", "%v for context %q is not possible; write timeout <duration> <context>", timeout, context)
		}
	}
	if h.CookieLife < 0 {
		problem("cookie_life", "is negative; leave it out for 180d")
	}
	if u, err := url.Parse(h.AccountURL); h.AccountURL != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		problem("account_url", "%q is not a URL that starts with https://", h.AccountURL)
	}
	for _, embedder := range h.Embedders {
		_, err := browser.ParseOrigin(embedder)
		problems = append(problems, wrong("embedder", err))
	}
	return errors.Join(problems...)
}

// wrongf is wrong of a new error.
func wrongf(setting, format string, args ...any) error {
	return &ConfigError{setting, fmt.Errorf(format, args...)}
}
