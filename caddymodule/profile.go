package caddymodule

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/bearertoken"
	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

// Profile is the service that owns the preference, and how it is asked.
type Profile struct {
	// URL of the profile server. The gate asks <url>/metrics_optout for the
	// subject of its token or, where the URL holds {uid}, the URL itself with
	// the account in its place. Placeholders such as {env.NAME} are resolved
	// at start.
	URL string `json:"url,omitempty"`

	// AllowHTTP takes a URL by http to other machines too, where nobody can
	// read or change what is on the way. Default: false, so that http is for
	// this machine only.
	AllowHTTP bool `json:"allow_http,omitempty"`

	// API is how the profile server is asked. "fxa" is today's Firefox
	// Accounts: the gate asks <url>/profile with the session's own token
	// (Auth.Forward) and reads the field metricsEnabled, where false means
	// opted out and true that nobody chose. It never writes, and accounts
	// that are only named are unknown. Default: as URL says.
	API string `json:"api,omitempty" placeholder:"refused"`

	// Field is the JSON field of the reply that holds the preference.
	// Default: metrics_optout.
	Field string `json:"field,omitempty"`

	// Inverted says that true in Field means allowed, as in
	// analytics_allowed. Default: false.
	Inverted bool `json:"inverted,omitempty"`

	// Auth is the credential that the gate asks with. Required.
	Auth *ProfileAuth `json:"auth,omitempty" word:""`

	// NotFound is what a 404 says of an account that is only named: "unknown"
	// (default), or "null", that nobody chose, where names may be devices' or
	// other services'. Of an account that is proven it is always unknown.
	NotFound string `json:"not_found,omitempty" placeholder:"refused"`

	// Timeout is how long a lookup may take, and so how long a gated request
	// can wait for one. Default: 300ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// MaxAge is how long an answer is used, and so how late an opt-out can
	// act. The gate shortens it by up to a fifth at random, so that answers
	// do not all expire at once, and never lengthens it. Default: 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// MaxEntries bounds the cache of preferences and that of verified tokens,
	// in accounts and in tokens; accounts that are only named use half of it
	// besides or, where there are no sessions, all of it. Default: 100000.
	MaxEntries int `json:"max_entries,omitempty"`

	// Concurrency bounds the lookups in flight. Where there are sessions, at
	// most half of them are for accounts that are only named. A proven account
	// that would exceed it does not wait: its preference is unknown. One that
	// is only named waits for a slot, as long as its request may. Default: 64.
	Concurrency int `json:"concurrency,omitempty"`

	// Follow keeps one connection to <url>/changes, on which the profile
	// server tells every change, so that an opt-out acts at once. While it is
	// away, MaxAge says how late. It needs Auth.Mint and a URL without {uid}.
	// Default: true where it has both, else false.
	Follow *bool `json:"follow,omitempty"`
}

// apiFxA is the API that Firefox Accounts shipped.
const apiFxA = "fxa"

// What a 404 says of an account that is only named.
const (
	notFoundNull    = "null"
	notFoundUnknown = "unknown"
)

// ProfileAuth is the credential for the profile server. Exactly one field is
// set.
type ProfileAuth struct {
	// Mint signs a token of 60 seconds for the account that is asked about.
	Mint *MintAuth `json:"mint,omitempty" word:"auth mint"`

	// Forward sends the session's own token, and so answers for its account
	// only; every other account's preference is unknown.
	Forward bool `json:"forward,omitempty"`

	// Bearer is a fixed token. It says nothing of the account, so the URL
	// must hold {uid}. Write it as {env.NAME} or {file./path}.
	Bearer string `json:"bearer,omitempty" word:"auth bearer"`
}

// MintAuth signs the gate's own tokens: one for reading, with scope
// profile:metrics_optout, one for writing, with scope
// profile:metrics_optout:write, and one for the change feed, with scope
// metrics_optout:changes.
type MintAuth struct {
	// Key is a private key in PEM (RS256, ES256 or EdDSA by its kind) or a
	// shared secret of at least 32 bytes (HS256). Write it as {env.NAME} or
	// {file./path}. Required.
	Key string `json:"key,omitempty"`

	// ClientID is the claim client_id, which the profile server must trust.
	// Default: metrics-gate.
	ClientID string `json:"client_id,omitempty"`

	// Issuer is the claim iss. Default: the client id.
	Issuer string `json:"issuer,omitempty"`

	// Audience is the claim aud. Default: the profile's URL.
	Audience string `json:"audience,omitempty"`
}

// What the documentation says of auth mint.
const (
	defaultClientID = "metrics-gate"
	mintedTokenLife = time.Minute
)

// maxEntries is the size of the caches, whether or not there is a profile.
func (p *Profile) maxEntries() int {
	if p == nil {
		return profileclient.DefaultMaxEntries
	}
	return cmp.Or(p.MaxEntries, profileclient.DefaultMaxEntries)
}

// timeout is how long a lookup may take.
func (p *Profile) timeout() time.Duration {
	return cmp.Or(time.Duration(p.Timeout), profileclient.DefaultTimeout)
}

// canWrite says whether the credential is known to be good for writing. A
// minted one is signed for that purpose; of the others only the operator
// knows.
func (p *Profile) canWrite() bool { return p != nil && p.Auth != nil && p.Auth.Mint != nil }

// isReadOnly says that there is no way to write, whatever the credential.
func (p *Profile) isReadOnly() bool { return p.API == apiFxA }

// canFollow says whether there is a change feed for the URL and credential.
func (p *Profile) canFollow() bool {
	return p.Auth.Mint != nil && !strings.Contains(p.URL, "{uid}") && p.API == ""
}

func (p *Profile) validate() error {
	var problems []error
	if p.API != "" && p.API != apiFxA {
		problems = append(problems, located.Errorf("api", "%q is not %s; write that, or leave it out", p.API, apiFxA))
	}
	if p.NotFound != "" && p.NotFound != notFoundNull && p.NotFound != notFoundUnknown {
		problems = append(problems, located.Errorf("not_found", "%q is not one of null, unknown", p.NotFound))
	}
	for word, value := range map[string]int64{
		"timeout": int64(p.Timeout), "max_age": int64(p.MaxAge),
		"max_entries": int64(p.MaxEntries), "concurrency": int64(p.Concurrency),
	} {
		if value < 0 {
			problems = append(problems, located.Errorf(word, "is negative; leave it out for the default"))
		}
	}
	switch {
	case p.URL == "":
		problems = append(problems, located.Errorf("url", "none given; write the profile server's URL"))
	case p.Auth == nil || grammar.CountSet(p.Auth.Mint != nil, p.Auth.Forward, p.Auth.Bearer != "") != 1:
		problems = append(problems, located.Errorf("auth", "write exactly one of mint, forward and bearer"))
	case p.API == apiFxA:
		problems = append(problems, p.validateFxA())
	case p.Auth.Bearer != "" && !strings.Contains(p.URL, "{uid}"):
		problems = append(problems, located.Errorf("auth bearer", "the token does not say whose preference is asked for; "+
			"put {uid} into the profile's URL, or use auth mint"))
	case p.Follow != nil && *p.Follow && !p.canFollow():
		problems = append(problems, located.Errorf("follow", "the change feed is at <url>/changes, for the gate's own token; "+
			"use auth mint and a URL without {uid}, or leave follow out"))
	}
	return errors.Join(problems...)
}

// validateFxA refuses what today's Firefox Accounts has no counterpart of.
func (p *Profile) validateFxA() error {
	switch {
	case !p.Auth.Forward:
		return located.Errorf("auth", "api fxa tells an account its own preference only, so the session's token is needed; "+
			"write auth forward, or leave api out and import the preferences into profile_server")
	case strings.Contains(p.URL, "{uid}"):
		return located.Errorf("url", "api fxa has one address for all accounts; "+
			"write the server's base without {uid}, such as https://profile.example.org/v1")
	case p.Field != "" || p.Inverted:
		return located.Errorf("field", "api fxa has a field of its own, metricsEnabled; leave field out")
	case p.Follow != nil && *p.Follow:
		return located.Errorf("follow", "api fxa has no change feed; leave follow out")
	}
	return nil
}

// profileSettings is all that makes two profiles the same, resolved.
type profileSettings struct {
	URL, API, Field                string
	Inverted, AllowHTTP            bool
	MintKey, Bearer                string
	Forward                        bool
	ClientID, Issuer, Audience     string
	Timeout, MaxAge                time.Duration
	MaxEntries, ConcurrentRequests int
	Follow, OnlyNamed              bool
	NotFoundIsUnset                bool
}

// settings are the options, whose placeholders have been resolved; onlyNamed
// says that no session proves anybody.
func (p *Profile) settings(onlyNamed bool) profileSettings {
	settings := profileSettings{
		OnlyNamed:          onlyNamed,
		URL:                p.URL,
		AllowHTTP:          p.AllowHTTP,
		API:                p.API,
		Field:              p.Field,
		Inverted:           p.Inverted,
		Timeout:            p.timeout(),
		MaxAge:             cmp.Or(time.Duration(p.MaxAge), profileclient.DefaultMaxAge),
		MaxEntries:         p.maxEntries(),
		ConcurrentRequests: cmp.Or(p.Concurrency, profileclient.DefaultConcurrency),
		Forward:            p.Auth.Forward,
		Bearer:             p.Auth.Bearer,
		Follow:             p.canFollow(),
		NotFoundIsUnset:    p.NotFound == notFoundNull,
	}
	if p.Follow != nil {
		settings.Follow = *p.Follow
	}
	if mint := p.Auth.Mint; mint != nil {
		settings.MintKey = mint.Key
		settings.ClientID = cmp.Or(mint.ClientID, defaultClientID)
		settings.Issuer = cmp.Or(mint.Issuer, settings.ClientID)
		settings.Audience = cmp.Or(mint.Audience, settings.URL)
	}
	return settings
}

// profileClients are shared across reloads, with all that they have cached.
var profileClients = pool.New[*profileclient.Client]()

// client returns the profile client for these settings: the one that a
// running configuration uses, with all that it has cached, or a new one.
func (p *Profile) client(onlyNamed bool, held *pool.Leases) (*profileclient.Client, error) {
	settings := p.settings(onlyNamed)
	client, err := profileClients.Acquire(held, settings, func() (*profileclient.Client, error) {
		auth, err := settings.auth()
		if err != nil {
			return nil, err
		}
		api := profileclient.MetricsOptOut
		if settings.API == apiFxA {
			api = profileclient.FxA
		}
		return profileclient.New(profileclient.Config{
			URL:         settings.URL,
			AllowHTTP:   settings.AllowHTTP,
			API:         api,
			Field:       settings.Field,
			Inverted:    settings.Inverted,
			Auth:        auth,
			Follow:      settings.Follow,
			Timeout:     settings.Timeout,
			MaxAge:      settings.MaxAge,
			MaxEntries:  settings.MaxEntries,
			Concurrency: settings.ConcurrentRequests,
			OnlyNamed:   settings.OnlyNamed,
			Observer:    profileObserver(),

			NotFoundIsUnset: settings.NotFoundIsUnset,
		})
	})
	if err == nil {
		bearertoken.LogSecrets(held, gateID, "metrics_gate › profile › auth", []byte(settings.MintKey), []byte(settings.Bearer))
	}
	return client, err
}

func (s *profileSettings) auth() (profileclient.Auth, error) {
	switch {
	case s.Forward:
		return profileclient.Forward(), nil
	case s.Bearer != "":
		return profileclient.Bearer(s.Bearer), nil
	}
	minter, err := token.NewMinter(token.MinterConfig{
		Key: []byte(s.MintKey), ClientID: s.ClientID, Issuer: s.Issuer, Audience: s.Audience, Lifetime: mintedTokenLife,
	})
	if err != nil {
		return profileclient.Auth{}, at(err, "auth mint")
	}
	return profileclient.Mint(minter), nil
}

func logProfileHealth(err error) {
	logger := caddy.Log().Named(gateID)
	if err != nil {
		logger.Warn("the profile server fails: preferences that are not cached are unknown until it answers again", zap.Error(err),
			zap.String("advice", stepsFor(err)+". Until it answers, on_unknown decides about the accounts that are not known: unless it is collect, their metrics are lost; caddy metrics-gate status says more"))
		return
	}
	logger.Info("the profile server answers again")
}

func logFeedHealth(err error) {
	logger := caddy.Log().Named(gateID)
	if err != nil {
		advice := "where the profile server itself fails, mend that first; if it is to have no feed, write follow off in profile"
		if isNetwork(err) {
			advice = "where the profile server itself fails, mend that first; else " + stepsFor(err)
		}
		logger.Warn("the change feed cannot be followed, so a change takes effect after max_age only", zap.Error(err), zap.String("advice", advice))
		return
	}
	logger.Info("the change feed is followed again")
}
