package caddymodule

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/gate"
)

// TestLayout: which hosts and ports gates are there for, on which ports the configuration
// listens, and where its profile servers are asked, as far as that is certain.
func TestLayout(t *testing.T) {
	t.Parallel()
	const gated, server = "metrics_gate {\nlabel app\nroute POST /beacon\n}\n", "respond profile_server\n"
	for _, c := range []struct {
		name, caddyfile string
		gated           map[string]standing
		ports, profiles []string
	}{
		{"two sites", "http://b.example, http://a.example {\n" + gated + "}\nhttp://c.example {\n" + gated + "}\nhttp://d.example:8090 {\n" + server + "}",
			map[string]standing{"app": {[]string{"a.example", "b.example", "c.example"}, []string{"80"}}}, []string{"80", "8090"}, []string{"http://d.example:8090/v1"}},
		{"a handle for one host of many", "http://*.example {\n@b host b.example\nhandle @b {\n" + gated + "}\nhandle {\n" + server + "}\n}",
			map[string]standing{"app": {[]string{"b.example"}, []string{"80"}}}, []string{"80"}, nil},
		{"any host", "http://:8080 {\n" + gated + "}\nhttp://:8090 {\n" + server + "}", map[string]standing{"app": {nil, []string{"8080"}}}, []string{"8080", "8090"}, []string{"http://localhost:8090/v1"}},
		{"a host, and any", "http://a.example {\n" + gated + "}\nhttp://:8080 {\n" + gated + "}", map[string]standing{"app": {nil, []string{"80", "8080"}}}, []string{"80", "8080"}, nil},
		{"a host out of the environment", "http://{env.HOST} {\n" + gated + "}", map[string]standing{"app": {nil, []string{"80"}}}, []string{"80"}, nil},
		{"a matcher of something else", "http://a.example {\n@x header X-A b\nhandle @x {\n" + gated + "}\n}", map[string]standing{"app": {[]string{"a.example"}, []string{"80"}}}, []string{"80"}, nil},
		{"bound to one address", "http://:8090 {\nbind 127.0.0.1\n" + gated + server + "}", map[string]standing{"app": {nil, []string{"8090"}}}, []string{"8090"}, []string{"http://127.0.0.1:8090/v1"}},
		{"the usual port", "http://d.example {\n" + gated + server + "}", map[string]standing{"app": {[]string{"d.example"}, []string{"80"}}}, []string{"80"}, []string{"http://d.example/v1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(c.caddyfile), nil)
			if err != nil {
				t.Fatal(err)
			}
			sites, err := SitesOf(bytes.ReplaceAll(adapted, []byte(`"body":"profile_server","handler":"static_response"`), []byte(`"handler":"profile_server"`)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.gated, sites.gated(), cmp.AllowUnexported(standing{})); diff != "" {
				t.Errorf("gates (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(c.ports, sites.ports()); diff != "" {
				t.Errorf("ports (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(c.profiles, sites.profileServers()); diff != "" {
				t.Errorf("profile servers (-want +got)\n%s", diff)
			}
			for host, want := range map[string]string{"d.example": "https://d.example:8443/v1", "": "", "*.example": ""} {
				site := sites.servers[0]
				site.tls, site.ports[0].StartPort = true, 8443
				if got := site.address(host); got != want {
					t.Errorf("with TLS %q is asked at %q, want %q", host, got, want)
				}
			}
		})
	}
}

// TestPortsThatCannotBeTold: where one cannot, none is named, since it may be any.
func TestPortsThatCannotBeTold(t *testing.T) {
	t.Parallel()
	for listens, want := range map[string][]string{":80 :81": {"80", "81"}, ":80 unix//run/site": nil, ":0": nil, ":80-82": nil, "": nil} {
		var s site
		for address := range strings.FieldsSeq(listens) {
			parsed, err := caddy.ParseNetworkAddress(address)
			if err != nil {
				t.Fatal(err)
			}
			s.ports = append(s.ports, parsed)
		}
		if got := s.numbers(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", listens, got, want)
		}
		if s.elsewhere = true; len(s.numbers()) > 0 {
			t.Errorf("%q and one that cannot be read: %q", listens, s.numbers())
		}
	}
}

// TestSilenceIsExplained: that nothing comes by a route is no second fault where it is
// known that nothing can.
func TestSilenceIsExplained(t *testing.T) {
	t.Parallel()
	l := &layout{unreachable: []Unreachable{{Gate: "app", Requests: []string{"POST /a", "GET /a", "POST /b"}}}}
	for _, c := range []struct {
		label  string
		routes []gate.Route
		want   bool
	}{
		{"app", []gate.Route{{Methods: []string{"GET", "POST"}, Path: "/a"}}, true},
		{"app", []gate.Route{{Methods: []string{"POST"}, Path: "/a"}, {Methods: []string{"POST"}, Path: "/b"}}, true},
		{"app", []gate.Route{{Methods: []string{"GET", "POST"}, Path: "/b"}}, false},
		{"app", []gate.Route{{Methods: []string{"POST"}, Path: "/b"}, {Methods: []string{"POST"}, Path: "/c"}}, false},
		{"other", []gate.Route{{Methods: []string{"POST"}, Path: "/a"}}, false},
	} {
		if got := l.explains(c.label, c.routes); got != c.want {
			t.Errorf("%s %v: %t", c.label, c.routes, got)
		}
	}
	module := newGate(t, "metrics_gate {\npreset fxa\nroute POST /a\nroute GET /keep essential\nroute POST /b\n}")
	if own, preset := module.silent(1), module.silent(2); len(own) != 1 || own[0].Path != "/b" || len(preset) < 2 || preset[0].Path != module.gate.Routes()[2].Path {
		t.Errorf("%v and %v", own, preset)
	}
}
