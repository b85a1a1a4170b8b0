// Package setclock is the time of a Caddy whose clock a test sets. No product
// imports it: testcaddy puts it in the place of time.Now as it builds that Caddy.
package setclock

import (
	"os"
	"time"
)

// Environment names the variable with the path of the clock, a file that holds
// how far it is off.
const Environment = "METRICS_GATE_TEST_CLOCK"

var path = os.Getenv(Environment)

// Now takes the place of time.Now.
func Now() time.Time { return time.Now().Add(off()) }

// Since takes the place of time.Since.
func Since(t time.Time) time.Duration { return Now().Sub(t) }

// Until takes the place of time.Until.
func Until(t time.Time) time.Duration { return t.Sub(Now()) }

// off is zero for a clock that was never set.
func off() time.Duration {
	text, _ := os.ReadFile(path)
	off, _ := time.ParseDuration(string(text)) //nolint:forbidigo // it is written by a test, and has no days
	return off
}
