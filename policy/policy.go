// Package policy holds the rules of Metrics Gate: given who asks, what their
// account prefers and what their browser said, may this request be measured?
//
// It is pure. It knows neither HTTP nor Caddy, does no I/O and imports the
// standard library only, so that its whole table can be tested. Who asks and
// what they prefer it is told: package session finds out the one, profileclient
// the other, and package gate acts on what comes of it. The rules come in steps
// because each costs a lookup that the one before may make needless:
//
//	rules := policy.DefaultRules()
//	d := rules.Decide(session, preference, signal)
//	for _, other := range proven {
//		d = rules.DecideAlso(d, preferenceOf(other), signal)
//	}
//	for _, name := range named {
//		d = rules.DecideNamed(d, preferenceOf(name))
//	}
//
// Nothing has to be looked up any more for a decision that blocks; but where
// several accounts are proven DecideAlso runs all the same, since it takes back
// that anything is written.
package policy

// Action is what happens to a gated request. The zero value is Block, so
// that what nobody decided fails private.
type Action uint8

const (
	// Block keeps the request from the application.
	Block Action = iota
	// Collect lets the request through.
	Collect
)

// String returns the word that a Caddyfile, the outcome header and the
// metrics use: "block" or "collect".
func (a Action) String() string {
	if a == Collect {
		return "collect"
	}
	return "block"
}

// ParseAction reads the word that String writes. It reports false for any
// other word.
func ParseAction(word string) (Action, bool) {
	switch word {
	case "block":
		return Block, true
	case "collect":
		return Collect, true
	}
	return Block, false
}

// Reason says which rule decided. The set is closed: metrics have one label
// value for each, and none ever holds anything about a person.
type Reason uint8

const (
	// ReasonUnknown: a preference could not be learnt.
	ReasonUnknown Reason = iota
	// ReasonPreference: the account opted out.
	ReasonPreference
	// ReasonExplicitAllow: the account explicitly allows metrics.
	ReasonExplicitAllow
	// ReasonSignal: the browser said that its user opted out.
	ReasonSignal
	// ReasonDefault: nobody chose anything.
	ReasonDefault
	// ReasonUnverifiedSession: a credential was there, but its signature or
	// its claims do not hold.
	ReasonUnverifiedSession
	// ReasonProbing: the browser is being asked and has not answered yet.
	ReasonProbing

	// ReasonCount is the number of reasons, for tables indexed by Reason.
	ReasonCount
)

var reasonNames = [ReasonCount]string{
	ReasonUnknown:           "unknown",
	ReasonPreference:        "preference",
	ReasonExplicitAllow:     "explicit_allow",
	ReasonSignal:            "signal",
	ReasonDefault:           "default",
	ReasonUnverifiedSession: "unverified_session",
	ReasonProbing:           "probing",
}

// String returns the reason as metrics and placeholders spell it.
func (r Reason) String() string { return reasonNames[r] }

// Decision is what the rules say of one request.
type Decision struct {
	// Action is whether the request is collected or blocked.
	Action Action
	// Reason is the one rule that led to Action.
	Reason Reason
	// WriteBack says that the browser's opt-out belongs into the session's
	// profile, which holds no choice yet.
	WriteBack bool
	// ByName says that only a named account caused the block. Such a block
	// must look the same as a collected request, or anybody could ask for
	// another account's preference by naming it.
	ByName bool
	// Doubt says on whose side it was that something which could have decided
	// was not learnt.
	Doubt Doubt
}

// Doubt says on whose side it was that something which could have decided was
// not learnt.
type Doubt uint8

const (
	// NoDoubt: nothing was missing.
	NoDoubt Doubt = iota
	// OurDoubt: a server of ours did not answer, or a credential is not one of
	// ours. What follows is what on_unknown says.
	OurDoubt
	// SendersDoubt: the request itself can have brought it about. It blocks.
	SendersDoubt
)

// String returns the doubt as traces and the explain command spell it.
func (d Doubt) String() string {
	return [...]string{NoDoubt: "none", OurDoubt: "ours", SendersDoubt: "sender"}[d]
}

// Rules are the two choices that an operator has. Start from DefaultRules: the
// zero value blocks in both cases.
type Rules struct {
	// OnUnknown is what happens where a preference could not be learnt.
	OnUnknown Action
	// OnUnset is what happens where nobody chose anything; Block is for
	// where consent comes first.
	OnUnset Action
}

// DefaultRules block what is unknown and collect where nobody chose.
func DefaultRules() Rules { return Rules{OnUnknown: Block, OnUnset: Collect} }

// Decide applies the table to the session that the request proves. The
// preference counts only where the session is verified, since only then it
// is known whose it is.
func (r Rules) Decide(session Session, preference Preference, signal Signal) Decision {
	row := Match(session, preference, signal)
	d := Decision{
		Action:    r.resolve(row.Then),
		Reason:    row.Reason,
		WriteBack: row.WriteBack && signal == SignalOptedOut,
	}
	switch row {
	case &Table[rowUnknown], &Table[rowUnverifiable]:
		d.Doubt = OurDoubt
		if session == Verified && preference == Hidden {
			d.Action, d.Doubt = Block, SendersDoubt
		}
	}
	return d
}

// DecideAlso applies the row of a further account that the request proves to a
// decision that collects; a decision that blocks is returned as it is. Either
// way nothing is written any more: whose profile would it be?
//
// A credential that could not be asked about is an account whose preference is
// Unknown, and one that was too long or one too many is Hidden.
func (r Rules) DecideAlso(d Decision, preference Preference, signal Signal) Decision {
	d.WriteBack = false
	if d.Action == Block {
		return d
	}
	also := r.Decide(Verified, preference, signal)
	also.WriteBack = false
	if also.Action == Block {
		if preference == Hidden && d.Reason == ReasonUnverifiedSession {
			also.Reason = d.Reason // no account is proven that could be unknown
		}
		return also
	}
	d.Doubt = max(d.Doubt, also.Doubt)
	return d
}

// DecideNamed applies the preference of one account that the request only
// names to a decision that collects; a decision that blocks is returned as
// it is. A name can cause a block, nothing else: it never allows, never
// overrides a signal and never writes.
func (r Rules) DecideNamed(d Decision, preference Preference) Decision {
	if d.Action == Block {
		return d
	}
	switch preference {
	case Unset, Allowed:
		return d
	case OptedOut:
		return Decision{Action: Block, Reason: ReasonPreference, ByName: true}
	case Hidden:
		return Decision{Action: Block, Reason: ReasonUnknown, ByName: true, Doubt: SendersDoubt}
	default:
		return Decision{Action: r.OnUnknown, Reason: ReasonUnknown, ByName: r.OnUnknown == Block, Doubt: OurDoubt}
	}
}

func (r Rules) resolve(then Then) Action {
	switch then {
	case ThenCollect:
		return Collect
	case ThenOnUnknown:
		return r.OnUnknown
	case ThenOnUnset:
		return r.OnUnset
	default:
		return Block
	}
}
