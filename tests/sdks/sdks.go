// Package sdks holds what the presets are proven with: pages that run the SDKs
// of others, as npm has them. The test is TestSDKs in tests/browser.
package sdks

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// SDK is one of those in the folder pages.
type SDK struct {
	// Name is that of its page.
	Name string

	// Package is what it is called in npm.
	Package string

	// Prefix is the path that its page tells it for its host.
	Prefix string

	// Gate is what stands for it in a Caddyfile.
	Gate string

	// Stays is what reaches the application from people who opted out: no metrics
	// and no experiments.
	Stays string

	// Names says that it tells whose events they are.
	Names bool

	// Experiments says that it asks for them.
	Experiments bool
}

// All are those that are proven.
var All = []SDK{
	{Name: "ahoy", Package: "ahoy.js", Prefix: "/ahoy", Gate: "preset ahoy"},
	{Name: "amplitude", Package: "@amplitude/analytics-browser", Prefix: "/amplitude", Gate: "preset amplitude /amplitude", Stays: "^GET /amplitude/config/", Names: true, Experiments: true},
	{Name: "countly", Package: "countly-sdk-web", Prefix: "/countly", Gate: "preset countly /countly", Stays: "^(GET|POST) /countly/o/sdk$", Names: true},
	{Name: "glean", Package: "@mozilla/glean", Prefix: "", Gate: "preset glean", Stays: "^POST /submit/[^/]*/deletion-request/"},
	{Name: "matomo", Package: "matomo-tracker-react-native", Prefix: "/matomo", Gate: "preset matomo /matomo", Names: true},
	{Name: "mixpanel", Package: "mixpanel-browser", Prefix: "/mixpanel", Gate: "preset mixpanel /mixpanel", Names: true, Experiments: true},
	{Name: "plausible", Package: "@plausible-analytics/tracker", Prefix: "/plausible", Gate: "preset plausible /plausible"},
	{Name: "posthog", Package: "posthog-js", Prefix: "/ph", Gate: "preset posthog /ph", Stays: "^GET /ph/(array|static)/|^GET /ph/api/surveys", Names: true, Experiments: true},
	{Name: "rudderstack", Package: "@rudderstack/analytics-js", Prefix: "/rudder", Gate: "preset segment /rudder", Stays: "^GET /rudder/sourceConfig", Names: true},
	{Name: "segment", Package: "@segment/analytics-next", Prefix: "/segment", Gate: "preset segment /segment", Stays: "^GET /segment/v1/projects/[^/]*/settings$", Names: true},
	{Name: "sentry", Package: "@sentry/browser", Prefix: "/tunnel", Gate: "preset sentry /tunnel", Names: true},
	{Name: "snowplow", Package: "@snowplow/browser-tracker", Prefix: "/snowplow", Gate: "preset snowplow /snowplow", Names: true},
	{Name: "vitals", Package: "web-vitals", Prefix: "/vitals", Gate: "route POST /vitals"},
}

// folder is where this file is.
var folder = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}()

// Bundle makes a script of each page, and returns the folder that has them.
func Bundle(t testing.TB) string {
	t.Helper()
	esbuild := filepath.Join(folder, "node_modules", ".bin", "esbuild")
	if _, err := os.Stat(esbuild); err != nil {
		t.Fatalf("%v; run tests/setup.sh, or make test, which does", err)
	}
	pages, err := filepath.Glob(filepath.Join(folder, "pages", "*.js"))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	// The clock asks Node for these, and browsers for nothing.
	arguments := append([]string{"--bundle", "--format=iife", "--log-level=warning", "--external:util", "--external:timers*", "--outdir=" + out}, pages...)
	if output, err := exec.CommandContext(t.Context(), esbuild, arguments...).CombinedOutput(); err != nil { //nolint:gosec // of this folder
		t.Fatalf("esbuild: %v\n%s", err, output)
	}
	return out
}
