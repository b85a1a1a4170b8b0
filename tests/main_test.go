// Package tests holds the end-to-end tests: the real binary, started with a
// Caddyfile, between stand-ins for the content server and the profile server.
// They know what README, ARCHITECTURE.md and docs/ promise, and nothing of how
// it is built.
package tests

import (
	"os"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func TestMain(m *testing.M) { os.Exit(testcaddy.Main(m)) }
