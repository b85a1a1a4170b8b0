package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/token"
)

// located is an error and where in the configuration it belongs, as the path
// of words that an operator has typed: metrics_gate › session jwt › secret.
type located struct {
	words []string
	err   error
}

func (l located) Error() string { return strings.Join(l.words, " › ") + ": " + l.err.Error() }

func (l located) Unwrap() error { return l.err }

// wrongAt makes an error about the option of that word.
func wrongAt(word, format string, args ...any) error {
	return located{[]string{word}, fmt.Errorf(format, args...)}
}

// numbered names one of several blocks of a kind, in the order written.
func numbered(word string, i, n int) string {
	if n < 2 {
		return word
	}
	return fmt.Sprintf("%s (block %d of %d)", word, i+1, n)
}

// at puts words in front of where an error is, or of where each of several
// joined errors is. Without an error it returns nil.
func at(err error, words ...string) error {
	switch err := err.(type) { //nolint:errorlint // what wraps a located error is a message of its own
	case nil:
		return nil
	case located:
		return located{slices.Concat(words, err.words), err.err}
	case *gate.ConfigError:
		return at(err.Err, append(slices.Clone(words), err.Setting)...)
	case *token.ConfigError:
		return located{slices.Concat(words, []string{err.Setting}), err.Err}
	case *profileclient.ConfigError:
		return located{slices.Concat(words, []string{err.Setting}), err.Err}
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range err.Unwrap() {
			all = append(all, at(one, words...))
		}
		return errors.Join(all...)
	default:
		return located{words, err}
	}
}
