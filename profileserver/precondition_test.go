package profileserver

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestListed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		list         string
		strong, weak bool
	}{
		{`"a"`, true, true},
		{` "a" `, true, true},
		{`*`, true, true},
		{` * `, true, true},
		{`"x","a"`, true, true},
		{`"x" , ,	"a"`, true, true},
		{`,"a",`, true, true},
		{`"x,y", "a"`, true, true},
		{`"x""a"`, true, true},
		{`W/"x", "a"`, true, true},
		{`W/"a"`, false, true},
		{`W/"a", "x"`, false, true},
		{`w/"a"`, false, false},
		{`W/ "a"`, false, false},
		{`"A"`, false, false},
		{`"x, "a"`, false, false},
		{`"a`, false, false},
		{`a`, false, false},
		{`a, "a"`, false, false},
		{`'a'`, false, false},
		{``, false, false},
		{`,`, false, false},
		{`""`, false, false},
		{`"x"`, false, false},
		{`*, "x"`, false, false},
		{`"x", *`, false, false},
		{`**`, false, false},
	} {
		if got := listed([]string{test.list}, `"a"`, false); got != test.strong {
			t.Errorf("strong %s: %t", test.list, got)
		}
		if got := listed([]string{test.list}, `"a"`, true); got != test.weak {
			t.Errorf("weak %s: %t", test.list, got)
		}
	}
}

// TestListedFindsWhatIsListed builds well-formed lists, over any number of
// header lines, and asks for a tag that is or is not among them.
func TestListedFindsWhatIsListed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		opaque := rapid.StringMatching(`"[a-c,*/W]{0,2}"`)
		tag := opaque.Draw(t, "tag")
		var lines []string
		var strong, weak bool
		for range rapid.IntRange(1, 3).Draw(t, "lines") {
			var line []string
			for range rapid.IntRange(1, 4).Draw(t, "tags") {
				one := opaque.Draw(t, "one")
				weak = weak || one == tag
				if rapid.Bool().Draw(t, "weak") {
					one = "W/" + one
				}
				strong = strong || one == tag
				line = append(line, one)
			}
			lines = append(lines, strings.Join(line, rapid.SampledFrom([]string{",", ", ", " ,\t"}).Draw(t, "separator")))
		}
		if got := listed(lines, tag, false); got != strong {
			t.Errorf("strong %s in %q: %t", tag, lines, got)
		}
		if got := listed(lines, tag, true); got != weak {
			t.Errorf("weak %s in %q: %t", tag, lines, got)
		}
	})
}
