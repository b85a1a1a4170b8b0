package caddymodule_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
)

const beacon = "metrics_gate {\nroute POST /beacon\n}\n"

// TestUnreachable: what cannot come to a gate is said with the reason, and nothing
// is said of a gate that anything may come to.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	site := func(lines ...string) string { return "a.example {\n" + strings.Join(lines, "\n") + "\n}\n" }
	for _, c := range []struct{ name, caddyfile, requests, why string }{
		// Its own matcher.
		{"another path", site("metrics_gate /api/* {\nroute POST /beacon\n}", "reverse_proxy :1"), "POST /beacon", "own matcher lets none of them through: path /api/*"},
		{"some of its routes", site("metrics_gate /api/* {\nroute POST /beacon\nroute GET,POST /api/b\nroute GET /c\n}", "reverse_proxy :1"), "POST /beacon, GET /c", "own matcher"},
		{"another method", site("@get method GET HEAD", "metrics_gate @get {\nroute POST,GET /beacon\n}", "reverse_proxy :1"), "POST /beacon", "own matcher lets none of them through: method GET HEAD"},
		{"nothing but its paths", site("@most not path /beacon*", "metrics_gate @most {\nroute POST /beacon\n}", "reverse_proxy :1"), "POST /beacon", "own matcher lets none of them through: not"},
		{"below another path", site("metrics_gate /t/* {\nroute POST /u/*\n}", "reverse_proxy :1"), "POST /u/*", "own matcher"},
		{"two sets", site("@two {\npath /x /y\nmethod POST\n}", "metrics_gate @two {\nroute POST /beacon\n}", "reverse_proxy :1"), "POST /beacon", "method POST, path /x /y"},
		{"a preset", site("metrics_gate /metrics {\npreset fxa\n}", "reverse_proxy :1"), "GET /metrics-errors, HEAD /metrics-errors, POST /metrics-errors, POST /navigation-timing, GET /experiments.bundle.js, POST /nimbus-experiments", "own matcher"},
		{"whoever asks, and another path", site("@x {\npath /x\nremote_ip 10.0.0.0/8\n}", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "POST /beacon", "path /x, remote_ip"},

		// What is around it.
		{"a handle", site("handle /x/* {\n"+beacon+"reverse_proxy :1\n}", "handle {\nreverse_proxy :2\n}"), "POST /beacon", "the handle that the gate stands in lets none of them in: path /x/*"},
		{"handle_path", site("handle_path /x/* {\nmetrics_gate {\nroute POST /y/beacon\n}\nreverse_proxy :1\n}"), "", ""}, // /x/y/beacon
		{"handle_path, and a matcher of what came", site("handle_path /x/* {\nmetrics_gate /z/* {\nroute POST /beacon\n}\nreverse_proxy :1\n}"), "POST /beacon", "own matcher lets none of them through: path /z/*"},
		{"a route", site("route /x/* {\n"+beacon+"reverse_proxy :1\n}", "reverse_proxy :2"), "POST /beacon", "the handle, route or site that the gate stands in"},
		{"another host", site("@b host b.example", "handle @b {\n"+beacon+"}", "handle {\nreverse_proxy :1\n}"), "", ""}, // a certificate may be for more

		// What is in front of it.
		{"behind the proxy", site("route {\nreverse_proxy :1\n" + beacon + "}"), "POST /beacon", "answered in front of the gate, by reverse_proxy"},
		{"behind the proxy of its path", site("route {\nreverse_proxy /beacon* :1\n" + beacon + "reverse_proxy :2\n}"), "POST /beacon", "by reverse_proxy (path /beacon*)"},
		{"behind files", site("route {\nfile_server\n" + beacon + "}"), "POST /beacon", "by file_server"},
		{"behind respond", site("route {\nrespond ok\n" + beacon + "}"), "POST /beacon", "by respond, redir or abort"},
		{"behind a redirect of all", site("redir https://b.example{uri}", beacon), "POST /beacon", "by respond, redir or abort"},
		{"behind error", site("route {\nerror /beacon 403\n" + beacon + "reverse_proxy :1\n}"), "POST /beacon", "by error (path /beacon)"},
		{"behind abort", site("route {\nabort /t/*\nmetrics_gate {\nroute POST /t/*\n}\nreverse_proxy :1\n}"), "POST /t/*", "path /t/*"},
		{"behind a handle in a route", site("route {\nhandle {\nreverse_proxy :1\n}\n" + beacon + "}"), "POST /beacon", "by reverse_proxy"},
		{"in a route behind a route", site("route {\nroute {\nreverse_proxy :1\n}\nroute {\n"+beacon+"}\n}", "respond no"), "POST /beacon", "by reverse_proxy"},
		{"in handle_path, behind the proxy", site("handle_path /x/* {\nroute {\nreverse_proxy :1\n" + beacon + "}\n}"), "POST /beacon", "by reverse_proxy"},
		{"a named route", "&(gated) {\nroute {\nreverse_proxy :1\n" + beacon + "}\n}\na.example {\ninvoke gated\n}", "POST /beacon", "by reverse_proxy"},
		{"some methods", site("@post method POST", "route {\nreverse_proxy @post :1\nmetrics_gate {\nroute GET,POST /beacon\n}\nreverse_proxy :1\n}"), "POST /beacon", "method POST"},

		// What comes first.
		{"a more specific handle", site("handle /beacon* {\nreverse_proxy :1\n}", "handle {\n"+beacon+"reverse_proxy :2\n}"), "POST /beacon", "a handle that comes first takes them: path /beacon*"},
		{"the very path", site("handle /beacon {\nreverse_proxy :1\n}", "handle {\n"+beacon+"reverse_proxy :2\n}"), "POST /beacon", "path /beacon"},
		{"one that goes on", site("handle /beacon* {\nheader X-A b\n}", "handle {\n"+beacon+"}", "reverse_proxy :2"), "POST /beacon", "path /beacon*"},
		{"one for all below", site("handle /t/* {\nreverse_proxy :1\n}", "handle {\nmetrics_gate {\nroute POST /t/*\nroute POST /t/a/*/b\n}\nreverse_proxy :2\n}"), "POST /t/*, POST /t/a/*/b", "path /t/*"},
		{"a preset's route", site("handle /metrics* {\nreverse_proxy :1\n}", "handle {\nmetrics_gate {\npreset fxa\n}\nreverse_proxy :2\n}"), "POST /metrics, GET /metrics-errors, HEAD /metrics-errors, POST /metrics-errors", "path /metrics*"},
		{"a site with a path", "a.example/api/* {\nreverse_proxy :1\n}\na.example {\nmetrics_gate {\nroute POST /api/b\n}\nreverse_proxy :2\n}", "POST /api/b", "a site that comes first takes them: host a.example, path /api/*"},
		{"a site without hosts", "http://:8080 {\nhandle /beacon* {\nreverse_proxy :1\n}\nhandle {\n" + beacon + "reverse_proxy :2\n}\n}", "POST /beacon", "path /beacon*"},
		{"a redirect of a site without hosts", "http://:8080 {\nredir /beacon /b\n" + beacon + "reverse_proxy :2\n}", "POST /beacon", "by respond, redir or abort (path /beacon)"},
		{"the gate of another site", "b.example {\n" + beacon + "reverse_proxy :1\n}\n" + site("route {\nreverse_proxy :1\n"+beacon+"}"), "POST /beacon", "by reverse_proxy"},

		// Nothing is certain, or nothing is wrong.
		{"a site", site(beacon, "reverse_proxy :1"), "", ""},
		{"its very path", site("metrics_gate /beacon {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"its path with a slash", site("metrics_gate /beacon/ {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"its path without a slash", site("metrics_gate /beacon {\nroute POST /beacon/\n}", "reverse_proxy :1"), "", ""},
		{"its path in another case", site("metrics_gate /Beacon {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"HEAD of GET", site("@head method HEAD", "metrics_gate @head {\nroute GET /pixel\n}", "reverse_proxy :1"), "", ""},
		{"a part of what is below", site("metrics_gate /t/v1/* {\nroute POST /t/*\n}", "reverse_proxy :1"), "", ""},
		{"an ending", site("@gif path *.gif", "metrics_gate @gif {\nroute GET /t/*\n}", "reverse_proxy :1"), "", ""},
		{"a segment", site("metrics_gate /t/*/b {\nroute GET /t/*/b\n}", "reverse_proxy :1"), "", ""},
		{"a part of what is below goes elsewhere", site("handle /t/v1/* {\nreverse_proxy :1\n}", "handle {\nmetrics_gate {\nroute POST /t/*\n}\nreverse_proxy :2\n}"), "", ""},
		{"files of what is below", site("@js path *.js", "handle @js {\nfile_server\n}", "handle {\nmetrics_gate {\nroute GET /t/*\n}\nreverse_proxy :2\n}"), "", ""},
		{"an expression", site("@x expression path('/x')", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"a regular expression", site("@x path_regexp ^/x", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"whoever asks", site("@x remote_ip 10.0.0.0/8", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"not whoever asks", site("@x not {\npath /beacon\nremote_ip 10.0.0.0/8\n}", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"a placeholder in a path", site("@beacons path {env.BEACONS}", "metrics_gate @beacons {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"a placeholder in a matcher", site("@x path /{env.X}/*", "metrics_gate @x {\nroute POST /beacon\n}", "reverse_proxy :1"), "", ""},
		{"a placeholder for a host", "http://{env.HOST} {\n" + beacon + "reverse_proxy :1\n}", "", ""},
		{"handles for other paths", site("handle /api/* {\nreverse_proxy :1\n}", "handle {\n"+beacon+"reverse_proxy :2\n}"), "", ""},
		{"handles, each with the gate", site("handle /api/* {\n"+beacon+"reverse_proxy :1\n}", "handle {\n"+beacon+"reverse_proxy :2\n}"), "", ""},
		{"handles that nest", site("handle /api/* {\nhandle /api/v1/* {\nreverse_proxy :1\n}\nhandle {\nmetrics_gate {\nroute POST /api/beacon\n}\nreverse_proxy :2\n}\n}", "handle {\nreverse_proxy :3\n}"), "", ""},
		{"handle_path", site("handle_path /x/* {\n"+beacon+"reverse_proxy :1\n}", "handle {\nreverse_proxy :2\n}"), "", ""},
		{"handle_path, as it came", site("handle_path /x/* {\nmetrics_gate {\nroute POST /x/beacon\n}\nreverse_proxy :1\n}"), "", ""},
		{"handle_path that nests", site("handle_path /x/* {\nhandle_path /y/* {\nhandle_path /z/* {\n" + beacon + "reverse_proxy :1\n}\n}\n}"), "", ""},
		{"handle_path and handle", site("handle_path /x/* {\nhandle /b* {\n" + beacon + "reverse_proxy :1\n}\n}"), "", ""},
		{"a prefix that is taken off", site("uri strip_prefix /x", beacon, "reverse_proxy :1"), "", ""},
		{"a prefix that is taken off of some", site("@x header X-A b", "route {\nuri @x strip_prefix /x\nmetrics_gate /beacon {\nroute POST /beacon\n}\nreverse_proxy :1\n}"), "", ""},
		{"behind a rewrite", site("rewrite /in /beacon", beacon, "reverse_proxy :1"), "", ""},
		{"a rewrite in front of a matcher", site("route {\nrewrite * /x{uri}\nmetrics_gate /x/* {\nroute POST /beacon\n}\nreverse_proxy :1\n}"), "", ""},
		{"another method in front of a matcher", site("@post method POST", "route {\nmethod POST\nmetrics_gate @post {\nroute GET /beacon\n}\nreverse_proxy :1\n}"), "", ""},
		{"files first", site("route {\nfile_server {\npass_thru\n}\n" + beacon + "reverse_proxy :1\n}"), "", ""},
		{"pages of an application", site("try_files {path} /index.html", beacon, "file_server"), "", ""},
		{"a proxy for another path", site("route {\nreverse_proxy /api/* :1\n" + beacon + "reverse_proxy :2\n}"), "", ""},
		{"a proxy for other methods", site("@get method GET", "route {\nreverse_proxy @get :1\n"+beacon+"reverse_proxy :2\n}"), "", ""},
		{"a proxy for whoever", site("@x header X-A b", "route {\nreverse_proxy @x :1\n"+beacon+"reverse_proxy :2\n}"), "", ""},
		{"early hints", site("route {\nrespond 103\n" + beacon + "reverse_proxy :2\n}"), "", ""},
		{"forward_auth", site("forward_auth :9 {\nuri /x\n}", beacon, "reverse_proxy :1"), "", ""},
		{"a redirect of one path", site("redir /old /new", beacon, "reverse_proxy :1"), "", ""},
		{"a redirect to www", "example.org, www.example.org {\n@bare host example.org\nredir @bare https://www.example.org{uri}\n" + beacon + "reverse_proxy :1\n}", "", ""},
		{"a maintenance page for others", site("@others not remote_ip 10.0.0.0/8", "respond @others 503", beacon, "reverse_proxy :1"), "", ""},
		{"one handle that goes on, without a group", site("route {\nroute /beacon* {\nheader X-A b\n}\n" + beacon + "reverse_proxy :1\n}"), "", ""},
		{"two gates in a row", site("route {\nmetrics_gate {\nlabel a\nroute POST /beacon\n}\nmetrics_gate {\nlabel b\nroute POST /beacon\nroute POST /b\n}\nreverse_proxy :1\n}"), "", ""},
		{"a named route", "&(gated) {\n" + beacon + "reverse_proxy :1\n}\na.example {\nhandle /x/* {\ninvoke gated\n}\nhandle {\ninvoke gated\n}\n}", "", ""},
		{"a gate of a preset in front of handles", site("metrics_gate {\npreset posthog /ingest\n}", "handle_path /ingest/* {\nreverse_proxy :1\n}", "handle {\nreverse_proxy :2\n}"), "", ""},
		{"subdomains", "*.a.example {\n@b host b.a.example\nhandle @b {\nreverse_proxy :1\n}\nhandle {\n" + beacon + "reverse_proxy :2\n}\n}", "", ""},
		{"a subdomain of its own", "b.a.example {\nreverse_proxy :1\n}\n*.a.example {\n" + beacon + "reverse_proxy :2\n}", "", ""},
		{"many prefixes", site(strings.Repeat("uri strip_prefix /x\n", 9), beacon, "reverse_proxy :1"), "", ""},
		{"many handles that strip", site(strings.Repeat("handle_path /x/* {\nreverse_proxy :1\n}\n", 12), "handle /beacon* {\nreverse_proxy :1\n}", "handle {\n"+beacon+"reverse_proxy :2\n}"), "POST /beacon", "path /beacon*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sites, err := sitesOf(t, c.caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			unreachable := sites.Unreachable()
			if diff := cmp.Diff(unreachable, toldOf(t, c.caddyfile), cmpopts.IgnoreFields(caddymodule.Unreachable{}, "Ports")); diff != "" {
				t.Errorf("(-by what is written +by caddy validate)\n%s", diff)
			}
			var requests, why []string
			for _, u := range unreachable {
				requests, why = append(requests, strings.Join(u.Requests, ", ")), append(why, u.Why)
				if u.Gate != "default" || u.Advice == "" {
					t.Errorf("%+v", u)
				}
			}
			if diff := cmp.Diff(c.requests, strings.Join(requests, "; ")); diff != "" {
				t.Errorf("requests (-want +got)\n%s", diff)
			}
			if got := strings.Join(why, "; "); !strings.Contains(got, c.why) || (got == "") != (c.why == "") {
				t.Errorf("why: %s, want %s", got, c.why)
			}
		})
	}
}

// toldOf is what caddy validate tells of a Caddyfile.
func toldOf(t *testing.T, caddyfile string) (told []caddymodule.Unreachable) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	var config caddy.Config
	if err == nil {
		err = json.Unmarshal(adapted, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "log")
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"gates": {
		BaseLog: caddy.BaseLog{WriterRaw: caddyconfig.JSONModuleObject(logging.FileWriter{Filename: file}, "output", "file", nil)},
		Include: []string{"http.handlers.metrics_gate"},
	}}}
	if err := adapttest.Validate(&config); err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		var entry struct {
			Gate, Why, Advice string
			Site, Requests    []string
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Requests != nil {
			told = append(told, caddymodule.Unreachable{Gate: entry.Gate, Hosts: entry.Site, Requests: entry.Requests, Why: entry.Why, Advice: strings.TrimPrefix(entry.Advice, "none of them is blocked, not even those of people who opted out; ")})
		}
	}
	return told
}

// TestAcceptedIsReachable: of no configuration that a golden shows anything is said.
func TestAcceptedIsReachable(t *testing.T) {
	t.Parallel()
	goldens, err := filepath.Glob("testdata/adapt/accepted_*.caddyfiletest")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, golden := range goldens {
		text, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		config, _, _ := strings.Cut(string(text), "\n----------\n")
		sites, err := sitesOf(t, config+"\n")
		if err != nil {
			t.Fatalf("%s: %v", golden, err)
		}
		for _, u := range sites.Unreachable() {
			t.Errorf("%s: %+v", golden, u)
		}
	}
}
