package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// subject is what kind of account somebody has. It is a character of the
// account's id.
type subject byte

const (
	optedOut subject = 'f' // for good
	allows   subject = 'a' // for good
	unset    subject = '0' // for good
	turning  subject = 'c' // chooses anew, again and again
	spoken   subject = 'e' // chose nothing; its browser opts out, which is written into its profile
	cold     subject = 'd' // of whom no gate has heard; it opted out
)

func (s subject) String() string {
	return map[subject]string{optedOut: "opted out", allows: "allowed", unset: "null", turning: "turning", spoken: "spoken for", cold: "cold"}[s]
}

// uidPrefix begins every account's id, so that it is found wherever it should
// not stand.
const uidPrefix = "c4a05c4a05"

// choice is a preference, as JSON has it.
type choice string

const (
	optOut choice = "true"
	allow  choice = "false"
	none   choice = "null"
)

// account is one, and what the test knows of its preference.
type account struct {
	uid     string
	subject subject

	mu     sync.Mutex
	saved  choice    // the last one that was acknowledged
	at     time.Time // when
	by     string    // by whom
	trying choice    // what is being saved, or may have been; "": nothing
	lapses int       // how often something else than an opt-out was begun to be saved
}

func newAccount(s subject, n int) *account {
	a := &account{subject: s, uid: uidPrefix + fmt.Sprintf("%c%021x", s, n), saved: none}
	return a
}

// begins is told before a choice is sent anywhere.
func (a *account) begins(c choice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trying = c
	if c != optOut {
		a.lapses++
	}
}

// acknowledged is told when somebody has said that it is saved.
func (a *account) acknowledged(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.saved, a.trying, a.at, a.by = a.trying, "", time.Now(), by
}

// standing is what may be held of the account: the choice that was acknowledged
// and, until it is known what became of another one, that one.
func (a *account) standing() (saved, trying choice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.saved, a.trying
}

// isOut says whether it was acknowledged before a time that the account opted out,
// and nothing else was begun since; and how often that had been begun by now.
func (a *account) isOut(before time.Time) (out bool, lapses int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out = a.saved == optOut && (a.trying == "" || a.trying == optOut) && a.at.Before(before)
	return out, a.lapses
}

// mayAllow says whether it may have allowed.
func (a *account) mayAllow() bool { return a.subject == allows || a.subject == turning }

func (a *account) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := fmt.Sprintf("%s (%v: %s", a.uid, a.subject, a.saved)
	if a.by != "" {
		text += fmt.Sprintf(" for %v, acknowledged by %s", time.Since(a.at).Round(time.Millisecond), a.by)
	}
	if a.trying != "" {
		text += ", or " + string(a.trying)
	}
	return text + ")"
}

// verdict is what the model says of a request.
type verdict int

const (
	may    verdict = iota
	never          // it must not reach the application
	passes         // it is none of the gate's business
)

func (v verdict) String() string { return [...]string{"may arrive", "must not arrive", "passes"}[v] }

// judged is a verdict, why, and on what it depends.
type judged struct {
	verdict verdict
	why     string
	account *account // who has opted out
	lapses  int      // of the account

	// rotations is how often the key of sessions had changed, where the verdict
	// depends on that the edge knows it; otherwise 0.
	rotations int64
	// process is that by whose clock it was judged, where that matters; otherwise 0.
	process int
}

// holds says whether the verdict is still good for what a process did: since then,
// neither has the account begun to choose something else, nor has the key changed.
func (j *judged) holds(keys *keySet, process int) bool {
	if j.process != 0 && j.process != process {
		return false
	}
	if j.account == nil {
		return true
	}
	_, lapses := j.account.isOut(time.Now())
	return lapses == j.lapses && (j.rotations == 0 || j.rotations == keys.count())
}

// judge says what may become of a request that is sent now, to a process of an edge,
// or nil where it is down, whose gate knows all that was acknowledged before a time.
// The edge was last seen to know the key of sessions after so many changes of it.
// Where there were more since, it may refuse a session, and ignores what it refuses
// beside something good.
func judge(r *request, seen, rotations int64, at *process, before time.Time) judged {
	if r.route.class == "" {
		return judged{verdict: passes}
	}
	if !slices.ContainsFunc(r.credentials, func(c credential) bool { return c.kind == proven }) {
		return judgeAt(r, seen, rotations, false, before)
	}
	if at == nil {
		return judged{verdict: may} // by whose clock, nobody knows
	}
	j := judgeAt(r, seen, rotations, at.ahead, before)
	j.process = at.number
	return j
}

// judgeAt does so for a process whose clock may be ahead.
func judgeAt(r *request, seen, rotations int64, ahead bool, before time.Time) judged {
	metrics, sure, alone := r.route.class == "metrics", seen == rotations, len(r.credentials) == 1
	refused := func(c credential) bool { return c.kind == junk || c.kind == withdrawn && sure }
	// What was sealed by another clock is too old, or its proof is still to come.
	lapsed := func(c credential) bool { return c.kind == expired || c.kind == proven && c.ahead != ahead }
	verifies := func(c credential) bool { return !lapsed(c) && !refused(c) }
	if slices.ContainsFunc(r.credentials, refused) && !slices.ContainsFunc(r.credentials, verifies) {
		return judged{verdict: never, why: "a credential does not verify, and none does"}
	}
	relied := rotations
	if alone {
		relied = 0
	}
	forbids := func(a *account, rotations int64, why string) *judged {
		if out, lapses := a.isOut(before); out {
			return &judged{verdict: never, why: why, account: a, lapses: lapses, rotations: rotations}
		}
		return nil
	}
	mayAllow := false
	for _, c := range r.credentials {
		switch c.kind {
		case proven:
			mayAllow = mayAllow || !lapsed(c) && c.account.mayAllow()
			if lapsed(c) && !metrics {
				break // it only names
			}
			if j := forbids(c.account, 0, "the gate's own session is of an account that opted out"); j != nil {
				return *j
			}
		case signed:
			mayAllow = mayAllow || c.account.mayAllow()
			if alone || sure {
				if j := forbids(c.account, relied, "a session proves an account that opted out"); j != nil {
					return *j
				}
			}
		case withdrawn:
			mayAllow = mayAllow || !sure && c.account.mayAllow()
			if alone {
				if j := forbids(c.account, 0, "a session of the key before is of an account that opted out"); j != nil {
					return *j
				}
			}
		case expired:
			if metrics && (alone || sure) {
				if j := forbids(c.account, relied, "an expired session names an account that opted out"); j != nil {
					return *j
				}
			}
		case junk: // which is nobody's
		}
	}
	if r.signal.optedOut && !mayAllow {
		return judged{verdict: never, why: "the browser opted out, and nobody can have allowed"}
	}
	if metrics && r.route.method == "POST" && r.name != nil {
		if r.name.hiding {
			return judged{verdict: never, why: "the name cannot be learnt"}
		}
		if r.named != nil {
			if j := forbids(r.named, 0, "the body names an account that opted out"); j != nil {
				return *j
			}
		}
	}
	return judged{verdict: may}
}

// String describes a request, for who has to find out what went wrong.
func (r *request) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%v", r.route)
	if r.feed {
		text.WriteString(" to the gate that depends on the feed")
	}
	for _, c := range r.credentials {
		fmt.Fprintf(&text, ", with the %v session of %v", c.kind, c.account)
	}
	if r.name != nil {
		fmt.Fprintf(&text, ", naming (%s) %v", r.name.kind, r.named)
	}
	if r.signal.kind != "" {
		fmt.Fprintf(&text, ", with the signal %s", r.signal.kind)
	}
	return text.String()
}
