package token_test

import (
	"testing"

	"github.com/metricsgate/metricsgate/token"
)

func TestFromHeader(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ value, scheme, want string }{
		{"Bearer abc", "Bearer", "abc"},
		{"bEARER abc", "Bearer", "abc"},
		{"Bearer abc", "bearer", "abc"},
		{"Bearer\tabc", "Bearer", "abc"},
		{"Bearer \t  abc", "Bearer", "abc"},
		{"\t Bearer abc \t", "Bearer", "abc"},
		{"Bearer abc def", "Bearer", "abc def"},
		{"Token abc", "Token", "abc"},
		{"", "Bearer", ""},
		{"Bearer", "Bearer", ""},
		{"Bearer \t", "Bearer", ""},
		{"Bearerabc", "Bearer", ""},
		{"Bearer\u00a0abc", "Bearer", ""},
		{"Bearers abc", "Bearer", ""},
		{"Basic abc", "Bearer", ""},
		{"abc", "Bearer", ""},
		{" abc\t", "", "abc"},
		{"Bearer abc", "", "Bearer abc"},
		{" ", "", ""},
	} {
		if got := token.FromHeader(test.value, test.scheme); got != test.want {
			t.Errorf("%q of %q: %q, want %q", test.scheme, test.value, got, test.want)
		}
	}
}
