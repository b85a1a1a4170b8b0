package browser_test

// vendors are the answers of the SDKs' own servers.
var vendors = []struct {
	request string // a regular expression
	status  int
	kind    string
	body    string
}{
	{`^POST /ahoy/visits$`, 200, "application/json", `{"visit_token":"1","visitor_token":"2"}`},
	{`^POST /ahoy/events$`, 200, "application/json", `{}`},
	{`^POST /amplitude/2/httpapi$`, 200, "application/json", `{"code":200,"events_ingested":1,"payload_size_bytes":50,"server_upload_time":1396381378123}`},
	{`^GET /amplitude/config/`, 200, "application/json", `{"configs":{}}`},
	{`^GET /amplitude/sdk/v2/vardata$`, 200, "application/json", `{"exp":{"key":"test","value":"test"}}`},
	{`^GET /amplitude/sdk/v2/flags$`, 200, "application/json", `[]`},
	{`^(GET|POST) /countly/i$`, 200, "application/json", `{"result":"Success"}`},
	{`^(GET|POST) /countly/o/sdk$`, 200, "application/json", `{}`},
	{`^POST /submit/`, 200, "text/plain", `OK`},
	{`^(GET|POST) /matomo/matomo.php$`, 204, "", ``},
	{`^POST /mixpanel/`, 200, "application/json", `{"error":null,"status":1}`},
	{`^GET /mixpanel/flags`, 200, "application/json", `{"flags":{"exp":{"variant_key":"test","variant_value":"test"}}}`},
	{`^POST /plausible/api/event$`, 202, "text/plain", `ok`},
	{`^POST /ph/flags/?$`, 200, "application/json", `{"flags":{"exp":{"key":"exp","enabled":true,"variant":"test","reason":{"code":"condition_match"},"metadata":{"id":1,"version":1}}},"errorsWhileComputingFlags":false,"requestId":"1"}`},
	{`^POST /ph/`, 200, "application/json", `{"status":"Ok"}`},
	{`^GET /ph/array/.*/config$`, 200, "application/json", `{"token":"phc_key","supportedCompression":["gzip","gzip-js"],"hasFeatureFlags":true,"siteApps":[]}`},
	{`^GET /ph/array/.*/config.js$`, 200, "text/javascript", `window._POSTHOG_REMOTE_CONFIG={"phc_key":{"config":{"token":"phc_key","supportedCompression":["gzip","gzip-js"],"hasFeatureFlags":true},"siteApps":[]}};`},
	{`^GET /ph/api/web_experiments`, 200, "application/json", `{"experiments":[]}`},
	{`^GET /ph/api/surveys`, 200, "application/json", `{"surveys":[]}`},
	{`^POST /rudder/`, 200, "text/plain", `OK`},
	{`^GET /rudder/sourceConfig`, 200, "application/json", `{"source":{"id":"1","name":"test","writeKey":"key","enabled":true,"workspaceId":"1","config":{},"destinations":[]}}`},
	{`^GET /segment/v1/projects/key/settings$`, 200, "application/json", `{"integrations":{"Segment.io":{"apiKey":"key","unbundledIntegrations":[]}},"plan":{"track":{"__default":{"enabled":true}}}}`},
	{`^POST /segment/v1/`, 200, "application/json", `{"success":true}`},
	{`^POST /tunnel$`, 200, "application/json", `{"id":"fc6d8c0c43fc4630ad850ee518f1b9d0"}`},
	{`^POST /snowplow/com.snowplowanalytics.snowplow/tp2$`, 200, "text/plain", `ok`},
	{`^POST /vitals$`, 200, "text/plain", `ok`},
}
