package gate

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// engine decides requests: whose it is, what that account prefers, what the
// browser said, and what follows. All of this is written once, in decide, so
// that what a page says never contradicts what is done to a beacon.
type engine struct {
	rules    policy.Rules
	sessions session.Sources
	own      *session.Own // the last of sessions; nil: pages prove nobody
	signals  *session.Signals
	profile  *profileclient.Client // nil: only tokens say what accounts prefer

	// named says that requests of some route may name accounts.
	named bool
	// pagesWait has pages wait for a preference, as experiments do.
	pagesWait bool
	// writeBack has the browser's opt-out written into profiles that hold no
	// choice. Where reportsWrite only the handshake's report does that, so that
	// a cookie which is out of date blocks and is not recorded.
	writeBack, reportsWrite bool

	kinds          []string // of sessions, in traces
	lookedFor      []string // of sessions, in traces: where each is looked for
	keys           func(source int) string
	observeSession func(source int, credential string, outcome session.Outcome)
	countSession   func(source int, outcome session.Outcome) // without watching
	watch          *watch
}

// verdict is what the gate knows of a request, and decides.
type verdict struct {
	found session.Found
	// preference is that of the first account that is proven; unknown where none
	// is.
	preference policy.Preference
	// signal is the browser's word, unread where the account's choice stands
	// above it.
	signal policy.Signal
	// heard says that it was read.
	heard    bool
	decision policy.Decision
	// withheld says that an account which the request only names could be
	// decided otherwise. What it prefers is told to nobody who cannot prove it.
	withheld bool
	// recognised says that the request proves or names an account.
	recognised bool
	// lookedUpNamed says that an account was looked up that the request only
	// names.
	lookedUpNamed bool
}

// optedOut says that an account which the request proves opted out.
func (v *verdict) optedOut() bool {
	return v.decision.Action == policy.Block && v.decision.Reason == policy.ReasonPreference && !v.decision.ByName
}

// question is all in which a beacon, a page, a report and a status differ.
type question struct {
	// wait says that lookups are waited for, all together at most for the
	// profile's timeout. Otherwise what is not cached is unknown and is looked up
	// in the background, so that the beacon which follows finds it warm.
	wait bool
	// read takes the place of the lookup for the proven account, where what is
	// cached may be too old.
	read func(profileclient.Account) policy.Preference
	// reports says that the browser opts out in this very request, which is
	// newer than what its own cookie says.
	reports bool
	// withhold leaves out what the request only names.
	withhold bool
	// names are the accounts that the request names and that count; nil: none.
	names *session.Names
	// write has the browser's opt-out written back where the rules say so.
	write bool
	// trace is where it is written down how the decision came about; nil: nowhere.
	trace *Trace
}

// Gated decides a gated request; it may wait for lookups. On experiment routes,
// whose reply tells, accounts that are only named are not looked up.
func (e *engine) Gated(r *http.Request, route *gatedRoute, trace *Trace) verdict {
	now := time.Now()
	v := e.decide(r, now, question{wait: true, names: route.names, withhold: route.experiment, write: e.writeBack && !e.reportsWrite, trace: trace})
	trace.decided(e, r, &v)
	if !trace.isAskedFor() {
		e.watch.gated(now, route.index, v.recognised)
	}
	return v
}

// Page decides a page. It waits for no preference, unless pages are changed for
// those who opted out: then it waits as an experiment does. Accounts that are
// only named are not looked up, since the page would tell what they prefer.
func (e *engine) Page(r *http.Request, trace *Trace) verdict {
	now := time.Now()
	if !trace.isAskedFor() {
		e.watch.page(now)
	}
	v := e.decide(r, now, question{wait: e.pagesWait, withhold: true, write: e.writeBack && !e.reportsWrite, trace: trace})
	trace.decided(e, r, &v)
	return v
}

// Standing is what is decided for whoever asks, as far as it may be told to
// them. It may wait for a lookup; read, where it is not nil, takes its place.
func (e *engine) Standing(r *http.Request, read func(profileclient.Account) policy.Preference) verdict {
	v := e.decide(r, time.Now(), question{wait: true, read: read, withhold: true})
	if v.decision.Action == policy.Collect && e.named && e.provesNobody() {
		// What is sent for whoever asks may name an account.
		v.withheld = true
		v.decision = e.rules.DecideNamed(v.decision, policy.Unknown)
	}
	return v
}

// provesNobody says that no request can prove an account.
func (e *engine) provesNobody() bool { return len(e.sessions) == 0 }

// Reported takes the handshake's report, in which the browser may opt out. A
// proof that came with it counts as the session that the request carries.
func (e *engine) Reported(r *http.Request, optsOut bool) verdict {
	return e.decide(r, time.Now(), question{wait: true, withhold: true, reports: optsOut, write: e.writeBack && optsOut})
}

// signal is what the browser says. Where pages prove accounts, one whose pages
// have not yet said whether somebody is signed in is being asked.
func (e *engine) signal(r *http.Request, found *session.Found) policy.Signal {
	said := e.signals.Read(r.Header)
	if said != policy.SignalOptedOut && said != policy.SignalUnrecorded && e.mustProve(r, found.Own) {
		return policy.SignalProbing
	}
	return said
}

// decide decides a request that came now.
func (e *engine) decide(r *http.Request, now time.Time, q question) verdict {
	v := verdict{found: e.sessions.Find(r, now, q.trace.observing(e, now))}
	if q.reports {
		v.signal, v.heard = e.signals.Reported(r.Header), true
	}
	proven := v.found.Session == policy.Verified
	if proven {
		v.preference = e.preference(r.Context(), &v.found.Subject, &q, now)
		q.trace.learnt(e, OfProven, &v.found.Subject, v.preference, now)
	}
	if !q.reports && !v.preference.IsChoice() {
		v.signal, v.heard = e.signal(r, &v.found), true
	}
	v.decision = e.rules.Decide(v.found.Session, v.preference, v.signal)
	q.trace.then(v.decision)
	// What is not known yet may turn out to be no choice; the write-back waits
	// for the lookup.
	mayBeUnset := proven && v.preference == policy.Unknown && v.signal == policy.SignalOptedOut
	if len(v.found.Others) > 0 || v.found.Unlearnt || v.found.Hiding {
		e.decideOthers(r, &q, &v, now)
		mayBeUnset = false
	}
	if q.write && (v.decision.WriteBack || mayBeUnset) {
		e.profile.WriteBack(account(&v.found.Subject), now)
	}
	v.recognised = proven || len(v.found.Named) > 0
	if v.decision.Action == policy.Collect && (len(v.found.Named) > 0 || q.names != nil) {
		e.decideNamed(r, &q, &v, now)
	}
	return v
}

// decideOthers goes on with what further credentials say, each by its own row:
// another account that is proven, one that could not be asked about, and one
// that was not looked at. All lookups together wait as long as one may; an
// account that the others leave no time for is hidden, as whoever sends them can
// have them do so.
func (e *engine) decideOthers(r *http.Request, q *question, v *verdict, now time.Time) {
	v.decision.WriteBack = false
	ctx := r.Context()
	if e.profile != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, now.Add(e.profile.Timeout()))
		defer cancel()
	}
	also := func(of string, subject *session.Subject, preference policy.Preference, asked time.Time) {
		if !q.reports && v.signal == policy.SignalNone && !preference.IsChoice() {
			v.signal, v.heard = e.signal(r, &v.found), true // the first account's choice stood above it
		}
		v.decision = e.rules.DecideAlso(v.decision, preference, v.signal)
		q.trace.learnt(e, of, subject, preference, asked)
		q.trace.then(v.decision)
	}
	lookup := question{wait: q.wait} // what is read apart is the first account's
	for i := range v.found.Others {
		if v.decision.Action == policy.Block {
			return
		}
		asked := time.Now()
		preference := e.preference(ctx, &v.found.Others[i], &lookup, now)
		if preference == policy.Unknown && ctx.Err() != nil {
			preference = policy.Hidden
		}
		also(OfAlso, &v.found.Others[i], preference, asked)
	}
	if v.found.Unlearnt {
		also(OfUnasked, &session.Subject{}, policy.Unknown, now)
	}
	if v.found.Hiding {
		also(OfHiding, &session.Subject{}, policy.Hidden, now)
	}
}

// preference is what the subject prefers or, without a profile, what the token
// itself says. A token that lacks the claim then means that no choice was made;
// one whose claim cannot be read is unknown.
func (e *engine) preference(ctx context.Context, subject *session.Subject, q *question, now time.Time) policy.Preference {
	switch {
	case e.profile == nil && subject.HasClaim:
		return subject.Claim
	case e.profile == nil:
		return policy.Unset
	case q.read != nil:
		return q.read(account(subject))
	case q.wait:
		return e.profile.Lookup(ctx, account(subject), now)
	default:
		return e.profile.Cached(account(subject), now)
	}
}

// decideNamed goes on with a decision that collects: it looks up the accounts
// that the request only names, those of expired sessions first. Together they
// may wait for as long as the lookup for the session has left; that a body comes
// slowly takes nothing of it. What could not be learnt because others had taken a
// tenth of the time or more is hidden, as in decideOthers.
func (e *engine) decideNamed(r *http.Request, q *question, v *verdict, began time.Time) {
	if q.withhold {
		if slices.ContainsFunc(v.found.Named, func(name string) bool { return !v.found.Proves(name) }) {
			v.withheld = true
			v.decision = e.rules.DecideNamed(v.decision, policy.Unknown)
		}
		return
	}
	var left time.Duration
	if e.profile != nil {
		left = e.profile.Timeout() - time.Since(began)
	}
	preferenceOf := func(name string) policy.Preference {
		v.lookedUpNamed = true
		if e.profile == nil {
			return policy.Unknown
		}
		now := time.Now()
		hurried := left < e.profile.Timeout()*9/10
		preference := e.profile.LookupNamed(r.Context(), name, now, left)
		if left -= time.Since(now); preference == policy.Unknown && hurried && left <= 0 {
			return policy.Hidden
		}
		return preference
	}
	decide := func(names []string, expired bool) {
		for _, name := range names {
			if v.decision.Action == policy.Collect && !v.found.Proves(name) {
				asked := time.Now()
				preference := preferenceOf(name)
				v.decision = e.rules.DecideNamed(v.decision, preference)
				q.trace.learnt(e, OfNamed, &session.Subject{UID: name}, preference, asked)
				q.trace.expired(expired)
				q.trace.then(v.decision)
			}
		}
	}
	decide(v.found.Named, true)
	if v.decision.Action == policy.Block || q.names == nil {
		return
	}
	named, learnt := q.names.Read(r)
	v.recognised = v.recognised || len(named) > 0
	if !learnt {
		v.decision = e.rules.DecideNamed(v.decision, policy.Hidden)
		q.trace.learnt(e, OfUnread, &session.Subject{}, policy.Hidden, time.Now())
		q.trace.then(v.decision)
		return
	}
	decide(slices.DeleteFunc(named, func(name string) bool { return slices.Contains(v.found.Named, name) }), false)
}

func account(subject *session.Subject) profileclient.Account {
	return profileclient.Account{
		UID:       subject.UID,
		Token:     subject.Token,
		HasClaim:  subject.HasClaim && subject.Claim != policy.Unknown,
		Claim:     subject.Claim,
		ClaimedAt: subject.ClaimedAt,
	}
}
