package policy_test

import (
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

func TestIsUID(t *testing.T) {
	t.Parallel()
	for uid, want := range map[string]bool{
		"":                                 false,
		"a":                                true,
		"0123456789abcdef0123456789abcdef": true,
		"ann@example.org":                  true,
		"Ænne 安":                           true,
		strings.Repeat("u", 255):           true,
		strings.Repeat("u", 256):           false,
		"line\nbreak":                      false,
		"nul\x00":                          false,
		"next\u0085line":                   false,
		"broken\xff":                       false,
		"replaced\ufffd":                   false,
	} {
		if got := policy.IsUID(uid); got != want {
			t.Errorf("%q: %v, want %v", uid, got, want)
		}
	}
}
