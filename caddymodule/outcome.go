package caddymodule

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/policy"
)

// The values of the placeholders, boxed once.
var (
	actionValues = [...]any{policy.Block: policy.Block.String(), policy.Collect: policy.Collect.String()}
	reasonValues = func() (values [policy.ReasonCount]any) {
		for reason := range policy.ReasonCount {
			values[reason] = reason.String()
		}
		return values
	}()
)

// publish tells the handlers that follow what was decided.
func (g *Gate) publish(r *http.Request, decision policy.Decision) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(decisionPlaceholder, actionValues[decision.Action])
		repl.Set(reasonPlaceholder, reasonValues[decision.Reason])
	}
	if decision.Action == policy.Block && !g.shadow {
		caddyhttp.SetVar(r.Context(), optOutVar, true)
	}
}

// block answers a request in the application's place.
func (g *Gate) block(w http.ResponseWriter, r *http.Request, route *gatedRoute, decision policy.Decision) {
	if !g.LogBlocked {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	if g.reject && !route.experiment && !decision.ByName {
		rejected.write(w, r)
		return
	}
	route.answer.write(w, r)
}

// outcomes holds the values of outcome headers that are in use, so that one
// costs no allocation. A slice that is shared by all requests would not do,
// since handlers that rewrite headers write into it.
var outcomes = sync.Pool{New: func() any { return new([1]string) }}

// announce sets the outcome header for the application. A client that calls
// the header one of its connection's own would have every proxy take it out
// (RFC 9110, section 7.6.1), so such a Connection header is not believed.
func announce(r *http.Request, decision policy.Decision) *[1]string {
	if slices.ContainsFunc(r.Header["Connection"], namesOutcomeHeader) {
		delete(r.Header, "Connection")
	}
	outcome := outcomes.Get().(*[1]string)
	outcome[0] = decision.Action.String()
	r.Header[outcomeHeader] = outcome[:]
	return outcome
}

func namesOutcomeHeader(connection string) bool {
	return strings.Contains(strings.ToLower(connection), strings.ToLower(outcomeHeader))
}

// withdraw takes the header back before its memory is used again: no handler
// may go on to read the request's header when it has returned. Caddy's reverse
// proxy has sent a copy.
func withdraw(r *http.Request, outcome *[1]string) {
	delete(r.Header, outcomeHeader)
	outcomes.Put(outcome)
}

// pass hands a request on to the application, with the outcome.
func (g *Gate) pass(w http.ResponseWriter, r *http.Request, decision policy.Decision, next caddyhttp.Handler) error {
	outcome := announce(r, decision)
	err := next.ServeHTTP(w, r)
	withdraw(r, outcome)
	if err != nil { // what handle_errors asks in its place should know as well
		r.Header[outcomeHeader] = []string{decision.Action.String()}
	}
	return err
}

// passUnseen hands a collected request on and answers it as if it had been
// blocked. A client that could see the application's reply could tell
// collected from blocked, and so ask for the preference of any account by
// naming it in a body.
func (g *Gate) passUnseen(w http.ResponseWriter, r *http.Request, route *gatedRoute, decision policy.Decision, next caddyhttp.Handler) {
	defer withdraw(r, announce(r, decision))
	class, err := discardReply(r, next)
	upstreamTotal.WithLabelValues(class).Inc()
	if err != nil {
		if c := g.logger.Check(zap.ErrorLevel, "the upstream failed on a collected request, which was answered all the same"); c != nil {
			// Only that there is no connection to the upstream is told. Other
			// errors quote what it sent, which may be what the client has sent,
			// or are about the client's connection and hold its address.
			cause := zap.Skip()
			if network, ok := errors.AsType[*net.OpError](err); ok && network.Op == "dial" {
				cause = zap.Error(network)
			}
			c.Write(zap.String("class", class), cause)
		}
	}
	route.answer.write(w, r)
}
