package caddymodule_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/metricsgate/metricsgate/caddymodule"
)

// sitesOf reads a Caddyfile. What it says of secrets need not be there.
func sitesOf(t *testing.T, caddyfile string) (*caddymodule.Sites, error) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatal(err)
	}
	return caddymodule.SitesOf(adapted)
}

// TestSites: what is said to be gated is what a gate surely sees.
func TestSites(t *testing.T) {
	t.Parallel()
	const gate = "metrics_gate {\npreset fxa\nroute GET /pixel\n}\n"
	const gated, unseen, passes = "gated", "unseen", "passes"
	for _, c := range []struct {
		name, caddyfile string
		want            map[string]string // by host:port, method and path
	}{
		{"a site", "a.example {\n" + gate + "reverse_proxy :1\n}\nb.example {\nreverse_proxy :2\n}", map[string]string{
			"a.example:443 POST /metrics":   gated,
			"A.Example: POST /Metrics/":     gated,
			"a.example:443 GET /metrics":    passes,
			"a.example:443 POST /login":     passes,
			"a.example:443 POST //metrics":  gated,
			"b.example:443 POST /metrics":   unseen,
			"c.example:443 POST /metrics":   unseen,
			": POST /metrics":               gated,  // of the only site that has a gate
			"a.example:9999 POST /metrics":  gated,  // something stands in front of it
			"a.example:443 HEAD /pixel":     gated,  // GET includes it
			"a.example:443 OPTIONS /pixel":  passes, // never gated
			"a.example:443 POST /metrics%2": passes, // no path
		}},
		{"ports", "http://localhost:8080 {\n" + gate + "reverse_proxy :1\n}\nhttp://localhost:8081 {\nreverse_proxy :2\n}", map[string]string{
			"localhost:8080 POST /metrics": gated,
			"localhost:8081 POST /metrics": unseen,
			"localhost: POST /metrics":     gated,
		}},
		{"a matcher", "a.example {\n@beacons path /metrics\nmetrics_gate @beacons {\npreset fxa\n}\nreverse_proxy :1\n}", map[string]string{
			"a.example: POST /metrics":           gated,
			"a.example: POST /navigation-timing": unseen,
		}},
		{"a matcher of who asks", "a.example {\n@near remote_ip 10.0.0.0/8\nmetrics_gate @near {\npreset fxa\n}\nreverse_proxy :1\n}", map[string]string{
			"a.example: POST /metrics": unseen,
		}},
		{"handles", "a.example {\nhandle /api/* {\nreverse_proxy :1\n}\nhandle {\n" + gate + "reverse_proxy :2\n}\n}", map[string]string{
			"a.example: POST /metrics":     gated,
			"a.example: POST /api/metrics": passes,
		}},
		{"another handle", "a.example {\nhandle /metrics* {\nreverse_proxy :1\n}\nhandle {\n" + gate + "reverse_proxy :2\n}\n}", map[string]string{
			"a.example: POST /metrics":           unseen,
			"a.example: POST /navigation-timing": gated,
		}},
		{"a prefix that is stripped", "a.example {\nhandle_path /fxa/* {\n" + gate + "reverse_proxy :1\n}\nhandle {\nreverse_proxy :2\n}\n}", map[string]string{
			"a.example: POST /fxa/metrics": gated,
			"a.example: POST /metrics":     unseen,
		}},
		{"behind the proxy", "a.example {\nroute {\nreverse_proxy :1\n" + gate + "}\n}", map[string]string{
			"a.example: POST /metrics": unseen,
		}},
		{"behind forward_auth", "a.example {\nroute {\nforward_auth :9 {\nuri /x\n}\n" + gate + "reverse_proxy :1\n}\n}", map[string]string{
			"a.example: POST /metrics": gated,
		}},
		{"named routes", "&(gated) {\n" + gate + "reverse_proxy :1\n}\na.example {\ninvoke gated\n}", map[string]string{
			"a.example: POST /metrics": gated,
		}},
		{"two sites with gates", "a.example {\n" + gate + "reverse_proxy :1\n}\nb.example {\nmetrics_gate {\nroute POST /b\n}\nreverse_proxy :2\n}", map[string]string{
			": POST /metrics":          unseen, // nobody knows whether it is of a.example
			"b.example: POST /b":       gated,
			"b.example: POST /metrics": unseen,
		}},
		{"any host", ":8080 {\n" + gate + "reverse_proxy :1\n}", map[string]string{
			"whatever:8080 POST /metrics": gated,
			": POST /metrics":             gated,
		}},
		{"secrets elsewhere", "a.example {\nmetrics_gate {\npreset fxa\nsession jwt {\ncookie s\nsecret {file./nowhere/secret}\nissuer i\naudience a\n}\nprofile https://p.example/{uid} {\nauth bearer {env.NOT_THERE}\n}\n}\nreverse_proxy :1\n}", map[string]string{
			"a.example: POST /metrics": gated,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sites, err := sitesOf(t, c.caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			for request, want := range c.want {
				words := strings.Fields(request)
				host, port, _ := strings.Cut(words[0], ":")
				u, err := url.ParseRequestURI(words[2])
				if err != nil {
					u = &url.URL{Path: words[2]}
				}
				got := passes
				if route, sure := sites.Gates(host, port, words[1], u); sure {
					got = gated
				} else if route != "" {
					got = unseen
				}
				if got != want {
					t.Errorf("%s is %s, want %s", request, got, want)
				}
			}
		})
	}
}

func TestSitesServe(t *testing.T) {
	t.Parallel()
	sites, err := sitesOf(t, "a.example, *.b.example {\nmetrics_gate {\npreset fxa\n}\n}\nhttp://localhost:8080 {\n}")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"a.example:443": true, "A.EXAMPLE:": true, "x.b.example:443": true, "localhost:8080": true,
		"localhost:443": false, "b.example:443": false, "c.example:443": false,
	} {
		name, port, _ := strings.Cut(host, ":")
		if got := sites.Serves(name, port); got != want {
			t.Errorf("%s: %t, want %t", host, got, want)
		}
	}
}

// An access log may have the brackets of an IPv6 address.
func TestSitesOfAnAddress(t *testing.T) {
	t.Parallel()
	sites, err := sitesOf(t, "http://[::1]:8080 {\nmetrics_gate {\npreset fxa\n}\n}")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"::1", "[::1]"} {
		_, sure := sites.Gates(host, "8080", "POST", &url.URL{Path: "/metrics"})
		if serves := sites.Serves(host, "8080"); !serves || !sure {
			t.Errorf("%s: served %t, gated %t", host, serves, sure)
		}
	}
}

func TestSitesThatAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := sitesOf(t, ":80 {\nrespond ok\n}"); err == nil || !strings.Contains(err.Error(), "has no metrics_gate") {
		t.Errorf("no gate: error %v", err)
	}
	for config, want := range map[string]string{
		`{`: "reading the configuration",
		`{"apps":{"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"metrics_gate","presets":[{"name":"fxb"}]}]}]}}}}}`:                                             `there is no preset "fxb"`,
		`{"apps":{"http":{"servers":{"s":{"named_routes":{"a":{"handle":[{"handler":"invoke","name":"a"}]}},"routes":[{"handle":[{"handler":"invoke","name":"a"}]}]}}}}}`: "without an end",
	} {
		if _, err := caddymodule.SitesOf([]byte(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", config, err, want)
		}
	}
}
