package gate

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// TraceHeader asks for a request to be traced: it holds the nonce of a trace
// that is open. Like a client's own OutcomeHeader it never passes a Gate.
const TraceHeader = "Metrics-Gate-Trace"

// Trace is how one gate came to a decision about one request, in the words of
// the rules. It says nothing about a person: no account, no credential, no value
// of a cookie, nothing of a body.
type Trace struct {
	// Time is when the request came to this gate.
	Time time.Time `json:"time"`
	// Gate is the label of the gate.
	Gate string `json:"gate"`
	// Mode is enforce or shadow.
	Mode string `json:"mode"`
	// Kind is what the request is for this gate: gated, page, untouched or own.
	Kind string `json:"kind"`
	// Route is the path of the gated route, as it is configured.
	Route string `json:"route,omitempty"`
	// Class is the gated route's: metrics or experiment.
	Class string `json:"class,omitempty"`

	// Credentials are what came of looking for each kind of session, in the order
	// in which they were tried.
	Credentials []TracedCredential `json:"credentials,omitempty"`
	// Carried are the names of what the request carries in which a credential could
	// have been, such as "cookie theme", where none was found.
	Carried []string `json:"carried,omitempty"`
	// Session is what all credentials together prove: verified, expired,
	// unverifiable or none.
	Session string `json:"session,omitempty"`
	// Preferences are those of the accounts that were asked about, one after the
	// other, until one blocked.
	Preferences []TracedPreference `json:"preferences,omitempty"`
	// Names are the places in which an account would have been named, where none was,
	// such as "body uid".
	Names []string `json:"names,omitempty"`
	// Signal is the browser's word: opted_out, unrecorded, no_objection, probing,
	// none, or unread where the account's own choice stands above it.
	Signal string `json:"signal,omitempty"`
	// SignalFrom says where that was found, such as "cookie metrics_optout".
	SignalFrom []string `json:"signal_from,omitempty"`
	// Row is the row of the rules table for the first account, or for none.
	Row *TracedRow `json:"row,omitempty"`

	// Decision is block or collect, and empty where this gate decides nothing.
	Decision string `json:"decision,omitempty"`
	// Reason is the one of the decision.
	Reason string `json:"reason,omitempty"`
	// ByName says that only an account which the request names caused the block.
	ByName bool `json:"by_name,omitempty"`
	// Doubt says on whose side something was missing: none, ours or sender.
	Doubt string `json:"doubt,omitempty"`

	// Reply is what the client gets: the application's reply (shown), or the
	// route's answer, although the application gets the request (hidden) or in its
	// place (blocked).
	Reply string `json:"reply,omitempty"`
	// Upstream is the class of the status with which the application answered a
	// request whose reply is hidden. It is empty until it has.
	Upstream string `json:"upstream,omitempty"`

	nonce string // empty: it is for the log only
}

// The words of Trace.Mode.
const (
	// ModeEnforce is that of a gate that does what it decides.
	ModeEnforce = "enforce"
	// ModeShadow is that of a gate that only counts it.
	ModeShadow = "shadow"
)

// The words of Trace.Kind.
const (
	// TraceGated is a request of a gated route.
	TraceGated = "gated"
	// TracePage is a page, which is decided so that the application knows.
	TracePage = "page"
	// TraceUntouched is neither: it passes, and nothing is decided.
	TraceUntouched = "untouched"
	// TraceOwn is for an address of the gate's own.
	TraceOwn = "own"
)

// The words of Trace.Reply.
const (
	// TraceShown is the application's reply.
	TraceShown = "shown"
	// TraceHidden is the route's answer, although the application gets the
	// request.
	TraceHidden = "hidden"
	// TraceBlocked is the route's answer in the application's place.
	TraceBlocked = "blocked"
)

// TracedCredential is what came of one credential.
type TracedCredential struct {
	// Kind is that of the session: jwt, introspect, user or own.
	Kind string `json:"kind"`
	// Outcome is as metrics spell it, such as verified or wrong_issuer.
	Outcome string `json:"outcome"`
	// LookedFor is where one was looked for that is absent.
	LookedFor string `json:"looked_for,omitempty"`
	// Detail says in what one differs that proves nothing: who issued it and for whom,
	// its times, or what it was verified with.
	Detail string `json:"detail,omitempty"`
}

// TracedPreference is what an account prefers, and where that is from.
type TracedPreference struct {
	// Of says whose it is: proven, also_proven, named, unasked_credential,
	// hiding_credential or unread_names.
	Of string `json:"of"`
	// Preference is true, false, null, unknown or hidden.
	Preference string `json:"preference"`
	// From is cache, lookup, claim, feed or none.
	From string `json:"from"`
	// Expired says of one that is named that an expired credential names it.
	Expired bool `json:"expired,omitempty"`
	// AgeSeconds is how old it was.
	AgeSeconds float64 `json:"age_seconds"`
	// Then is the decision as far as this account: block or collect.
	Then string `json:"then"`
}

// The words of TracedPreference.Of.
const (
	// OfProven is the first account that the request proves.
	OfProven = "proven"
	// OfAlso is another one that it proves.
	OfAlso = "also_proven"
	// OfNamed is an account that the request only names.
	OfNamed = "named"
	// OfUnasked is whose credential could not be asked about.
	OfUnasked = "unasked_credential"
	// OfHiding is what a credential that is too long, or one too many, could hide.
	OfHiding = "hiding_credential"
	// OfUnread is what a body that could not be read could name.
	OfUnread = "unread_names"
)

// TracedRow is a row of the rules table, as the table words it.
type TracedRow struct {
	// Session is the cell of what the request proves.
	Session string `json:"session"`
	// Preference is the cell of what the account prefers.
	Preference string `json:"preference"`
	// Signal is the cell of the browser's word.
	Signal string `json:"signal"`
	// Decision is the cell of what follows.
	Decision string `json:"decision"`
	// Reason is the cell of why.
	Reason string `json:"reason"`
}

// RowOf is a row without the markup of its cells.
func RowOf(row *policy.Row) *TracedRow {
	plain := func(cell string) string { return strings.ReplaceAll(cell, "`", "") }
	return &TracedRow{row.Session, plain(row.Preference), row.Signal, plain(row.Then.String()), row.Reason.String()}
}

const (
	// TraceLife is for how long a trace is open.
	TraceLife = time.Minute
	// MaxTraces is how many may be open at once.
	MaxTraces = 100
	// maxTraced is how many requests of one nonce are written down.
	maxTraced = 32
)

// ErrTooManyTraces means that as many traces are open as may be.
var ErrTooManyTraces = fmt.Errorf("%d traces are open already; each is closed a minute after it was opened", MaxTraces)

// Traces are the traces that somebody who may has opened. Several gates share
// them. The zero value has none open.
type Traces struct {
	// open is how many are: all that other requests have to look at.
	open atomic.Int32

	mu      sync.Mutex
	written map[string][]*Trace // by nonce
}

// Open opens a trace for TraceLife and returns its nonce, or ErrTooManyTraces.
func (t *Traces) Open() (nonce string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.written) >= MaxTraces {
		return "", ErrTooManyTraces
	}
	if t.written == nil {
		t.written = make(map[string][]*Trace)
	}
	nonce = rand.Text()
	t.written[nonce] = nil
	t.open.Add(1)
	time.AfterFunc(TraceLife, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.written, nonce)
		t.open.Add(-1)
	})
	return nonce, nil
}

// Written returns what was written down for a nonce, and whether it is open.
func (t *Traces) Written(nonce string) (traces []Trace, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	written, open := t.written[nonce]
	for _, trace := range written {
		traces = append(traces, *trace)
	}
	return traces, open
}

// add writes a trace down, unless its nonce has been closed or has had enough.
func (t *Traces) add(trace *Trace) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	written, open := t.written[trace.nonce]
	if !open || len(written) >= maxTraced {
		return false
	}
	t.written[trace.nonce] = append(written, trace)
	return true
}

// ended adds how the application answered a request whose reply is hidden.
func (t *Traces) ended(trace *Trace, class string) {
	if !trace.isAskedFor() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	trace.Upstream = class
}

// nonceOf returns the nonce of an open trace that a request carries, or that it
// carried when it came to another gate.
func (t *Traces) nonceOf(r *http.Request) string {
	nonce, _ := r.Context().Value(nonceKey{}).(string)
	if sent := r.Header[TraceHeader]; nonce == "" && len(sent) > 0 {
		nonce = sent[0]
	}
	if nonce == "" {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.written[nonce]; !open {
		return ""
	}
	return nonce
}

type nonceKey struct{}

// keep has the gates that follow find the nonce, which is no longer in the
// request's header.
func (t *Trace) keep(ctx context.Context) context.Context {
	if !t.isAskedFor() {
		return ctx
	}
	return context.WithValue(ctx, nonceKey{}, t.nonce)
}

// isAskedFor says that somebody has opened a trace for the request, and sent it
// therefore. That says nothing of what pages send, so it ends no warning about them.
func (t *Trace) isAskedFor() bool { return t != nil && t.nonce != "" }

// trace begins a trace where somebody asks for one, and is nil elsewhere.
func (g *Gate) trace(r *http.Request) *Trace {
	nonce := g.traces.nonceOf(r)
	if nonce == "" && !g.debug {
		return nil
	}
	trace := &Trace{Time: time.Now().UTC(), Gate: g.label, Mode: ModeEnforce, nonce: nonce}
	if g.shadow {
		trace.Mode = ModeShadow
	}
	return trace
}

// write writes a trace down, before anything is answered or passed on. Reply is
// what the client will get.
func (g *Gate) write(trace *Trace, kind, reply string) {
	if trace == nil {
		return
	}
	trace.Kind, trace.Reply = kind, reply
	if g.debug && trace.Decision != "" {
		g.log.Debug("decided", zap.Any("trace", trace))
	}
	if trace.nonce != "" && g.traces.add(trace) {
		g.observer.Traced()
	}
}

// explicable are the outcomes of a credential that was read, of which there is more to
// say without asking anybody once more.
var explicable = []session.Outcome{session.Expired, session.NotYetValid, session.Malformed, session.WrongIssuer, session.WrongAudience}

// observing is the engine's observer of sessions that also writes down what came of
// each credential. Why it came is for who opened the trace, and not for a log.
func (t *Trace) observing(e *engine, now time.Time) func(source int, credential string, outcome session.Outcome) {
	if t == nil {
		return e.observeSession
	}
	return func(source int, credential string, outcome session.Outcome) {
		if t.isAskedFor() {
			e.countSession(source, outcome)
		} else {
			e.observeSession(source, credential, outcome)
		}
		traced := TracedCredential{Kind: e.kinds[source], Outcome: outcome.String()}
		switch explainer, ok := e.sessions[source].(session.Explainer); {
		case t.nonce == "":
		case outcome == session.Absent && source < len(e.lookedFor):
			traced.LookedFor = e.lookedFor[source]
		case ok && slices.Contains(explicable, outcome):
			traced.Detail = explainer.Explain(credential, now)
		case e.keys != nil && (outcome == session.BadSignature || outcome == session.UnknownKey):
			if keys := e.keys(source); keys != "" {
				traced.Detail = "verified with " + keys
			}
		}
		t.Credentials = append(t.Credentials, traced)
	}
}

// carried writes down what a request carries that has none of the credentials.
func (t *Trace) carried(h http.Header) {
	if t.nonce == "" || len(t.Credentials) == 0 || slices.ContainsFunc(t.Credentials, func(c TracedCredential) bool { return c.Outcome != session.Absent.String() }) {
		return
	}
	for _, name := range session.CookieNames(h) {
		t.Carried = append(t.Carried, "cookie "+name)
	}
	if h["Authorization"] != nil {
		t.Carried = append(t.Carried, "header Authorization")
	}
}

// expired writes down that an expired credential names the account that was learnt
// last.
func (t *Trace) expired(is bool) {
	if t != nil && len(t.Preferences) > 0 {
		t.Preferences[len(t.Preferences)-1].Expired = is
	}
}

// learnt writes down what an account prefers that was asked about at a time.
func (t *Trace) learnt(e *engine, of string, subject *session.Subject, preference policy.Preference, asked time.Time) {
	if t == nil {
		return
	}
	from, age := profileclient.FromNowhere, time.Duration(0)
	switch {
	case subject.UID == "": // whose it is could not be learnt either
	case e.profile != nil:
		from, age = e.profile.Origin(account(subject), of == OfNamed, preference, asked)
	case of != OfNamed: // without a profile the token speaks for itself
		from = profileclient.FromClaim
		if !subject.ClaimedAt.IsZero() {
			age = asked.Sub(subject.ClaimedAt)
		}
	}
	t.Preferences = append(t.Preferences, TracedPreference{
		Of: of, Preference: preference.String(), From: from.String(), AgeSeconds: age.Round(time.Millisecond).Seconds(),
	})
}

// then writes down what is decided as far as the account that was learnt last.
func (t *Trace) then(decision policy.Decision) {
	if t != nil && len(t.Preferences) > 0 {
		t.Preferences[len(t.Preferences)-1].Then = decision.Action.String()
	}
}

// decided writes down what all of it comes to.
func (t *Trace) decided(e *engine, r *http.Request, v *verdict) {
	if t == nil {
		return
	}
	t.carried(r.Header)
	t.Session = v.found.Session.String()
	t.Signal = signalUnread
	if v.heard {
		t.Signal, t.SignalFrom = v.signal.String(), e.signals.Places(r.Header)
	}
	t.Row = RowOf(policy.Match(v.found.Session, v.preference, v.signal))
	t.Decision, t.Reason = v.decision.Action.String(), v.decision.Reason.String()
	t.ByName = v.decision.ByName
	t.Doubt = v.decision.Doubt.String()
}

const signalUnread = "unread"
