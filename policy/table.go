package policy

// Then is the decision cell of a row: an action, or the option that holds it.
type Then uint8

const (
	// ThenBlock blocks, whatever the options say.
	ThenBlock Then = iota
	// ThenCollect collects, whatever the options say.
	ThenCollect
	// ThenOnUnknown does what on_unknown says.
	ThenOnUnknown
	// ThenOnUnset does what on_unset says.
	ThenOnUnset
)

// String returns the cell as the documentation words it.
func (t Then) String() string {
	return [...]string{"block", "collect", "by `on_unknown`", "by `on_unset`"}[t]
}

// Row is one line of the rules table. The first three fields are the cells
// that a reader sees; Match is what applies them.
type Row struct {
	Session, Preference, Signal string

	Then      Then
	Reason    Reason
	WriteBack bool
}

// Table is the rules, in the order in which the documentation lists them.
var Table = [...]Row{
	rowOptedOut:           {"verified", "`true`", "any", ThenBlock, ReasonPreference, false},
	rowAllowed:            {"verified", "`false`", "any", ThenCollect, ReasonExplicitAllow, false},
	rowUnsetSignal:        {"verified", "`null`", "opted out", ThenBlock, ReasonSignal, true},
	rowUnsetProbing:       {"verified", "`null`", "probing", ThenOnUnknown, ReasonProbing, false},
	rowUnset:              {"verified", "`null`", "otherwise", ThenOnUnset, ReasonDefault, false},
	rowUnknownSignal:      {"verified", "unknown", "opted out", ThenBlock, ReasonSignal, false},
	rowUnknown:            {"verified", "unknown", "otherwise", ThenOnUnknown, ReasonUnknown, false},
	rowUnverifiableSignal: {"unverifiable", "–", "opted out", ThenBlock, ReasonSignal, false},
	rowUnverifiable:       {"unverifiable", "–", "otherwise", ThenOnUnknown, ReasonUnverifiedSession, false},
	rowNoSessionSignal:    {"none, or expired", "–", "opted out", ThenBlock, ReasonSignal, false},
	rowNoSessionProbing:   {"none, or expired", "–", "probing", ThenOnUnknown, ReasonProbing, false},
	rowNoSession:          {"none, or expired", "–", "otherwise", ThenOnUnset, ReasonDefault, false},
}

const (
	rowOptedOut = iota
	rowAllowed
	rowUnsetSignal
	rowUnsetProbing
	rowUnset
	rowUnknownSignal
	rowUnknown
	rowUnverifiableSignal
	rowUnverifiable
	rowNoSessionSignal
	rowNoSessionProbing
	rowNoSession
)

// Match returns the row of Table that applies.
func Match(session Session, preference Preference, signal Signal) *Row {
	optedOut := signal == SignalOptedOut || signal == SignalUnrecorded
	choose := func(saidOptedOut, otherwise int) *Row {
		if optedOut {
			return &Table[saidOptedOut]
		}
		return &Table[otherwise]
	}
	switch session {
	case Verified:
		switch preference {
		case OptedOut:
			return &Table[rowOptedOut]
		case Allowed:
			return &Table[rowAllowed]
		case Unset:
			if signal == SignalProbing {
				return &Table[rowUnsetProbing]
			}
			return choose(rowUnsetSignal, rowUnset)
		default:
			return choose(rowUnknownSignal, rowUnknown)
		}
	case NoSession, Expired:
		if signal == SignalProbing {
			return &Table[rowNoSessionProbing]
		}
		return choose(rowNoSessionSignal, rowNoSession)
	default:
		return choose(rowUnverifiableSignal, rowUnverifiable)
	}
}
