package caddymodule

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// isPage says whether the browser asks for a document to show. Browsers that
// do not send Fetch metadata are recognised by what they accept.
func isPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if dest := r.Header["Sec-Fetch-Dest"]; len(dest) > 0 {
		return dest[0] == "document" || dest[0] == "iframe" || dest[0] == "frame"
	}
	for _, accept := range r.Header["Accept"] {
		if strings.Contains(accept, "text/html") {
			return true
		}
	}
	return false
}

// namesDecide says whether an account that a body names can decide over the
// route. It cannot on experiment routes: there the reply is what is asked
// for, so it would tell the preference of whoever is named.
func (g *Gate) namesDecide(route *gatedRoute) bool {
	return g.bodyName != nil && !route.experiment
}

// decideGated decides a gated request; it may wait for lookups.
func (g *Gate) decideGated(r *http.Request, route *gatedRoute) policy.Decision {
	now := time.Now()
	ctx := r.Context()
	subject := g.sessions.Find(r, now, g.countSession)
	preference := g.preference(subject, func(account profileclient.Account) policy.Preference {
		return g.profile.Lookup(ctx, account, now)
	})
	decision := g.decideSession(r, subject, preference, now)
	identified := subject.Session == policy.Verified || len(subject.Named) > 0
	if decision.Action == policy.Collect && (len(subject.Named) > 0 || g.namesDecide(route)) {
		var named bool
		decision, named = g.decideNamed(r, route, subject, decision, g.lookupTime-time.Since(now))
		identified = identified || named
	}
	g.silence.heard(identified)
	return decision
}

// decideNamed goes on with a decision that collects: it looks up the accounts
// that the request only names, an expired session's before the body's. All
// lookups of a request together wait for no longer than the profile's
// timeout, of which left is what the session's has left.
func (g *Gate) decideNamed(r *http.Request, route *gatedRoute, subject session.Subject, decision policy.Decision, left time.Duration) (_ policy.Decision, named bool) {
	preferenceOf := func(uid string) policy.Preference {
		if g.profile == nil {
			return policy.Unknown
		}
		start := time.Now()
		defer func() { left -= time.Since(start) }()
		return g.profile.LookupNamed(r.Context(), uid, start, left)
	}
	for _, name := range subject.Named {
		if decision.Action == policy.Collect && name != subject.UID {
			decision = g.rules.DecideNamed(decision, preferenceOf(name))
		}
	}
	if decision.Action == policy.Block || !g.namesDecide(route) {
		return decision, false
	}
	switch name, result := g.bodyName.Read(r); {
	case result == session.NotLearnt:
		return g.rules.DecideNamed(decision, policy.Unknown), false
	case result == session.NoName, name == subject.UID, slices.Contains(subject.Named, name):
		return decision, false
	default:
		return g.rules.DecideNamed(decision, preferenceOf(name)), true
	}
}

// decidePage decides a page. It does not wait: a preference that is not known
// yet is looked up in the background, so that the beacon that follows finds it
// warm. Only where pages are changed for those who opted out does it wait, as
// for an experiment. Ask says that the browser's half of the handshake should
// report, even if it has nothing new.
func (g *Gate) decidePage(r *http.Request) (_ policy.Decision, ask bool) {
	now := time.Now()
	ctx, cancel := r.Context(), func() {}
	if g.pages.wait {
		ctx, cancel = context.WithTimeout(ctx, g.lookupTime)
	}
	defer cancel()
	subject := g.sessions.Find(r, now, g.countSession)
	preference := g.preference(subject, func(account profileclient.Account) policy.Preference {
		if g.pages.wait {
			return g.profile.Lookup(ctx, account, now)
		}
		return g.profile.Cached(account, now)
	})
	decision := g.decideSession(r, subject, preference, now)
	if g.handshake != nil {
		// Somebody who signed in since the browser reported is not written back
		// yet; and a browser that lost its cookie believes that it has reported.
		signedInSince := decision.Reason == policy.ReasonSignal && subject.Session == policy.Verified && g.writeBack
		ask = signedInSince && reportedOptOut(r.Header) || g.signals.Read(r.Header) == policy.SignalProbing
	}
	for _, name := range subject.Named {
		if decision.Action == policy.Block || name == subject.UID {
			continue
		}
		named := policy.Unknown
		switch {
		case g.profile == nil:
		case g.pages.wait:
			named = g.profile.LookupNamed(ctx, name, time.Now(), g.lookupTime)
		default:
			named = g.profile.CachedNamed(name, now)
		}
		decision = g.rules.DecideNamed(decision, named)
	}
	return decision, ask
}

// decideSession applies the rules to the session and the signal. It has the
// browser's opt-out written into a profile that holds no choice, unless the
// handshake is on: then only its report writes, so that a cookie which is out
// of date blocks and is not recorded.
func (g *Gate) decideSession(r *http.Request, subject session.Subject, preference policy.Preference, now time.Time) policy.Decision {
	signal := policy.SignalNone
	if subject.Session != policy.Verified || !preference.IsChoice() {
		signal = g.signals.Read(r.Header)
	}
	decision := g.rules.Decide(subject.Session, preference, signal)
	if decision.WriteBack && g.writeBack && !g.shadow && g.handshake == nil {
		g.profile.WriteBack(account(subject), now)
	}
	return decision
}

// standing is what the gate knows of a request's own subject, and decides of
// it; what the request only names is left out.
type standing struct {
	subject    session.Subject
	preference policy.Preference
	signal     policy.Signal
	decision   policy.Decision
}

// standing may wait for a lookup, at most the profile's timeout.
func (g *Gate) standing(r *http.Request, now time.Time) standing {
	s := standing{subject: g.sessions.Find(r, now, g.countSession), signal: g.signals.Read(r.Header)}
	s.preference = g.preference(s.subject, func(account profileclient.Account) policy.Preference {
		return g.profile.Lookup(r.Context(), account, now)
	})
	s.decision = g.rules.Decide(s.subject.Session, s.preference, s.signal)
	if s.decision.Action == policy.Collect && len(s.subject.Named) > 0 {
		// An expired session's account may have opted out. What it prefers is
		// told to nobody who cannot prove it.
		s.decision = policy.Decision{Action: g.rules.OnUnknown, Reason: policy.ReasonUnknown}
	}
	return s
}

// preference is what the subject prefers: what ask says or, without a profile,
// what the token itself says. A token that lacks the claim then means that no
// choice was made; one whose claim cannot be read is unknown, and so is the
// preference of whoever is not verified.
func (g *Gate) preference(subject session.Subject, ask func(profileclient.Account) policy.Preference) policy.Preference {
	switch {
	case subject.Session != policy.Verified:
		return policy.Unknown
	case g.profile != nil:
		return ask(account(subject))
	case subject.HasClaim:
		return subject.Claim
	default:
		return policy.Unset
	}
}

func account(subject session.Subject) profileclient.Account {
	return profileclient.Account{
		UID:       subject.UID,
		Token:     subject.Token,
		HasClaim:  subject.HasClaim && subject.Claim != policy.Unknown,
		Claim:     subject.Claim,
		ClaimedAt: subject.ClaimedAt,
	}
}
