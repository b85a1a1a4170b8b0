// Package chaos lets two gates, two profile servers, their database and its
// pooler run under the load of every kind of person, while faults come at random,
// and compares what arrives at the applications with a model that knows at every
// moment what may.
package chaos

import (
	"os"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func TestMain(m *testing.M) { os.Exit(testcaddy.Main(m)) }
