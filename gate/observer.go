package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// NoRoute is the index that Observer.Decided is given for a page.
const NoRoute = -1

// Observer is told what a Gate does. Every field may be nil. The functions are
// called from many goroutines and must return soon. But for the request that
// Decided is given, nothing that they are told says anything about a person.
type Observer struct {
	// Decided is called for every gated request, with the index of its route
	// in Gate.Routes, and for every page, with NoRoute: when it is decided and
	// before anything is answered or passed on. In shadow mode it is what would
	// have been done. Hidden says that the request is collected and that its client
	// gets the route's answer all the same.
	Decided func(r *http.Request, route int, decision policy.Decision, hidden bool)

	// Session is called for every session source that was asked, by its index
	// in Config.Sessions. Config.Own comes after the last of them, and then the
	// proofs that pages hand over for it.
	Session func(source int, outcome session.Outcome)

	// Hidden is called for every reply of the application that the client did
	// not see, with the class of its status: "2xx" to "5xx", or "aborted" where
	// the application broke off in the middle of it; and with "dropped" for
	// every collected request that was answered and not handed on, because too
	// many were on their way.
	Hidden func(class string)

	// Detached is called with 1 for every request that is handed on after its
	// answer, and with -1 when that has ended.
	Detached func(change int)

	// Report is called for every report of the handshake's script.
	Report func(outcome ReportOutcome)

	// Page is called for every HTML document that was to be changed on its way.
	Page func(result browser.Result)

	// FlagsMissed is called for every document in which the <meta> with the
	// feature flags is missing or cannot be read, besides Page.
	FlagsMissed func()

	// Choice is called for every choice made on the preference page.
	Choice func(choice browser.Choice, result browser.ChoiceResult)

	// Traced is called for every trace that was written down for a nonce.
	Traced func()

	// Warn is called when a Trouble begins to show, and when it has ended.
	Warn func(warning Warning)
}

// orNobody has nobody told where nobody listens.
func (o Observer) orNobody() Observer {
	if o.Decided == nil {
		o.Decided = func(*http.Request, int, policy.Decision, bool) {}
	}
	if o.Session == nil {
		o.Session = func(int, session.Outcome) {}
	}
	if o.Hidden == nil {
		o.Hidden = func(string) {}
	}
	if o.Detached == nil {
		o.Detached = func(int) {}
	}
	if o.Report == nil {
		o.Report = func(ReportOutcome) {}
	}
	if o.Page == nil {
		o.Page = func(browser.Result) {}
	}
	if o.FlagsMissed == nil {
		o.FlagsMissed = func() {}
	}
	if o.Choice == nil {
		o.Choice = func(browser.Choice, browser.ChoiceResult) {}
	}
	if o.Traced == nil {
		o.Traced = func() {}
	}
	if o.Warn == nil {
		o.Warn = func(Warning) {}
	}
	return o
}

// Host is what the server around a Gate does for it. Every field may be nil.
type Host struct {
	// Conceal keeps a request out of the access log, and what tells of a person
	// out of its trace: blocked ones, whose address beside "opted out" is itself
	// a record of a person, and those for the gate's own addresses, since the
	// size of a reply alone would tell. It is called before the answer. The
	// route is the path as the configuration has it. Default: nothing is done.
	Conceal func(r *http.Request, route string)

	// Trusts says whether the request comes from a proxy whose
	// X-Forwarded-Proto counts. Default: none is trusted.
	Trusts func(r *http.Request) bool

	// Detach returns a copy of a request for a handler that runs after the one
	// that r was made for has returned: nothing that it changes, and nothing
	// that it may read later, is shared with r. The context takes the place of
	// r's own. Default: what net/http needs.
	Detach func(ctx context.Context, r *http.Request) *http.Request

	// Original returns the method and the URL that a request came with, where
	// handlers in front of the gate rewrote them; neither is to be changed. A
	// request that matches no route by what it is now is gated if it does by
	// these. A nil URL is for a request that was not rewritten, and for one that
	// is no longer the client's own: an error page, or what this gate has
	// decided before. Default: no request was rewritten.
	Original func(r *http.Request) (method string, u *url.URL)

	// Decided says whether another gate in front of this one has decided the
	// request. Then no outcome header in it is the client's: the first gate has
	// removed those. Default: none has.
	Decided func(r *http.Request) bool

	// StatusOf returns the HTTP status with which an error of the handlers
	// behind will be answered. Default: 500 for every error.
	StatusOf func(err error) int

	// Unreached returns what of an error of the handlers behind says that there
	// is no connection to the application, and nothing that a client sent; or
	// nil. Default: the *net.OpError of a dial.
	Unreached func(err error) error
}

// orPlain is what a plain net/http server does.
func (h Host) orPlain() Host {
	if h.Conceal == nil {
		h.Conceal = func(*http.Request, string) {}
	}
	if h.Trusts == nil {
		h.Trusts = func(*http.Request) bool { return false }
	}
	if h.Detach == nil {
		h.Detach = func(ctx context.Context, r *http.Request) *http.Request { return r.Clone(ctx) }
	}
	if h.Decided == nil {
		h.Decided = func(*http.Request) bool { return false }
	}
	if h.StatusOf == nil {
		h.StatusOf = func(error) int { return http.StatusInternalServerError }
	}
	if h.Unreached == nil {
		h.Unreached = func(err error) error {
			if network, ok := errors.AsType[*net.OpError](err); ok && network.Op == "dial" {
				return network
			}
			return nil
		}
	}
	return h
}
