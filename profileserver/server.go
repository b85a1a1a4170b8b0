// Package profileserver is a profile server of our own: it owns the
// preference metrics_optout and serves it in the manner of the Firefox
// Accounts profile server, whose statuses, error numbers and headers it
// keeps, so that a client of the one is a client of the other.
//
//	GET    /v1/metrics_optout        the caller's preference
//	POST   /v1/metrics_optout        records it
//	GET    /v1/profile               has it as one member of the profile
//	GET    /v1/metrics_optout/daily  how many users opted out, by day
//	GET    /v1/changes               the changes of all accounts, as they come
//	DELETE /v1/account/<uid>         forgets an account
//	POST   /v1/events                takes security events (RFC 8417)
//
// docs/openapi.yaml describes it all; a test holds the server to it.
//
// It is HTTP and who may do what; the preferences themselves are kept by package
// prefstore, and tokens are verified by package token. It mints no tokens, ends
// no TLS and limits no rates, and knows nothing of Caddy: a Server is an
// http.Handler, for whichever web server there is. Open a store, say whose
// tokens count and which clients are trusted, and serve:
//
//	store, err := prefstore.Open(ctx, "/var/lib/metrics-gate/profile.db") // or postgres://…
//	…
//	verifier, err := token.NewVerifier(token.Config{PEM: [][]byte{key}})
//	…
//	server := profileserver.New(profileserver.Config{
//		Store:          store,
//		Tokens:         []profileserver.Verifier{verifier},
//		TrustedClients: []string{"metrics-gate"},
//		Standalone:     true,
//	})
//	err = http.ListenAndServe("localhost:8080", server)
//
// In front of a profile server that exists already, leave Standalone out, and
// pass on what the Server does not own (see Server.Owns and Server.Merge).
//
// Nothing it answers or logs names a person. Every refusal is one of a closed
// set of constants (see failure.go) that hold no part of the request, and the
// log takes the store's error and nothing else; the queries pass accounts as
// parameters, which the databases do not repeat in their errors.
package profileserver

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// The server's own addresses. What follows accountPath is the account's id.
const (
	optOutPath  = "/v1/" + optoutapi.Preference
	changesPath = "/v1/" + optoutapi.Changes
	dailyPath   = optOutPath + "/daily"
	profilePath = "/v1/profile"
	accountPath = "/v1/account/"
	eventsPath  = "/v1/events"
)

// Verifier verifies bearer tokens. *token.Verifier and *token.Introspector do.
type Verifier interface {
	// Verify returns the claims of a token that holds at the time now. An
	// error that is token.ErrUnavailable says that nobody could be asked.
	Verify(raw string, now time.Time) (*token.Claims, error)
}

// Config is what a Server is made of.
type Config struct {
	// Store keeps the preferences. Required; the Server does not close it.
	Store prefstore.Store

	// Tokens verify bearer tokens, in the order in which they are asked; the
	// first that verifies one names its account. With none, every request is
	// refused. The Server does not close them.
	Tokens []Verifier

	// TrustedClients lists the client_id of those who may use the API: the
	// scope alone is not enough, since a preference about being measured is
	// for trusted reliers only. Default: nobody.
	TrustedClients []string

	// OperatorClients lists the client_id of those who may delete accounts,
	// follow all changes and read the daily counts, and whose writes are
	// recorded as an administrator's. Default: nobody.
	OperatorClients []string

	// Origins lists the origins whose pages may use the API (CORS); * is all
	// of them. Default: none.
	Origins []string

	// NoContentWhenUnset answers GET with 204 where no choice was made, in the
	// manner of the existing server's data elements. Default: 200 and null.
	NoContentWhenUnset bool

	// Events verifies security event tokens (RFC 8417), which change
	// preferences. Default: none are taken.
	Events Verifier

	// EventLeeway is how far ahead of now the time of an event may be, its iat;
	// one of later is refused. Default: 0.
	EventLeeway time.Duration

	// Standalone makes the Server own every address: it adds the heartbeats
	// and /__version__, its own /v1/profile, and answers the rest with 404.
	// Default: false.
	Standalone bool

	// Version is what /__version__ says. Default: this module's version in
	// the running binary.
	Version string

	// Log takes the store's failures. Default: nothing is logged.
	Log *zap.Logger

	// Observer is told what happens. Default: nobody is.
	Observer Observer
}

// Observer is told what a Server does. None of it is about a person. Its
// functions are called while a request waits, so they must not block; nil ones
// are not called.
type Observer struct {
	// Request is called with every request that was answered: which endpoint
	// (a closed set: metrics_optout, profile, account, changes, daily, events,
	// other), the status, and how long it took. A followed feed is told when
	// it begins.
	Request func(endpoint, method string, status int, took time.Duration)

	// Change is called with every change that a request made: the value
	// (null, false, true or deleted) and where it came from (user, browser,
	// admin).
	Change func(value, source string)

	// Event is called with every security event: which (metrics-opt-out,
	// metrics-opt-in, profile-change, delete-user, other, or none where the
	// token could not be used) and what came of it (changed, unchanged,
	// ignored, refused, failed).
	Event func(event, result string)

	// Followers is called with 1 when somebody begins to follow the changes
	// and with -1 when they cease.
	Followers func(change int)

	// StoreFailure is called when the store failed a request.
	StoreFailure func()
}

// complete returns the observer with a function in every place.
func (o Observer) complete() Observer {
	if o.Request == nil {
		o.Request = func(string, string, int, time.Duration) {}
	}
	if o.Change == nil {
		o.Change = func(string, string) {}
	}
	if o.Event == nil {
		o.Event = func(string, string) {}
	}
	if o.Followers == nil {
		o.Followers = func(int) {}
	}
	if o.StoreFailure == nil {
		o.StoreFailure = func() {}
	}
	return o
}

// Server is the HTTP API. It has no state of its own besides its Config and
// the streams of changes that it has open.
type Server struct {
	store              prefstore.Store
	tokens             []Verifier
	trusted            map[string]bool
	operators          map[string]bool
	origins            map[string]bool
	noContentWhenUnset bool
	events             Verifier
	eventLeeway        time.Duration
	standalone         bool
	version            []byte
	log                *zap.Logger
	health             storeHealth
	observer           Observer // complete
	endpoints          map[string]endpoint
	streams            context.Context // done once Close is called
	endStreams         context.CancelFunc
}

// endpoint is what answers at one address.
type endpoint struct {
	name     string // as the observer is told
	handlers map[string]handler
}

// handler answers a request, or returns the refusal that is to be answered.
// It calls WriteHeader once, and before it writes.
type handler func(w http.ResponseWriter, r *http.Request) *failure

// New makes a Server. It does no I/O.
func New(config Config) *Server {
	s := &Server{
		store:              config.Store,
		tokens:             config.Tokens,
		trusted:            set(config.TrustedClients),
		operators:          set(config.OperatorClients),
		origins:            set(config.Origins),
		noContentWhenUnset: config.NoContentWhenUnset,
		events:             config.Events,
		eventLeeway:        config.EventLeeway,
		standalone:         config.Standalone,
		log:                zap.NewNop(),
		health:             storeHealth{log: zap.NewNop()},
		observer:           config.Observer.complete(),
	}
	if config.Log != nil {
		// What a server behind answers wrongly, it does again and again.
		s.log = config.Log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0)
		}))
		s.health.log = config.Log
	}
	s.streams, s.endStreams = context.WithCancel(context.Background())
	s.endpoints = map[string]endpoint{
		optOutPath: {optoutapi.Preference, map[string]handler{
			http.MethodGet: s.read, http.MethodHead: s.read, http.MethodPost: s.write,
		}},
		dailyPath:   {"daily", reading(s.daily)},
		changesPath: {"changes", reading(s.changes)},
		accountPath: {"account", map[string]handler{http.MethodDelete: s.deleteAccount}},
	}
	if config.Events != nil {
		s.endpoints[eventsPath] = endpoint{"events", map[string]handler{http.MethodPost: s.takeEvents}}
	}
	if config.Standalone {
		s.version = version(config.Version)
		s.endpoints[profilePath] = endpoint{"profile", reading(s.profile)}
		s.endpoints["/"] = endpoint{"", reading(s.showVersion)}
		s.endpoints["/__version__"] = endpoint{"", reading(s.showVersion)}
		s.endpoints["/__heartbeat__"] = endpoint{"", reading(s.heartbeat)}
		s.endpoints["/__lbheartbeat__"] = endpoint{"", reading(s.balancerHeartbeat)}
	}
	return s
}

// reading is the handlers of what can only be read. To HEAD they answer as to
// GET; net/http leaves the body out.
func reading(read handler) map[string]handler {
	return map[string]handler{http.MethodGet: read, http.MethodHead: read}
}

// set returns the set of the words.
func set(words []string) map[string]bool {
	of := make(map[string]bool, len(words))
	for _, word := range words {
		of[word] = true
	}
	return of
}

// at returns what answers at a path. Paths match exactly.
func (s *Server) at(path string) endpoint {
	if strings.HasPrefix(path, accountPath) {
		path = accountPath
	}
	return s.endpoints[path]
}

// Route returns a path as the documentation writes it, without the account that
// it may name, or "" for one that is not known here.
func (s *Server) Route(path string) string {
	switch {
	case strings.HasPrefix(path, accountPath):
		return accountPath + "{uid}"
	case s.endpoints[path].handlers != nil:
		return path
	}
	return ""
}

// Owns reports whether the request is for one of the server's own addresses:
// /v1/metrics_optout and all below, /v1/changes, and of those where others may
// have more to offer the one method that is ours. What is not belongs to
// whoever stands behind, and to Merge.
func (s *Server) Owns(r *http.Request) bool {
	path := r.URL.Path
	if s.standalone || path == optOutPath || strings.HasPrefix(path, optOutPath+"/") || path == changesPath {
		return true
	}
	handlers := s.at(path).handlers
	return handlers[r.Method] != nil || r.Method == http.MethodOptions && handlers[r.Header.Get(requestedMethod)] != nil
}

// ServeHTTP answers a request that the server Owns. A wrong method is as
// unknown as a wrong path, as the existing server has it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := s.at(r.URL.Path)
	w = s.observe(w, r, at.name)
	allowed := s.setHeaders(w.Header(), r)
	handle, ok := at.handlers[r.Method]
	switch {
	case ok:
	case allowed && r.Method == http.MethodOptions && at.handlers[r.Header.Get(requestedMethod)] != nil:
		handle = preflight
	default:
		handle = unknown
	}
	if refused := handle(w, r); refused != nil {
		refused.write(w)
	}
}

const noStore = "private, no-cache, no-store, must-revalidate"

// setHeaders sets what all answers have, and reports whether the page that
// asks may see the answer.
func (s *Server) setHeaders(h http.Header, r *http.Request) (allowed bool) {
	h.Set("Cache-Control", noStore)
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	return s.allowOrigin(h, r)
}

func unknown(http.ResponseWriter, *http.Request) *failure { return notFound }

// observe returns a writer that tells the observer of the answer.
func (s *Server) observe(w http.ResponseWriter, r *http.Request, endpoint string) http.ResponseWriter {
	began := time.Now()
	return &observed{w, func(status int) {
		s.observer.Request(cmp.Or(endpoint, "other"), known(r.Method), status, time.Since(began))
	}}
}

// observed tells of an answer when it begins, since that of the changes never
// ends.
type observed struct {
	http.ResponseWriter
	tell func(status int)
}

// WriteHeader is called once (see handler).
func (o *observed) WriteHeader(status int) {
	o.ResponseWriter.WriteHeader(status)
	if status >= http.StatusOK { // or the answer is still to come
		o.tell(status)
	}
}

// Unwrap is for http.ResponseController.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// known returns a method of HTTP, and other for the words that a caller can
// make up without end.
func known(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "other"
}

// failed tells of a failure of the store, unless it is only that the caller
// left, and returns what is answered.
func (s *Server) failed(r *http.Request, err error) *failure {
	if r.Context().Err() == nil {
		s.observer.StoreFailure()
		s.health.failed(err)
	}
	return storeAway
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever asked is gone: nobody is left to tell
}
