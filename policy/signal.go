package policy

// Signal is what the browser said about its user's choice. The values are in
// the order of their weight: where a request carries several, the greatest
// one holds, so that "opted out" wins over "no objection" (see Strongest).
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
	// SignalPrivacyHeader means an opt-out by Sec-GPC or DNT. It blocks like
	// any other, but it speaks of one site rather than of telemetry and is
	// therefore never written into a profile.
	SignalPrivacyHeader
	// SignalOptedOut means that the user switched telemetry off in the
	// browser, as the handshake learnt it.
	SignalOptedOut
)

var signalNames = [...]string{
	SignalNone:          "none",
	SignalProbing:       "probing",
	SignalNoObjection:   "no_objection",
	SignalPrivacyHeader: "privacy_header",
	SignalOptedOut:      "opted_out",
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

// Strongest returns the signal that holds where a request carries both.
func (s Signal) Strongest(other Signal) Signal { return max(s, other) }
