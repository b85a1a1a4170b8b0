package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

var (
	sessions    = []policy.Session{policy.NoSession, policy.Expired, policy.Unverifiable, policy.Verified}
	preferences = []policy.Preference{policy.Unknown, policy.Unset, policy.Allowed, policy.OptedOut, policy.Hidden}
	signals     = []policy.Signal{
		policy.SignalNone, policy.SignalProbing, policy.SignalNoObjection,
		policy.SignalUnrecorded, policy.SignalOptedOut,
	}
	actions = []policy.Action{policy.Block, policy.Collect}
)

// theTable is the rules of the README, written out once more: session |
// preference | signal | decision | reason | write back. The first line that
// fits holds. "-" stands for any; "optout" for an opt-out of either kind.
const theTable = `
verified     true    -        block       preference         -
verified     false   -        collect     explicit_allow     -
verified     null    optout   block       signal             yes
verified     null    probing  on_unknown  probing            -
verified     null    -        on_unset    default            -
verified     unknown optout   block       signal             -
verified     unknown -        on_unknown  unknown            -
verified     hidden  optout   block       signal             -
verified     hidden  -        block       unknown            -
unverifiable -       optout   block       signal             -
unverifiable -       -        on_unknown  unverified_session -
none         -       optout   block       signal             -
expired      -       optout   block       signal             -
none         -       probing  on_unknown  probing            -
expired      -       probing  on_unknown  probing            -
none         -       -        on_unset    default            -
expired      -       -        on_unset    default            -
`

func expected(t *testing.T, s policy.Session, p policy.Preference, sig policy.Signal, r policy.Rules) (action, reason string, writeBack bool) {
	t.Helper()
	said := sig.String()
	if sig == policy.SignalOptedOut || sig == policy.SignalUnrecorded {
		said = "optout"
	}
	for line := range strings.Lines(strings.TrimSpace(theTable)) {
		cell := strings.Fields(line)
		fits := func(i int, value string) bool { return cell[i] == "-" || cell[i] == value }
		if !fits(0, s.String()) || !fits(1, p.String()) || !fits(2, said) {
			continue
		}
		action = cell[3]
		switch action {
		case "on_unset":
			action = r.OnUnset.String()
		case "on_unknown":
			action = r.OnUnknown.String()
		}
		// Sec-GPC and DNT block and are not written.
		return action, cell[4], cell[5] == "yes" && sig == policy.SignalOptedOut
	}
	t.Fatalf("the table says nothing of session=%v preference=%v signal=%v", s, p, sig)
	return "", "", false
}

// alsoExpected goes through further accounts that the request proves: each is
// decided by its own row, and the first block holds.
func alsoExpected(t *testing.T, action, reason string, others []policy.Preference, sig policy.Signal, r policy.Rules) (string, string) {
	t.Helper()
	for _, other := range others {
		if action == "block" {
			break
		}
		also, why, _ := expected(t, policy.Verified, other, sig, r)
		if also == "block" && other == policy.Hidden && reason == "unverified_session" {
			why = reason
		}
		if also == "block" {
			action, reason = also, why
		}
	}
	return action, reason
}

func namedExpected(action, reason string, byName bool, names []policy.Preference, r policy.Rules) (string, string, bool) {
	for _, name := range names {
		if action == "block" {
			return action, reason, byName
		}
		switch name {
		case policy.OptedOut:
			action, reason, byName = "block", "preference", true
		case policy.Hidden:
			action, reason, byName = "block", "unknown", true
		case policy.Unknown:
			action, reason, byName = r.OnUnknown.String(), "unknown", r.OnUnknown == policy.Block
		case policy.Unset, policy.Allowed: // no effect
		}
	}
	return action, reason, byName
}

// upToTwo is nobody, everybody, and every pair.
func upToTwo() [][]policy.Preference {
	some := [][]policy.Preference{nil}
	for _, first := range preferences {
		some = append(some, []policy.Preference{first})
		for _, second := range preferences {
			some = append(some, []policy.Preference{first, second})
		}
	}
	return some
}

// TestEveryCombination generates session x preference x signal x on_unknown x
// on_unset x up to two further proven accounts x up to two named ones, and holds
// each against theTable.
func TestEveryCombination(t *testing.T) {
	t.Parallel()
	combinations := 0
	for _, s := range sessions {
		for _, p := range preferences {
			for _, sig := range signals {
				for _, onUnknown := range actions {
					for _, onUnset := range actions {
						for _, others := range upToTwo() {
							for _, names := range upToTwo() {
								combinations++
								compare(t, s, p, sig, policy.Rules{OnUnknown: onUnknown, OnUnset: onUnset}, others, names)
							}
						}
					}
				}
			}
		}
	}
	if want := 4 * 5 * 5 * 2 * 2 * 31 * 31; combinations != want {
		t.Errorf("%d combinations were tried, not %d", combinations, want)
	}
}

func compare(t *testing.T, s policy.Session, p policy.Preference, sig policy.Signal, rules policy.Rules, others, names []policy.Preference) {
	t.Helper()
	action, reason, writeBack := expected(t, s, p, sig, rules)
	writeBack = writeBack && len(others) == 0 // one account, or nobody's profile
	action, reason = alsoExpected(t, action, reason, others, sig, rules)
	collected := action == "collect"
	action, reason, byName := namedExpected(action, reason, false, names, rules)

	got := rules.Decide(s, p, sig)
	for _, other := range others {
		got = rules.DecideAlso(got, other, sig)
	}
	for _, name := range names {
		got = rules.DecideNamed(got, name)
	}
	if got.Action.String() != action || got.Reason.String() != reason || got.ByName != byName {
		t.Errorf("session=%v preference=%v signal=%v rules=%+v others=%v names=%v: got %v %v by name %v, want %s %s %v",
			s, p, sig, rules, others, names, got.Action, got.Reason, got.ByName, action, reason, byName)
	}
	if want := writeBack && !collected; got.WriteBack != want {
		t.Errorf("session=%v preference=%v signal=%v others=%v names=%v: write back %v, want %v",
			s, p, sig, others, names, got.WriteBack, want)
	}
	// Whatever a sender can bring about blocks, also where on_unknown collects.
	if got.Doubt == policy.SendersDoubt && got.Action != policy.Block {
		t.Errorf("session=%v preference=%v signal=%v others=%v names=%v: collected in spite of the sender's doubt", s, p, sig, others, names)
	}
	if unlearnt := got.Reason == policy.ReasonUnknown || got.Reason == policy.ReasonUnverifiedSession; unlearnt && got.Doubt == policy.NoDoubt {
		t.Errorf("session=%v preference=%v signal=%v others=%v names=%v: %v, and nobody's doubt", s, p, sig, others, names, got.Reason)
	}
}

func TestWhatNobodySetFailsPrivate(t *testing.T) {
	t.Parallel()
	var (
		rules      policy.Rules
		session    policy.Session
		preference policy.Preference
		signal     policy.Signal
	)
	if d := rules.Decide(session, preference, signal); d.Action != policy.Block {
		t.Errorf("the zero values are collected: %+v", d)
	}
	if d := policy.DefaultRules().Decide(policy.Verified, preference, signal); d.Action != policy.Block {
		t.Errorf("a forgotten preference is collected: %+v", d)
	}
	if d := (policy.Decision{}); d.Action != policy.Block {
		t.Errorf("the zero decision collects: %+v", d)
	}
}

// TestChoicesStandAboveSignals is what lets a caller leave the signal unread.
func TestChoicesStandAboveSignals(t *testing.T) {
	t.Parallel()
	for _, p := range preferences {
		alike := true
		for _, sig := range signals {
			alike = alike && policy.DefaultRules().Decide(policy.Verified, p, sig) == policy.DefaultRules().Decide(policy.Verified, p, policy.SignalNone)
		}
		if p.IsChoice() != alike {
			t.Errorf("%v is a choice: %v, but all signals make the same decision: %v", p, p.IsChoice(), alike)
		}
	}
}

func TestPreferenceJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]policy.Preference{
		"null": policy.Unset, "false": policy.Allowed, "true": policy.OptedOut,
	} {
		var got struct{ P policy.Preference }
		if err := json.Unmarshal([]byte(`{"P":`+text+`}`), &got); err != nil || got.P != want {
			t.Errorf("%s reads as %v, %v; want %v", text, got.P, err, want)
		}
		back, err := json.Marshal(got)
		if err != nil || string(back) != `{"P":`+text+`}` {
			t.Errorf("%v is written as %s, %v", want, back, err)
		}
	}
	for _, text := range []string{`"true"`, `1`, `0`, `{}`, `[]`, `"null"`, `"unknown"`, `"yes"`} {
		got := policy.Allowed
		if err := json.Unmarshal([]byte(text), &got); err == nil || got != policy.Allowed {
			t.Errorf("%s is taken for %v", text, got)
		}
	}
	if text, err := json.Marshal(policy.Unknown); err == nil {
		t.Errorf("an unknown preference is written as %s", text)
	}
}

// TestWordsReadBack holds every name against its parser, since commands and
// configs read what logs and pages print.
func TestWordsReadBack(t *testing.T) {
	t.Parallel()
	for _, a := range actions {
		if got, ok := policy.ParseAction(a.String()); !ok || got != a {
			t.Errorf("action %q reads back as %v, %v", a, got, ok)
		}
	}
	for _, s := range sessions {
		if got, ok := policy.ParseSession(s.String()); !ok || got != s {
			t.Errorf("session %q reads back as %v, %v", s, got, ok)
		}
	}
	for _, p := range preferences {
		if got, ok := policy.ParsePreference(p.String()); !ok || got != p {
			t.Errorf("preference %q reads back as %v, %v", p, got, ok)
		}
	}
	for _, s := range signals {
		if got, ok := policy.ParseSignal(s.String()); !ok || got != s {
			t.Errorf("signal %q reads back as %v, %v", s, got, ok)
		}
	}
	const wrong = "perhaps"
	_, action := policy.ParseAction(wrong)
	_, session := policy.ParseSession(wrong)
	_, preference := policy.ParsePreference(wrong)
	_, signal := policy.ParseSignal(wrong)
	if action || session || preference || signal {
		t.Errorf("%q is taken for a word", wrong)
	}
	seen := map[string]bool{}
	for r := range policy.ReasonCount {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("reason %d has the name %q, which is empty or taken", r, name)
		} else {
			seen[name] = true
		}
	}
}

// TestTableIsComplete makes sure that every row that a reader of the
// documentation sees is also one that a request can reach.
func TestTableIsComplete(t *testing.T) {
	t.Parallel()
	reached := map[*policy.Row]bool{}
	for _, s := range sessions {
		for _, p := range preferences {
			for _, sig := range signals {
				row := policy.Match(s, p, sig)
				reached[row] = true
				if !strings.Contains(row.Session, s.String()) {
					t.Errorf("session %v is decided by the row of %q", s, row.Session)
				}
				if cell := "`" + p.String() + "`"; s == policy.Verified && p.IsLearnt() && row.Preference != cell {
					t.Errorf("preference %v is decided by the row of %q", p, row.Preference)
				}
			}
		}
	}
	for i := range policy.Table {
		if !reached[&policy.Table[i]] {
			t.Errorf("row %d can never apply: %+v", i, policy.Table[i])
		}
	}
	for then, word := range map[policy.Then]string{
		policy.ThenBlock: "block", policy.ThenCollect: "collect",
		policy.ThenOnUnknown: "by `on_unknown`", policy.ThenOnUnset: "by `on_unset`",
	} {
		if then.String() != word {
			t.Errorf("decision cell %d reads %q, not %q", then, then, word)
		}
	}
}

var sink policy.Decision

func BenchmarkDecide(b *testing.B) {
	for b.Loop() {
		sink = policy.DefaultRules().Decide(policy.Verified, policy.Unset, policy.SignalNone)
	}
}
