package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
)

// expected is what check claims of an account: whether it opted out, and whether
// the beacon proves it or only names it.
type expected struct{ optedOut, proven bool }

// judge says whether all gates that a beacon met and that have its route decided
// it as they should, and if not, why.
func (e expected) judge(traces []gate.Trace) (verdict, string) {
	worst, reasons := pass, ""
	gated := false
	for i := range traces {
		t := &traces[i]
		if t.Kind != gate.TraceGated {
			continue
		}
		found, why := e.judgeOne(t)
		if found > worst || !gated {
			worst, reasons = found, why
		}
		gated = true
	}
	switch {
	case len(traces) == 0:
		return inconclusive, "no gate of the Caddy that --address names has seen it"
	case !gated && e.optedOut:
		return fail, "it passed"
	case !gated:
		return inconclusive, "nothing was decided"
	case e.optedOut && letThrough(traces):
		reasons += ". " + notStopped
	}
	return worst, reasons
}

// notStopped is what a decision in shadow mode is worth to who opted out.
const notStopped = "NOT STOPPED: shadow mode let it through, so people who opted out are being measured. Take the word shadow away, and check again"

// letThrough says whether a gate would have blocked a beacon that none has.
func letThrough(traces []gate.Trace) bool {
	return slices.ContainsFunc(traces, func(t gate.Trace) bool {
		return t.Kind == gate.TraceGated && t.Mode == caddymodule.ModeShadow && t.Decision == policy.Block.String()
	}) && !slices.ContainsFunc(traces, func(t gate.Trace) bool { return t.Reply == gate.TraceBlocked })
}

// isUngated says whether gates have seen a beacon that none of them has a route for.
func isUngated(traces []gate.Trace) bool {
	return len(traces) > 0 && !slices.ContainsFunc(traces, func(t gate.Trace) bool { return t.Kind == gate.TraceGated })
}

// judgeOne judges one gate's decision.
func (e expected) judgeOne(t *gate.Trace) (verdict, string) {
	preference := e.preference(t)
	blocked := t.Decision == policy.Block.String()
	switch {
	case e.optedOut && preference == policy.OptedOut && blocked && t.Reason == policy.ReasonPreference.String() && t.ByName == !e.proven:
		return pass, "it was decided by the account's preference, which is true"
	case e.optedOut && preference.IsLearnt() && preference != policy.OptedOut:
		return fail, fmt.Sprintf("the account has not opted out: its preference is %s. Use one that has", preference)
	case e.optedOut && !blocked:
		return fail, "it was collected: " + e.cause(t)
	case e.optedOut:
		return inconclusive, how(t) + e.cause(t)
	case preference == policy.OptedOut:
		return fail, "the account has opted out. Use one that allows metrics"
	case !preference.IsLearnt():
		return inconclusive, how(t) + e.cause(t)
	case !blocked:
		return pass, "it was decided by the account's preference, which is " + preference.String()
	case t.Reason == policy.ReasonDefault.String():
		return fail, "the account made no choice, and on_unset blocks. Use one that allows metrics explicitly"
	default:
		return inconclusive, "the account allows it, and something else blocked: " + e.cause(t)
	}
}

// how says how it was decided, where that shows nothing of the account that the beacon
// is from.
func how(t *gate.Trace) string {
	for _, p := range t.Preferences {
		if t.ByName && t.Reason == policy.ReasonPreference.String() && p.Preference == policy.OptedOut.String() {
			return "it was blocked by the preference of " + whoseIs(p) + ", and that shows nothing of a session that holds: "
		}
	}
	return fmt.Sprintf("it was %sed, and not by the account's preference: ", t.Decision)
}

// preference is what the gate learnt of the account that the beacon is from.
func (e expected) preference(t *gate.Trace) (preference policy.Preference) {
	of := gate.OfNamed
	if e.proven {
		of = gate.OfProven
	}
	for _, p := range t.Preferences {
		if p.Of == of {
			preference, _ = policy.ParsePreference(p.Preference)
		}
	}
	return preference
}

// cause says why a gate did not decide by the account's preference, and what to
// do.
func (e expected) cause(t *gate.Trace) string {
	if e.proven && t.Session != policy.Verified.String() {
		return sessionCause(t)
	}
	for _, p := range t.Preferences {
		switch {
		case p.Of == gate.OfUnread:
			return "the body could not be read for the accounts that it names. Look at its type, and at limit of names"
		case p.Of == gate.OfHiding || p.Of == gate.OfUnasked:
			return whose[p.Of] + ". Send one credential only"
		case p.Preference == policy.Unknown.String() || p.Preference == policy.Hidden.String():
			return "the preference of " + whose[p.Of] + " could not be learnt. Look whether the profile server answers: caddy metrics-gate status or Caddy's log has the cause, and caddy_metrics_gate_profile_lookups_total its kind"
		case p.Of == gate.OfNamed && e.proven && p.Preference == policy.OptedOut.String():
			return "the body names another account, which opted out. Send a beacon that names none"
		}
	}
	if !e.proven && len(t.Preferences) == 0 {
		return "the gate found no account in the body. Compare --field, or the {uid} in --body, with names of the route " + t.Route
	}
	return "the reason is " + t.Reason + ", by the signal " + t.Signal
}

// sessionCause says why the token proved nobody.
func sessionCause(t *gate.Trace) string {
	var causes []string
	for _, c := range t.Credentials {
		switch advice := adviceOn(&c); {
		case c.Outcome == "absent":
		case advice == "":
			causes = append(causes, fmt.Sprintf("the session is %s (%s). Mend that there, and use a token that holds", c.Outcome, detailed(c)))
		case c.Outcome == "expired":
			causes = append(causes, "the token has expired ("+c.Kind+"). Use a fresh one; if it is, compare the clocks of whoever issued it and of this machine")
		default:
			causes = append(causes, fmt.Sprintf("the session is %s (%s). To mend that: %s", c.Outcome, detailed(c), advice))
		}
	}
	if len(causes) > 0 {
		return strings.Join(causes, "; ")
	}
	places := make([]string, 0, len(t.Credentials))
	for _, c := range t.Credentials {
		if c.LookedFor != "" {
			places = append(places, c.LookedFor)
		}
	}
	if len(places) == 0 {
		return "the gate found no session. Compare --cookie, or --header, with where its session blocks look"
	}
	carried := ""
	if len(t.Carried) > 0 {
		carried = ", and the beacon carried " + strings.Join(t.Carried, ", ")
	}
	return "the gate found no session: it looks for " + strings.Join(places, ", ") + carried +
		". Write what your pages send into --cookie or --header; if it is that, write it into the gate's session block: until then an opt-out in the account does not count"
}

// detailed is a kind of session, with in what its credential differs.
func detailed(c gate.TracedCredential) string {
	if c.Detail == "" {
		return c.Kind
	}
	return c.Kind + ": " + c.Detail
}
