package gate

import (
	"encoding/json"
	"net/http"

	"github.com/metricsgate/metricsgate/session"
)

// Preset is what a known application needs: its gated routes, with where their
// requests name accounts. The answers are what the application itself says on
// success, so that neither beacons nor retries notice.
type Preset struct {
	// Routes are the gated routes.
	Routes []Route

	// experimentParams and featureFlags take blocked users' pages out of the
	// client's own experiments, and stop what it beacons past the edge. They come
	// with a handshake, since pages then wait for a lookup.
	experimentParams []string
	featureFlags     []FeatureFlags
}

// PresetNamed returns the preset of that name, and false where there is none.
func PresetNamed(name string) (Preset, bool) {
	preset, known := presets[name]
	return preset, known
}

// presets are the applications that we know.
var presets = map[string]Preset{
	// The Firefox Accounts content server. Its errors route was a GET until
	// 2016 and is a POST since; the page never looks at the reply.
	"fxa": {
		Routes: []Route{
			{Methods: []string{http.MethodPost}, Path: "/metrics", Class: ClassMetrics, Answer: fxaSuccess, Names: fxaNames},
			{Methods: []string{http.MethodGet, http.MethodHead, http.MethodPost}, Path: "/metrics-errors", Class: ClassMetrics, Answer: fxaSuccess, Names: fxaNames},
			{
				Methods: []string{http.MethodPost}, Path: "/navigation-timing", Class: ClassMetrics, Names: fxaNames,
				Answer: &Answer{Status: http.StatusOK, ContentType: fxaJSON, Body: `{}`},
			},
			{
				Methods: []string{http.MethodGet}, Path: "/experiments.bundle.js", Class: ClassExperiment,
				Answer: &Answer{Status: http.StatusOK, ContentType: "text/javascript; charset=utf-8"},
			},
			{
				Methods: []string{http.MethodPost}, Path: "/nimbus-experiments", Class: ClassExperiment,
				Answer: &Answer{Status: http.StatusOK, ContentType: fxaJSON, Body: `{"Features":{},"Enrollments":[],"features":{},"nimbusUserId":""}`},
			},
		},
		experimentParams: []string{"forceExperiment", "forceExperimentGroup"},
		featureFlags: []FeatureFlags{
			{Meta: "fxa-config", Flags: fxaTelemetryOff},
			{Meta: "fxa-content-server/config", Flags: fxaTelemetryOff}, // of the client until 2025
			{Meta: "fxa-feature-flags", Flags: map[string]json.RawMessage{
				"metricsSampleRate": json.RawMessage("0"),
				"sentrySampleRate":  json.RawMessage("0"),
				"smsCountries":      json.RawMessage("{}"),
				// Without this member the client throws.
				"tokenCodeClients.sync.rolloutRate": json.RawMessage("0"),
			}},
		},
	},
}

// fxaTelemetryOff switches off what beacons to hosts of its own.
var fxaTelemetryOff = map[string]json.RawMessage{
	"glean.enabled":       json.RawMessage("false"),
	"glean.uploadEnabled": json.RawMessage("false"),
	"sentry.dsn":          json.RawMessage(`""`),
	"sentry.sampleRate":   json.RawMessage("0"),
}

const fxaJSON = "application/json; charset=utf-8"

var fxaNames = &session.NamesConfig{Body: []string{"uid", "data.uid"}, Match: `^[0-9a-f]{32}$`}

var fxaSuccess = &Answer{Status: http.StatusOK, ContentType: fxaJSON, Body: `{"success":true}`}
