// Package browser_test proves the browser's side in a real Firefox and a real
// Chromium: the real Caddy stands between them, an application's stand-in and
// the real profile server. The tests know what ARCHITECTURE.md and docs/
// promise, and nothing of how it is built.
package browser_test

import (
	"os"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func TestMain(m *testing.M) { os.Exit(testcaddy.Main(m)) }
