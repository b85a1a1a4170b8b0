package policy

import (
	"encoding/json"
	"errors"
)

// Preference is an account's metrics_optout. It has three states, and two more
// for an account whose state could not be learnt.
type Preference uint8

const (
	// Unknown means that the preference could not be learnt. It is the zero
	// value, so that whatever forgets to set one fails private. Unknown is
	// never the same as Unset.
	Unknown Preference = iota
	// Unset means that no choice was made; metrics are allowed. JSON null.
	Unset
	// Allowed means explicitly allowed. JSON false.
	Allowed
	// OptedOut means explicitly opted out. JSON true.
	OptedOut
	// Hidden means that the preference could not be learnt, and that the request
	// itself can have brought that about: by credentials that are too long or
	// too many, by a body that cannot be read, by more names than are looked up.
	// It is what somebody would send to hide an account that opted out, so it
	// blocks whatever is done about Unknown.
	Hidden
)

var preferenceNames = [...]string{Unknown: "unknown", Unset: "null", Allowed: "false", OptedOut: "true", Hidden: "hidden"}

// IsLearnt says whether it is known what the account prefers.
func (p Preference) IsLearnt() bool { return p != Unknown && p != Hidden }

// String returns the JSON literal of the preference, "unknown" or "hidden".
func (p Preference) String() string { return preferenceNames[p] }

// IsChoice says whether the user made this choice explicitly. No signal of a
// browser overrides it, so nobody has to read one.
func (p Preference) IsChoice() bool { return p == Allowed || p == OptedOut }

// ParsePreference reads what String writes and reports false for anything
// else.
func ParsePreference(word string) (Preference, bool) {
	for p, name := range preferenceNames {
		if name == word {
			return Preference(p), true
		}
	}
	return Unknown, false
}

// MarshalJSON writes null, false or true. What was not learnt has no JSON form,
// since null would make it a preference that somebody holds.
func (p Preference) MarshalJSON() ([]byte, error) {
	if !p.IsLearnt() {
		return nil, errors.New("a preference that was not learnt has no JSON form")
	}
	return []byte(p.String()), nil
}

// UnmarshalJSON reads null, false or true and refuses every other value,
// strings that look like one of them included.
func (p *Preference) UnmarshalJSON(text []byte) error {
	parsed, ok := ParsePreference(string(text))
	if !ok || !parsed.IsLearnt() {
		return errors.New("a preference is null, false or true, not JSON of another kind")
	}
	*p = parsed
	return nil
}

var (
	_ json.Marshaler   = Preference(0)
	_ json.Unmarshaler = (*Preference)(nil)
)
