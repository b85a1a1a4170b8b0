package policy

// Signal is what the browser said about its user's choice. Where a request
// carries several, an opt-out wins over no objection.
type Signal uint8

const (
	// SignalNone means that the browser said nothing that counts.
	SignalNone Signal = iota
	// SignalProbing means that the browser is being asked and has not
	// answered yet.
	SignalProbing
	// SignalNoObjection means that the browser answered without an opt-out.
	// That is never consent.
	SignalNoObjection
	// SignalUnrecorded means an opt-out that blocks like any other and is never
	// written into a profile: one that speaks of this site rather than of
	// telemetry (Sec-GPC, DNT, a consent banner), one that others of the same
	// request contradict, or what the gate remembers of an account.
	SignalUnrecorded
	// SignalOptedOut means that the user switched telemetry off in the
	// browser, as the handshake learnt it.
	SignalOptedOut
)

var signalNames = [...]string{
	SignalNone:        "none",
	SignalProbing:     "probing",
	SignalNoObjection: "no_objection",
	SignalUnrecorded:  "unrecorded",
	SignalOptedOut:    "opted_out",
}

// String returns the signal as the explain command spells it.
func (s Signal) String() string { return signalNames[s] }

// ParseSignal reads what String writes and reports false for anything else.
func ParseSignal(word string) (Signal, bool) {
	for s, name := range signalNames {
		if name == word {
			return Signal(s), true
		}
	}
	return SignalNone, false
}
