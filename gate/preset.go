package gate

import (
	"net/http"

	"github.com/metricsgate/metricsgate/session"
)

// Preset is what a known application needs: its gated routes, with where their
// requests name accounts. The answers are what the application itself says on
// success, so that neither beacons nor retries notice.
type Preset struct {
	// Routes are the gated routes.
	Routes []Route
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
				Methods: []string{http.MethodGet}, Path: "/experiments.bundle.js", Class: ClassExperiment,
				Answer: &Answer{Status: http.StatusOK, ContentType: "text/javascript; charset=utf-8"},
			},
			{
				Methods: []string{http.MethodPost}, Path: "/nimbus-experiments", Class: ClassExperiment,
				Answer: &Answer{Status: http.StatusOK, ContentType: fxaJSON, Body: `{"features":{},"nimbusUserId":""}`},
			},
		},
	},
}

const fxaJSON = "application/json; charset=utf-8"

var fxaNames = &session.NamesConfig{Body: []string{"uid", "data.uid"}, Match: `^[0-9a-f]{32}$`}

var fxaSuccess = &Answer{Status: http.StatusOK, ContentType: fxaJSON, Body: `{"success":true}`}
