// Package profileserver is a profile server of our own: it owns the
// preference metrics_optout and serves it in the manner of the Firefox
// Accounts profile server, whose statuses, error numbers and headers it
// keeps, so that a client of the one is a client of the other.
//
//	GET  /v1/metrics_optout  scope profile:metrics_optout
//	POST /v1/metrics_optout  scope profile:metrics_optout:write
//
// Nothing it answers or logs names a person. Every refusal is one of a closed
// set of constants (see failure.go) that hold no part of the request, and the
// log takes the store's error and nothing else; the queries pass accounts as
// parameters, which SQLite does not repeat in its errors.
package profileserver

import (
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/metricsgate/metricsgate/token"
)

const optOutPath = "/v1/metrics_optout"

// Config is what a Server is made of.
type Config struct {
	// Store keeps the preferences. Required; the Server does not close it.
	Store *SQLite

	// Tokens verify bearer tokens, in the order in which they are asked; the
	// first that verifies one names its account. With none, every request is
	// refused. The Server does not close them.
	Tokens []*token.Verifier

	// TrustedClients lists the client_id of those who may use the API: the
	// scope alone is not enough, since a preference about being measured is
	// for trusted reliers only. Default: nobody.
	TrustedClients []string

	// Standalone makes the Server own every address: it adds the heartbeats
	// and /__version__, and answers the rest with 404. Default: false.
	Standalone bool

	// Version is what /__version__ says. Default: this module's version in
	// the running binary.
	Version string

	// Log takes the store's failures. Default: nothing is logged.
	Log *zap.Logger
}

// Server is the HTTP API. It has no state of its own besides its Config.
type Server struct {
	store      *SQLite
	tokens     []*token.Verifier
	trusted    map[string]bool
	standalone bool
	version    []byte
	log        *zap.Logger
	routes     map[route]handler
}

type route struct{ method, path string }

// handler answers a request, or returns the refusal that is to be answered.
type handler func(w http.ResponseWriter, r *http.Request) *failure

// New makes a Server. It does no I/O.
func New(config Config) *Server {
	s := &Server{
		store:      config.Store,
		tokens:     config.Tokens,
		trusted:    make(map[string]bool, len(config.TrustedClients)),
		standalone: config.Standalone,
		log:        zap.NewNop(),
	}
	for _, client := range config.TrustedClients {
		s.trusted[client] = true
	}
	if config.Log != nil {
		// A broken disk fails every request; one line a minute tells as much.
		s.log = config.Log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0)
		}))
	}
	s.routes = map[route]handler{
		{http.MethodGet, optOutPath}:  s.read,
		{http.MethodPost, optOutPath}: s.write,
	}
	if config.Standalone {
		s.version = version(config.Version)
		s.routes[route{http.MethodGet, "/"}] = s.showVersion
		s.routes[route{http.MethodGet, "/__version__"}] = s.showVersion
		s.routes[route{http.MethodGet, "/__heartbeat__"}] = s.heartbeat
		s.routes[route{http.MethodGet, "/__lbheartbeat__"}] = s.balancerHeartbeat
	}
	return s
}

// Owns reports whether the path is one of the server's own addresses. What is
// not belongs to whoever stands behind it.
func (s *Server) Owns(path string) bool {
	return s.standalone || path == optOutPath || strings.HasPrefix(path, optOutPath+"/")
}

// ServeHTTP answers a request for one of the server's own addresses. Paths
// match exactly, and a wrong method is as unknown as a wrong path, as the
// existing server has it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")

	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	handle, ok := s.routes[route{method, r.URL.Path}]
	if !ok {
		notFound.write(w)
		return
	}
	if refused := handle(w, r); refused != nil {
		refused.write(w)
	}
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever asked is gone: nobody is left to tell
}
