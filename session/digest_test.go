package session

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func testDigester(tb testing.TB) *digester {
	tb.Helper()
	d, err := newDigester()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// TestDigests draws pairs of tokens, most of them alike but for a little, and
// expects one key for one token and two keys for two.
func TestDigests(t *testing.T) {
	t.Parallel()
	d := testDigester(t)
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.StringN(0, 300, -1).Draw(t, "one")
		other := rapid.OneOf(
			rapid.Just(one), rapid.Just(one+"\x00"), rapid.Just("\x00"+one), rapid.Just(one+one),
			rapid.Just(strings.ToUpper(one)), rapid.StringN(0, 300, -1),
		).Draw(t, "other")
		if same := d.key(one) == d.key(other); same != (one == other) {
			t.Errorf("%q and %q: same key %v", one, other, same)
		}
	})
}

// TestDigestsAreSecret: what one cache knows must be worth nothing elsewhere,
// or somebody could look for collisions at home.
func TestDigestsAreSecret(t *testing.T) {
	t.Parallel()
	one, other := testDigester(t), testDigester(t)
	if one.key("token") == other.key("token") {
		t.Error("two digesters share a secret")
	}
}
