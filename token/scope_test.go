package token_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/token"
)

func TestImplies(t *testing.T) {
	t.Parallel()
	const read, write = "profile:metrics_optout", "profile:metrics_optout:write"
	tests := []struct {
		granted     string
		read, write bool
	}{
		{read, true, false},
		{write, true, true},
		{"profile", true, false},
		{"profile:write", true, true},
		{"openid profile:email profile:write", true, true},
		{"  profile  ", true, false},
		{"profilebogey", false, false},
		{"profile:metrics", false, false},
		{"profile:metrics_optout:x", false, false},
		{"profile:email:write", false, false},
		{"Profile", false, false},
		{"profile:", false, false},
		{"write", false, false},
		{":write", false, false},
		{":", false, false},
		{"", false, false},
		{"profile,profile:write", false, false},
	}
	for _, test := range tests {
		if got := token.Implies(test.granted, read); got != test.read {
			t.Errorf("%q implies reading: %v", test.granted, got)
		}
		if got := token.Implies(test.granted, write); got != test.write {
			t.Errorf("%q implies writing: %v", test.granted, got)
		}
	}
}

// TestImpliesByComponent holds Implies against the rule as Firefox Accounts
// documents it: A implies B if B does not end in write unless A does, and A
// without write is the beginning of B, component by component.
func TestImpliesByComponent(t *testing.T) {
	t.Parallel()
	scope := rapid.Custom(func(t *rapid.T) []string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "ab", "b"}), 1, 3).Draw(t, "parts")
		if rapid.Bool().Draw(t, "write") {
			parts = append(parts, "write")
		}
		return parts
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := scope.Draw(t, "a"), scope.Draw(t, "b")
		writes := a[len(a)-1] == "write"
		prefix := a
		if writes {
			prefix = a[:len(a)-1]
		}
		want := len(prefix) <= len(b) && (writes || b[len(b)-1] != "write")
		for i := range prefix {
			want = want && prefix[i] == b[i]
		}
		granted, wanted := strings.Join(a, ":"), strings.Join(b, ":")
		if got := token.Implies("x "+granted+" y", wanted); got != want {
			t.Fatalf("%s implies %s: %v, want %v", granted, wanted, got, want)
		}
	})
}
