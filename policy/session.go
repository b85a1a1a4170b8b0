package policy

// Session says how far the request proves whose it is. The zero value is
// Unverifiable, so that what nobody checked proves nothing.
type Session uint8

const (
	// Unverifiable means that a credential is there, but its signature or
	// its claims do not hold.
	Unverifiable Session = iota
	// NoSession means that the request carries no credential.
	NoSession
	// Expired means that everything about the credential holds but its time.
	// Its account is no longer proven, only named.
	Expired
	// Verified means that the request proves its account.
	Verified
)

var sessionNames = [...]string{
	Unverifiable: "unverifiable", NoSession: "none", Expired: "expired", Verified: "verified",
}

// String returns the session as the rules table words it.
func (s Session) String() string { return sessionNames[s] }

// ParseSession reads what String writes and reports false for anything else.
func ParseSession(word string) (Session, bool) {
	for s, name := range sessionNames {
		if name == word {
			return Session(s), true
		}
	}
	return Unverifiable, false
}
