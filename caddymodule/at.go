package caddymodule

import (
	"errors"
	"slices"

	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/profileclient"
)

// at is located.At for errors that may come from the gate or the profile
// client, which say themselves which of their settings is wrong.
func at(err error, words ...string) error {
	switch err := err.(type) { //nolint:errorlint // what wraps such an error is a message of its own
	case *gate.ConfigError:
		return at(err.Err, append(slices.Clone(words), err.Setting)...)
	case *profileclient.ConfigError:
		return located.At(err.Err, append(slices.Clone(words), err.Setting)...)
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range err.Unwrap() {
			all = append(all, at(one, words...))
		}
		return errors.Join(all...)
	default:
		return located.At(err, words...)
	}
}
