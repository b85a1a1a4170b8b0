// Package faults sends every kind of request through the real binary while what
// it depends on fails in every way, and counts.
package faults

import (
	"os"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func TestMain(m *testing.M) { os.Exit(testcaddy.Main(m)) }
