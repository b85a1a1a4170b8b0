package profileclient

import (
	"cmp"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

// The defaults of a Config.
const (
	DefaultField       = optoutapi.Preference
	DefaultTimeout     = 300 * time.Millisecond
	DefaultMaxAge      = time.Minute
	DefaultMaxEntries  = 100_000
	DefaultConcurrency = 64
)

// Config is what a Client needs to know. URL and Auth are required; the zero
// value of every other field is its default.
type Config struct {
	// URL of the profile server: <URL>/metrics_optout is asked for the
	// subject of the token. Where it holds {uid}, it is the address itself,
	// with the account in that place, escaped. It is https, or http on
	// loopback or with AllowHTTP.
	URL string

	// AllowHTTP takes a URL by http to other machines too. Whoever is on the way
	// to them can then read the credential, and allow for anybody. Default:
	// false.
	AllowHTTP bool

	// Field is the JSON field of the answer that holds the preference.
	// Default: metrics_optout.
	Field string

	// Inverted says that true in Field means allowed, as in
	// analytics_allowed. Default: false.
	Inverted bool

	// API is what the server is asked by. Default: MetricsOptOut.
	API API

	// Auth is the credential: Mint, Forward or Bearer.
	Auth Auth

	// Follow keeps a connection to <URL>/changes, on which the server tells
	// every change as it is made, so that it decides the next Lookup instead
	// of the one after MaxAge. It needs Mint with a client id, and a URL
	// without {uid}. Default: false.
	Follow bool

	// Timeout is how long one request to the profile server may take, and so
	// how long a lookup can wait. Default: 300ms.
	Timeout time.Duration

	// MaxAge is how long an answer is used, and so how late an opt-out can act
	// where the client does not follow, or the change feed is away. It is
	// shortened by up to a fifth at random, so that answers do not all expire
	// at once, and never lengthened. Default: 1m.
	MaxAge time.Duration

	// MaxEntries bounds the cache, in accounts. Accounts that are only named
	// have one of half that size besides. Fewer than 20 count as 20. Default:
	// 100000.
	MaxEntries int

	// Concurrency bounds the lookups in flight; at most half of them, and at
	// least one, are for accounts that are only named. A proven account that
	// would exceed it is unknown at once, and one that is only named waits for
	// a slot. Write-backs have a quarter of it for themselves. Default: 64.
	Concurrency int

	// OnlyNamed says that no account is ever proven. Then those that are named
	// have all of MaxEntries and Concurrency. Default: false.
	OnlyNamed bool

	// NotFoundIsUnset takes a 404 about an account that is only named for no
	// choice: what is named may be a device, or no account. About one that is
	// proven it stays a failure. Default: false, so that it is one for both.
	NotFoundIsUnset bool

	// Transport sends the requests. Default: one of the Client's own.
	Transport http.RoundTripper

	// Observer is told what happens. Default: nobody is.
	Observer Observer
}

// API is a way to ask for preferences.
type API uint8

const (
	// MetricsOptOut has the preference at an address of its own.
	MetricsOptOut API = iota

	// FxA is the profile server of Firefox Accounts as it was shipped: GET
	// <URL>/profile, where the field metricsEnabled is false for who opted
	// out, and true for everybody else. So nobody ever allows explicitly. It
	// is only read, and needs Forward: every other account is unknown.
	FxA
)

// ConfigError says which setting is wrong, by the name that it has in a
// configuration file, and how.
type ConfigError struct {
	Setting string
	Err     error
}

func (e *ConfigError) Error() string { return "profile client: " + e.Setting + ": " + e.Err.Error() }

func (e *ConfigError) Unwrap() error { return e.Err }

// wrong says what is wrong with a setting.
func wrong(setting, how string) error { return &ConfigError{setting, errors.New(how)} }

// validate returns the address that URL names, or all that is wrong.
func (c Config) validate() (address, error) {
	target, err := parseAddress(c.URL, c.API, c.AllowHTTP)
	oneForAll := err == nil && !target.perAccount
	if err != nil {
		err = &ConfigError{"url", err}
	}
	return target, errors.Join(err, c.validateAuth(oneForAll), c.validateFollow(target), c.validateFxA(target), c.validateLimits())
}

func (c Config) validateAuth(oneForAll bool) error {
	switch {
	case c.Auth == Auth{}:
		return wrong("auth", "there is no credential; write one that is not empty")
	case strings.ContainsFunc(c.Auth.bearer, unicode.IsControl):
		return wrong("auth", "the bearer token holds a line break or another control character; write the token alone")
	case c.Auth.bearer != "" && oneForAll:
		return wrong("auth", "a bearer token does not say whose preference is asked for; put {uid} into the URL, or mint tokens")
	}
	return nil
}

func (c Config) validateFollow(target address) error {
	if !c.Follow || c.Auth.minter != nil && c.Auth.minter.ClientID() != "" && !target.perAccount {
		return nil
	}
	return wrong("follow", "the change feed needs a token of the client's own and an address of its own; "+
		"mint tokens with a client id and leave {uid} out of the URL, or do not follow")
}

func (c Config) validateFxA(target address) error {
	switch {
	case c.API != FxA:
		return nil
	case !c.Auth.forward:
		return wrong("auth", "the API of Firefox Accounts knows the account by its own token only; forward it")
	case target.perAccount:
		return wrong("url", "the API of Firefox Accounts has one address for all; leave {uid} out")
	case c.Field != "" || c.Inverted:
		return wrong("field", "the API of Firefox Accounts has a field of its own; leave it out")
	}
	return nil
}

func (c Config) validateLimits() error {
	var problems []error
	for _, limit := range []struct {
		name  string
		value int64
	}{
		{"timeout", int64(c.Timeout)},
		{"max_age", int64(c.MaxAge)},
		{"max_entries", int64(c.MaxEntries)},
		{"concurrency", int64(c.Concurrency)},
	} {
		if limit.value < 0 {
			problems = append(problems, wrong(limit.name, "it is negative; leave it out for the default"))
		}
	}
	return errors.Join(problems...)
}

// complete returns the configuration with its defaults in place, Transport
// apart.
func (c Config) complete() Config {
	c.Field = cmp.Or(c.Field, DefaultField)
	if c.API == FxA {
		c.Field = "metricsEnabled"
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	c.MaxEntries = max(minEntries, cmp.Or(c.MaxEntries, DefaultMaxEntries))
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.Observer = c.Observer.complete()
	return c
}

// shares returns what there is for accounts that are proven, and what of it a
// flood of made-up names can take: half, so that it never turns against them.
func (c Config) shares() (provenEntries, namedEntries, namedSlots int) {
	if c.OnlyNamed {
		return minEntries, c.MaxEntries, c.Concurrency
	}
	return c.MaxEntries, c.MaxEntries / 2, max(1, c.Concurrency/2)
}

// minEntries is the smallest cache there is.
const minEntries = 20
