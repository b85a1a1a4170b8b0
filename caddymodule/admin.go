package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
)

func init() { caddy.RegisterModule(Admin{}) }

// Admin is what Caddy's admin API knows of the gates, below /metrics_gate/. It
// needs no configuration.
type Admin struct{ traces *gate.Traces }

// traces are those that are open in this process, for the gates of whichever
// configuration runs.
var traces gate.Traces

// TracesPath is where traces are opened and read: POST opens one, and GET of the
// nonce below it reads what was written down.
const TracesPath = "/metrics_gate/traces"

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.metrics_gate",
		New: func() caddy.Module { return &Admin{traces: &traces} },
	}
}

// Routes returns the addresses.
func (a *Admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: TracesPath, Handler: caddy.AdminHandlerFunc(a.openTrace)},
		{Pattern: TracesPath + "/", Handler: caddy.AdminHandlerFunc(a.readTrace)},
		{Pattern: status.Path, Handler: caddy.AdminHandlerFunc(serveStatus)},
	}
}

// OpenedTrace is the answer to who opens a trace.
type OpenedTrace struct {
	// Nonce is what a request carries in gate.TraceHeader to be traced.
	Nonce string `json:"nonce"`
}

// openTrace opens a trace.
func (a *Admin) openTrace(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return refuseMethod("a trace is opened with POST")
	}
	nonce, err := a.traces.Open()
	if err != nil {
		tracesTotal.WithLabelValues(traceRefused).Inc()
		return caddy.APIError{HTTPStatus: http.StatusTooManyRequests, Err: err}
	}
	tracesTotal.WithLabelValues(traceOpened).Inc()
	return writeJSON(w, http.StatusCreated, OpenedTrace{nonce})
}

// readTrace answers with what was written down for a nonce.
func (a *Admin) readTrace(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refuseMethod("a trace is read with GET")
	}
	written, open := a.traces.Written(strings.TrimPrefix(r.URL.Path, TracesPath+"/"))
	if !open {
		return caddy.APIError{HTTPStatus: http.StatusNotFound,
			Err: errors.New("no such trace is open; each is closed a minute after POST " + TracesPath + " has opened it")}
	}
	if written == nil {
		written = []gate.Trace{} // and not null
	}
	return writeJSON(w, http.StatusOK, written)
}

func refuseMethod(message string) error {
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New(message)}
}

func writeJSON(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(value)
}

// Interface guards
var (
	_ caddy.Module      = (*Admin)(nil)
	_ caddy.AdminRouter = (*Admin)(nil)
)
