package stub

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Handler is one of the servers: upstream, profile or decide. decide asks the
// profile server at the address.
func Handler(role, profile string) http.Handler {
	switch role {
	case "upstream":
		return upstream()
	case "profile":
		return profileServer()
	}
	return newDecisions(profile)
}

// page is a sign-in page of about 8 KB.
var page = "<!doctype html><html lang=en><head><meta charset=utf-8><title>Sign in</title></head><body>" +
	strings.Repeat("<p>lorem ipsum dolor sit amet, consectetur adipiscing elit</p>\n", 128) + "</body></html>"

// settings is a page of about 30 KB, which has its configuration in a <meta>.
var settings = "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=\"fxa-config\" content=\"" + url.QueryEscape(configuration) +
	"\"><title>Settings</title></head><body>" + strings.Repeat("<p>lorem ipsum dolor sit amet, consectetur adipiscing elit</p>\n", 430) + "</body></html>"

const configuration = `{"env":"production","version":"1.300.0","marketingEmailEnabled":true,"glean":{"enabled":true,"applicationId":"accounts_frontend",` +
	`"uploadEnabled":true,"channel":"production","serverEndpoint":"https://incoming.example.org","logPings":false,"debugViewTag":""},` +
	`"sentry":{"dsn":"https://key@sentry.example.org/1","env":"production","sampleRate":1,"serverName":"fxa-content-server","clientName":"fxa-content-client"},` +
	`"servers":{"auth":{"url":"https://auth.example.org"},"oauth":{"url":"https://oauth.example.org"},"profile":{"url":"https://profile.example.org"},` +
	`"gql":{"url":"https://graphql.example.org"},"paymentsNext":{"url":"https://payments.example.org"}},"oauth":{"clientId":"98e6508e88680e1a","scopes":"profile"},` +
	`"recoveryCodes":{"count":8,"length":10},"googleAuthConfig":{"enabled":true},"appleAuthConfig":{"enabled":true},"featureFlags":{"keyStretchV2":true,"recoveryPhone":true}}`

// delay is a time that a server takes. POST /delay/5 has it take so many ms.
type delay struct{ atomic.Int64 }

func (d *delay) wait() {
	if d := d.Load(); d > 0 {
		<-time.After(time.Duration(d))
	}
}

func (d *delay) on(mux *http.ServeMux) {
	mux.HandleFunc("POST /delay/{ms}", func(_ http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.PathValue("ms"))
		d.Store(int64(ms) * int64(time.Millisecond))
	})
}

// upstream is the application. GET /count says how many beacons it got.
func upstream() http.Handler {
	mux := http.NewServeMux()
	var (
		beacons atomic.Int64
		takes   delay
	)
	takes.on(mux)
	reply := func(kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/metrics") {
				beacons.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				takes.wait()
			}
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		}
	}
	mux.HandleFunc("/metrics", reply("application/json", Answer))
	mux.HandleFunc("/metrics-errors", reply("application/json", Answer))
	mux.HandleFunc("/signin", reply("text/html; charset=utf-8", page))
	mux.HandleFunc("/settings", reply("text/html; charset=utf-8", settings))
	mux.HandleFunc("/app.js", reply("application/javascript", strings.Repeat("lorem(ipsum);\n", 73)))
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, beacons.Load()) })
	return mux
}

// profileServer answers for the account that a header names, or else for the
// subject of the bearer token, which it does not verify: that is not what is
// measured. GET /count says how often it was asked.
func profileServer() http.Handler {
	mux := http.NewServeMux()
	var (
		lookups atomic.Int64
		takes   delay
	)
	takes.on(mux)
	mux.HandleFunc("GET /v1/metrics_optout", func(w http.ResponseWriter, r *http.Request) {
		lookups.Add(1)
		takes.wait()
		preference := Preference(subject(r))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"`+preference+`"`)
		fmt.Fprintf(w, `{"metrics_optout":%s}`, preference)
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, lookups.Load()) })
	return mux
}

func subject(r *http.Request) string {
	if uid := r.Header.Get("X-User-Id"); uid != "" {
		return uid
	}
	parts := strings.Split(r.Header.Get("Authorization"), ".")
	if len(parts) != 3 {
		return ""
	}
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Sub string `json:"sub"`
	}
	_ = json.Unmarshal(raw, &claims)
	return claims.Sub
}
