package located_test

import (
	"errors"
	"io"
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/token"
)

func TestAt(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"gate › session › secret: too short": located.At(&token.ConfigError{Setting: "secret", Err: errors.New("too short")}, "gate", "session"),
		"gate › session › url: 3 are given":  located.At(located.At(located.Errorf("url", "%d are given", 3), "session"), "gate"),
		"gate › url: EOF\ngate › jwks: EOF":  located.At(errors.Join(located.At(io.EOF, "url"), nil, located.At(io.EOF, "jwks")), "gate"),
		"gate: EOF":                          located.At(io.EOF, "gate"),
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
	if err := located.At(nil, "gate"); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	if err := located.At(io.EOF, "gate"); !errors.Is(err, io.EOF) {
		t.Errorf("%v hides its cause", err)
	}
}

func TestNumbered(t *testing.T) {
	t.Parallel()
	if got := located.Numbered("session jwt", 0, 1); got != "session jwt" {
		t.Errorf("the only one is %q", got)
	}
	if got := located.Numbered("session jwt", 1, 3); got != "session jwt (block 2 of 3)" {
		t.Errorf("one of several is %q", got)
	}
}
