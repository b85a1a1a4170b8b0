package token

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/metricsgate/metricsgate/internal/health"
)

// The defaults of an IntrospectionConfig.
const (
	DefaultIntrospectionTimeout     = 300 * time.Millisecond
	DefaultIntrospectionMaxAge      = time.Minute
	DefaultIntrospectionMaxEntries  = 100_000
	DefaultIntrospectionConcurrency = 64
)

const (
	// A refusal is remembered briefly: a token may be used by somebody who is
	// faster than the database that has just taken it. And it is remembered
	// apart, so that forged tokens displace no good one.
	refusedFor = 10 * time.Second
	maxRefused = 10_000

	// maxIntrospectionBytes bounds what is read of an answer, which has a few
	// hundred bytes.
	maxIntrospectionBytes = 64 << 10

	// introspectionLeeway is how far the server's clock may differ from ours.
	// It has judged the times by its own, so this only keeps a second's
	// difference from refusing a token that was issued a moment ago.
	introspectionLeeway = time.Minute

	// tellEvery is how often a failure that goes on is told.
	tellEvery = time.Minute

	// calm is how long the server must not have failed to count as well again.
	calm = 5 * time.Second

	// hurriedBelow is how much of Config.Timeout, in tenths, a token has left
	// where other tokens of its request have not used it up.
	hurriedBelow = 9
)

// IntrospectionConfig says who is asked about tokens, and how. Only URL is
// required. Two configurations with the same JSON answer alike; that JSON
// holds the credential.
type IntrospectionConfig struct {
	// URL is where the server answers: https, or http on loopback or with
	// AllowHTTP.
	URL string

	// AllowHTTP takes a URL by http to other machines too. Whoever is on the way
	// to them can then read tokens, and sign in as anybody. Default: false.
	AllowHTTP bool

	// Manner is how it is asked. Default: FxA where the path of URL ends in
	// /verify, else RFC7662.
	Manner Manner

	// Host takes the place of URL's host in the request, where that is only how
	// the server is reached. Default: that of URL.
	Host string

	// Bearer is the token that authorizes us to ask (RFC 7662, section 2.1).
	// Only for RFC7662, and not together with BasicID. Default: none.
	Bearer string

	// BasicID and BasicSecret are client id and secret, sent as RFC 6749,
	// section 2.3.1, has it. Only for RFC7662. Default: none.
	BasicID, BasicSecret string

	// Issuers lists the accepted values of iss. Only for RFC7662. Default: not
	// checked.
	Issuers []string

	// Audiences lists values of aud, one of which must be there. Only for
	// RFC7662. Default: not checked.
	Audiences []string

	// ClientIDs lists the values of client_id that are accepted: a token that
	// another client was given may prove an account, and yet must not act for
	// it here. Default: any.
	ClientIDs []string

	// Timeout is how long one request to the server may take, and how long
	// after now Verify waits for it. Default: 300ms.
	Timeout time.Duration

	// MaxAge is how long the word that a token is good is taken, and so how
	// late a revocation can act. It is never taken past the token's exp.
	// Default: 1m.
	MaxAge time.Duration

	// MaxEntries bounds how many good tokens are remembered. Default: 100000.
	MaxEntries int

	// Concurrency bounds the requests in flight, of which each token has one
	// at most. Who finds no slot free in time learns nothing: ErrBusy.
	// Default: 64.
	Concurrency int

	// Client sends the requests, within this package's limits on time, size
	// and redirects. Default: one of the introspector's own.
	Client *http.Client `json:"-"`

	// OnError is told why the server could not be asked, at most once a
	// minute. Default: nothing is called.
	OnError func(error) `json:"-"`
}

// Introspector verifies opaque tokens, by asking whoever has issued them. It
// is safe for concurrent use.
type Introspector struct {
	config   IntrospectionConfig
	endpoint *endpoint
	rules    claimRules
	digests  *Digester
	good     memory
	refused  memory
	inFlight singleflight.Group
	slots    chan struct{}
	failing  rate.Sometimes
	health   *health.Health

	closing context.Context
	close   func()
	mu      sync.Mutex // guards what may be added to work
	work    sync.WaitGroup
}

// verdict is what became of a token.
type verdict struct {
	claims *Claims
	err    error
	until  time.Time // when it has to be asked about again
}

// Digester turns tokens into keys under which it can be remembered what became of
// them.
func (i *Introspector) Digester() *Digester { return i.digests }

// NewIntrospector checks config without using the network.
func NewIntrospector(config IntrospectionConfig) (*Introspector, error) {
	if config.Manner == "" {
		config.Manner = MannerOf(config.URL)
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	config.Timeout = cmp.Or(config.Timeout, DefaultIntrospectionTimeout)
	config.MaxAge = cmp.Or(config.MaxAge, DefaultIntrospectionMaxAge)
	config.MaxEntries = cmp.Or(config.MaxEntries, DefaultIntrospectionMaxEntries)
	config.Concurrency = cmp.Or(config.Concurrency, DefaultIntrospectionConcurrency)
	if config.OnError == nil {
		config.OnError = func(error) {}
	}
	endpoint, err := newEndpoint(config.URL, config.AllowHTTP, cmp.Or(config.Client, introspectionClient(config.Concurrency)))
	if err != nil {
		return nil, &ConfigError{"url", err}
	}
	i := &Introspector{
		config:   config,
		endpoint: endpoint,
		rules: claimRules{
			issuers: config.Issuers, audiences: config.Audiences,
			leeway: introspectionLeeway, expiryOptional: true,
		},
		digests: NewDigester(),
		good:    newMemory(config.MaxEntries),
		refused: newMemory(maxRefused),
		slots:   make(chan struct{}, config.Concurrency),
		failing: rate.Sometimes{Interval: tellEvery},
		health:  health.New(calm, nil),
	}
	var end context.CancelFunc
	i.closing, end = context.WithCancel(context.Background())
	i.close = sync.OnceFunc(func() {
		i.mu.Lock()
		end()
		i.mu.Unlock()
		i.work.Wait()
		endpoint.client.CloseIdleConnections()
	})
	return i, nil
}

// introspectionClient keeps as many connections as there may be requests.
// Dialling may take longer than a request waits: the connection then serves a
// later one.
func introspectionClient(concurrency int) *http.Client {
	const dialling = 3 * time.Second
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialling}).DialContext,
		TLSHandshakeTimeout:    dialling,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    concurrency,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // answers are a few bytes
	}}
}

func (c *IntrospectionConfig) validate() error {
	switch c.Manner {
	case RFC7662:
	case FxA, FxASession:
		// Its answer has nothing that these could be held against, and an
		// option that is silently ignored is worse than none.
		for _, option := range []struct {
			setting string
			set     bool
		}{
			{"bearer", c.Bearer != ""},
			{"basic", c.BasicID != ""},
			{"issuer", len(c.Issuers) > 0},
			{"audience", len(c.Audiences) > 0},
		} {
			if option.set {
				return &ConfigError{option.setting, errors.New("FxA takes no credential and tells neither issuer nor audience; leave it out, or set the manner rfc7662")}
			}
		}
	default:
		return &ConfigError{"manner", fmt.Errorf("%q is not one of %s, %s", c.Manner, FxA, RFC7662)}
	}
	switch {
	case c.Bearer != "" && c.BasicID != "":
		return &ConfigError{"basic", errors.New("there is a bearer token as well; leave one out")}
	case c.Bearer != "" && !isBearerToken(c.Bearer):
		return &ConfigError{"bearer", errors.New("it holds characters that no bearer token has (RFC 6750, section 2.1); write the token alone")}
	case (c.BasicID != "") != (c.BasicSecret != ""):
		return &ConfigError{"basic", errors.New("one of id and secret is missing; write both")}
	}
	for _, limit := range []struct {
		setting string
		value   int64
	}{
		{"timeout", int64(c.Timeout)},
		{"max_age", int64(c.MaxAge)},
		{"max_entries", int64(c.MaxEntries)},
		{"concurrency", int64(c.Concurrency)},
	} {
		if limit.value < 0 {
			return &ConfigError{limit.setting, errors.New("it is negative; leave it out for the default")}
		}
	}
	return nil
}

// Verify returns the claims of a token that holds at the time now: those of
// the server's answer, or, in FxA's manner, sub, client_id and scope. Their
// Expires is when the token has to be verified again at the latest. With
// ErrExpired, and with no other error, there may be claims too: where the
// server still says whose the token was.
//
// It waits for the server until Config.Timeout after now, which is when the
// caller's own request came: so all tokens of one request together wait no
// longer than one. For whom those before have left too little, it is ErrBusy.
func (i *Introspector) Verify(raw string, now time.Time) (*Claims, error) {
	switch {
	case len(raw) > MaxTokenBytes:
		return nil, ErrTooLong
	case !i.config.Manner.takes(raw):
		return nil, ErrMalformed
	}
	key := i.digests.Digest(raw)
	known, ok := i.known(key, now)
	if !ok {
		known = i.learn(key, raw, now)
	}
	return known.claims, known.err
}

// Close cuts short what is being asked and waits for its end. Verify goes on
// to work with what is remembered.
func (i *Introspector) Close() { i.close() }

func (i *Introspector) known(key Digest, now time.Time) (*verdict, bool) {
	if known, ok := i.good.get(key, now); ok {
		return known, true
	}
	return i.refused.get(key, now)
}

// learn joins the request about the token that is in flight, or sends one, and
// waits for it as long as the caller may. A request that the caller cannot wait
// for goes on: others may, and the next one finds its answer.
func (i *Introspector) learn(key Digest, raw string, now time.Time) *verdict {
	left := min(i.config.Timeout-time.Since(now), i.config.Timeout)
	patience, late := i.config.Timeout, (<-chan time.Time)(nil)
	if left < i.config.Timeout/10*hurriedBelow {
		timer := time.NewTimer(left)
		defer timer.Stop()
		late = timer.C
	} else {
		patience = left
	}
	answer := i.inFlight.DoChan(string(key[:]), func() (any, error) {
		if known, ok := i.known(key, now); ok {
			return known, nil // the last request ended as this caller came
		}
		if !i.begin() {
			return &verdict{err: unavailable("nobody is asked any more")}, nil
		}
		defer i.work.Done()
		learnt := i.judge(raw, now, patience)
		switch {
		case learnt.err == nil:
			i.good.put(key, learnt)
		case !errors.Is(learnt.err, ErrUnavailable):
			i.refused.put(key, learnt)
		}
		return learnt, nil
	})
	select {
	case learnt := <-answer:
		return learnt.Val.(*verdict)
	case <-late:
		return &verdict{err: fmt.Errorf("%w: other tokens of the request took the time", ErrBusy)}
	}
}

// begin registers a request that Close waits for. After Close it registers
// nothing and reports false.
func (i *Introspector) begin() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closing.Err() != nil {
		return false
	}
	i.work.Add(1)
	return true
}

// judge asks about the token and holds the answer against the rules.
func (i *Introspector) judge(raw string, now time.Time, patience time.Duration) *verdict {
	answer, err := i.ask(raw, patience)
	if err != nil {
		return &verdict{err: err, until: now.Add(refusedFor)}
	}
	claims, err := i.rules.check(nil, answer, now)
	if claims != nil && !i.accepts(claims) {
		claims, err = nil, differs(ErrWrongAudience, "client_id", answer, i.config.ClientIDs)
	}
	if err != nil {
		return &verdict{claims, err, now.Add(refusedFor)}
	}
	claims.keepScalars()
	if latest := now.Add(i.config.MaxAge); claims.Expires.IsZero() || claims.Expires.After(latest) {
		claims.Expires = latest
	}
	return &verdict{claims: claims, until: claims.Expires}
}

// accepts reports whether the token is one of a client that is listened to.
func (i *Introspector) accepts(claims *Claims) bool {
	client, _ := claims.String("client_id")
	return len(i.config.ClientIDs) == 0 || slices.Contains(i.config.ClientIDs, client)
}

// ask returns what the server says of a token that is good. Whatever keeps it
// from saying so is ErrUnavailable, and is told.
func (i *Introspector) ask(raw string, patience time.Duration) (jwt.MapClaims, error) {
	var answer jwt.MapClaims
	var err error
	// Not the caller's context: others wait for the same answer.
	ctx, cancel := context.WithTimeout(i.closing, patience)
	defer cancel()
	select {
	case i.slots <- struct{}{}:
		answer, err = i.exchange(ctx, raw)
		<-i.slots
	case <-ctx.Done():
		err = fmt.Errorf("%w: %d requests were in flight all the time, as many as may be", ErrBusy, cap(i.slots))
	}
	switch {
	case !errors.Is(err, ErrUnavailable):
		i.health.Answered()
	case i.closing.Err() == nil:
		i.health.Failed(err)
		i.failing.Do(func() { i.config.OnError(fmt.Errorf("introspection by %s: %w", i.endpoint.source, err)) })
	}
	return answer, err
}

func (i *Introspector) exchange(ctx context.Context, raw string) (jwt.MapClaims, error) {
	request, err := i.request(ctx, raw)
	if err != nil {
		return nil, unavailable("the request cannot be written")
	}
	response, err := i.endpoint.send(request)
	if err != nil {
		return nil, i.broken(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(http.MaxBytesReader(nil, response.Body, maxIntrospectionBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, unavailable("its answer has more than 64 KiB; check the URL")
	}
	if err != nil {
		return nil, i.broken(ctx, err)
	}
	return i.config.Manner.read(response.StatusCode, body)
}

// request asks in the configured manner, with our own credential where there is
// one.
func (i *Introspector) request(ctx context.Context, raw string) (*http.Request, error) {
	request, err := i.config.Manner.request(ctx, i.endpoint.url, raw)
	if err != nil {
		return nil, err
	}
	request.Host = cmp.Or(i.config.Host, request.Host)
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "metrics-gate")
	switch {
	case i.config.Bearer != "":
		request.Header.Set("Authorization", "Bearer "+i.config.Bearer)
	case i.config.BasicID != "":
		request.SetBasicAuth(url.QueryEscape(i.config.BasicID), url.QueryEscape(i.config.BasicSecret))
	}
	return request, nil
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

// broken says why there was no complete answer. Only causes whose text is
// about the network are told: others repeat what the server sent, which may
// be the token.
func (i *Introspector) broken(ctx context.Context, err error) error {
	if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || ok && timeout.Timeout() {
		return unavailable("it gives no complete answer within %v", i.config.Timeout)
	}
	if network, ok := errors.AsType[*net.OpError](err); ok {
		return unavailable("it cannot be reached: %w", network)
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return unavailable("it cannot be trusted: %w", certificate)
	}
	return unavailable("the connection broke before a complete answer, or it does not speak HTTP there")
}

// isBearerToken says whether a token has the characters that one can have:
// b64token of RFC 6750, section 2.1.
func isBearerToken(raw string) bool {
	body := strings.TrimRight(raw, "=")
	for i := range len(body) {
		switch c := body[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '+', c == '/':
		default:
			return false
		}
	}
	return body != ""
}
