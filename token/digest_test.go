package token_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/token"
)

// TestDigests draws pairs of tokens, most of them alike but for a little, and
// expects one key for one token and two keys for two.
func TestDigests(t *testing.T) {
	t.Parallel()
	d := token.NewDigester()
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.StringN(0, 300, -1).Draw(t, "one")
		other := rapid.OneOf(
			rapid.Just(one), rapid.Just(one+"\x00"), rapid.Just("\x00"+one), rapid.Just(one+one),
			rapid.Just(strings.ToUpper(one)), rapid.StringN(0, 300, -1),
		).Draw(t, "other")
		if same := d.Digest(one) == d.Digest(other); same != (one == other) {
			t.Errorf("%q and %q: same key %v", one, other, same)
		}
	})
}

// TestDigestsAreSecret: what one cache knows must be worth nothing elsewhere,
// or somebody could look for collisions at home.
func TestDigestsAreSecret(t *testing.T) {
	t.Parallel()
	one, other := token.NewDigester(), token.NewDigester()
	if one.Digest("token") == other.Digest("token") {
		t.Error("two digesters share a secret")
	}
}
