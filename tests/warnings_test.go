package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Counters tell whoever names an account whether it opted out, so caddy validate
// warns where both are open to others than this machine, wherever the handler
// stands and whichever site comes first.
func TestPublicMetrics(t *testing.T) {
	t.Parallel()
	const profile = "profile https://profile.example.org/v1 {\nauth mint {\nkey 0123456789abcdef0123456789abcdef\n}\n}"
	named := testcaddy.Gate("preset fxa", profile)
	alone := testcaddy.Gate("route POST /beacon", "signal {\ngpc\n}")
	for name, test := range map[string]struct {
		sites  string
		warned bool
	}{
		"the same site":           {"http://a.test {\nmetrics /counters\n" + named + "\n}", true},
		"an earlier one":          {"http://a.test {\nmetrics\n}\nhttp://b.test {\n" + named + "\n}", true},
		"a later one":             {"http://a.test {\n" + named + "\n}\nhttp://b.test {\nmetrics\n}", true},
		"another port":            {"http://a.test {\n" + named + "\n}\nhttp://a.test:9180 {\nmetrics\n}", true},
		"deep inside":             {"http://a.test {\n" + named + "\nhandle /x {\nroute {\nhandle_path /y {\nmetrics\n}\n}\n}\n}", true},
		"deep inside, before":     {"http://a.test {\nhandle /x {\nroute {\nmetrics\n}\n}\n}\nhttp://b.test {\n" + named + "\n}", true},
		"for this machine only":   {"http://a.test {\n" + named + "\n}\nhttp://a.test:9180 {\nbind 127.0.0.1 ::1\nmetrics\n}", false},
		"nobody is named":         {"http://a.test {\nmetrics /counters\n" + alone + "\n}", false},
		"by the admin API only":   {"http://a.test {\n" + named + "\n}", false},
		"a path of the same name": {"http://a.test {\n" + named + "\nrespond /metrics metrics\n}", false},
	} {
		file := filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte("{\nauto_https off\n}\n"+test.sites), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := testcaddy.Command(t, "validate", "--config", file, "--adapter", "caddyfile")
		if warned := strings.Contains(stderr, "serves Caddy's metrics"); code != 0 || warned != test.warned {
			t.Errorf("%s: warned %v, exit %d\n%s%s", name, warned, code, stdout, stderr)
		}
	}
}

// A gate that nothing can come to is told of when its configuration is validated,
// and when it starts; not when it is mended.
func TestGateThatNothingReaches(t *testing.T) {
	t.Parallel()
	behind, addr := newContentServer(t), testcaddy.FreeAddr(t)
	const told = "requests of this gate's routes cannot come to it"
	proxy, gate := testcaddy.ProxyTo(behind.addr()), testcaddy.Gate("label beacons", "route POST /beacon", "signal {\ngpc\n}")
	broken := testcaddy.Site(addr, "handle /beacon* {", proxy, "}", "handle {", gate, proxy, "}")

	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := testcaddy.Command(t, "validate", "--config", file, "--adapter", "caddyfile")
	for _, words := range []string{told, `"gate":"beacons"`, `"requests":["POST /beacon"]`, "takes them: path /beacon*", "none of them is blocked, not even those of people who opted out", "write metrics_gate in that one as well"} {
		if code != 0 || !strings.Contains(stderr, words) {
			t.Errorf("caddy validate does not say %s, exit %d\n%s%s", words, code, stdout, stderr)
		}
	}

	caddy := testcaddy.Start(t, broken)
	caddy.Logged(`"level":"warn"`, told, `"gate":"beacons"`, `"requests":["POST /beacon"]`, "path /beacon*")
	if a := send(t, behind, addr, "POST /beacon", "{}", "Sec-GPC: 1"); !a.collected() {
		t.Error("what was said is not so: the gate was reached")
	}
	before := len(caddy.Log.Where(func(line string) bool { return strings.Contains(line, told) }))
	if err := caddy.Reload(testcaddy.Site(addr, gate, "handle /beacon* {", proxy, "}", "handle {", proxy, "}")); err != nil {
		t.Fatal(err)
	}
	if a := send(t, behind, addr, "POST /beacon", "{}", "Sec-GPC: 1"); a.collected() {
		t.Error("the gate that was mended was not reached")
	}
	if after := len(caddy.Log.Where(func(line string) bool { return strings.Contains(line, told) })); after != before || before != 1 {
		t.Errorf("told %d times, and then %d", before, after-before)
	}
}
