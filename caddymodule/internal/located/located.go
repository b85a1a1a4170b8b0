package located

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/token"
)

// wrong is an error and where in the configuration it belongs.
type wrong struct {
	words []string
	err   error
}

func (w wrong) Error() string { return strings.Join(w.words, " › ") + ": " + w.err.Error() }

func (w wrong) Unwrap() error { return w.err }

// Errorf makes an error about the option of that word.
func Errorf(word, format string, args ...any) error {
	return wrong{[]string{word}, fmt.Errorf(format, args...)}
}

// Numbered names one of several blocks of a kind, in the order written.
func Numbered(word string, i, n int) string {
	if n < 2 {
		return word
	}
	return fmt.Sprintf("%s (block %d of %d)", word, i+1, n)
}

// At puts words in front of where an error is, or of where each of several
// joined errors is: its setting where token says which one is wrong. Without an
// error it returns nil.
func At(err error, words ...string) error {
	switch err := err.(type) { //nolint:errorlint // what wraps such an error is a message of its own
	case nil:
		return nil
	case wrong:
		return wrong{slices.Concat(words, err.words), err.err}
	case *token.ConfigError:
		return wrong{slices.Concat(words, []string{err.Setting}), err.Err}
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range err.Unwrap() {
			all = append(all, At(one, words...))
		}
		return errors.Join(all...)
	default:
		return wrong{words, err}
	}
}
