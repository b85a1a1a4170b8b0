package gate

import (
	"io"
	"net/http"

	"github.com/metricsgate/metricsgate/policy"
)

// serveStatus tells this site's own pages what is decided for their user. It
// answers for the request's own session and signal only, and to nobody else:
// embedders are told by the handshake's script.
func (g *Gate) serveStatus(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	w.Header().Set("Vary", "Sec-Fetch-Site")
	if site := r.Header.Get("Sec-Fetch-Site"); site != "same-origin" && (site != "" || !g.isOwnOrigin(r)) {
		refuse(w, http.StatusForbidden, "only this site's own pages may ask")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, statusOf(g.engine.Standing(r, nil).decision))
}

// statusOf is the reply's text: metrics_optout is null while it is unknown.
func statusOf(decision policy.Decision) string {
	optOut := "false"
	if decision.Action == policy.Block {
		optOut = "true"
	}
	source := "unknown"
	switch decision.Reason {
	case policy.ReasonPreference, policy.ReasonExplicitAllow:
		source = "preference"
	case policy.ReasonSignal:
		source = "signal"
	case policy.ReasonDefault:
		source = "default"
	default:
		optOut = "null"
	}
	return `{"metrics_optout":` + optOut + `,"source":"` + source + `"}` + "\n"
}
