package tests

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A planted fault is one in a gate that runs, by a clock that can be set.
type planted struct {
	*testcaddy.Server
	t       *testing.T
	clock   *testcaddy.Clock
	behind  *contentServer
	addr    string
	profile string // the address of the profile server

	tokens  string                               // the session block
	site    func(gate, proxy string) []string    // the directives
	request string                               // what pages send
	account func() (uid string)                  // of whoever sends it
	session func(uid string) (credential string) // what the issuer issues
	cookie  string                               // that carries it
	happens func()                               // what shows the fault; a request, unless it is something else
}

func newPlanted(t *testing.T, profile, account string) *planted {
	p := &planted{
		t: t, clock: testcaddy.NewClock(t), behind: newContentServer(t), addr: testcaddy.FreeAddr(t), profile: profile,
		tokens: testcaddy.SessionJWT(), request: "POST /beacon", cookie: testcaddy.SessionCookie,
		account: func() string { return account }, session: func(uid string) string { return testcaddy.Session(uid) },
	}
	p.site = func(gate, proxy string) []string { return []string{"metrics_gate_tripwire", gate, proxy} }
	p.happens = p.send
	return p
}

func (p *planted) start() {
	p.t.Helper()
	gate := testcaddy.Gate("route POST /beacon", p.tokens, profileAt(p.profile))
	p.Server = p.clock.Start(testcaddy.Site(p.addr, p.site(gate, testcaddy.ProxyTo(p.behind.addr()))...))
}

func (p *planted) send() {
	p.t.Helper()
	_ = send(p.t, p.behind, p.addr, p.request, "{}", p.header(p.account()))
}

func (p *planted) header(uid string) string { return "Cookie: " + p.cookie + "=" + p.session(uid) }

// asks runs a command as an operator does, with what the site's pages send now.
func (p *planted) asks(command, optedOut, allowed string) (text string, code int) {
	p.t.Helper()
	var args []string
	switch command {
	case "validate":
		stdout, stderr, code := testcaddy.Command(p.t, command, "--config", filepath.Join(p.Dir, "Caddyfile"), "--adapter", "caddyfile")
		return stdout + stderr, code
	case "check":
		args = []string{"http://" + p.addr, "--route", p.request, "--cookie", p.cookie, "--optout-token", p.session(optedOut), "--allow-token", p.session(allowed)}
	case "trace":
		method, path, _ := strings.Cut(p.request, " ")
		args = []string{"http://" + p.addr + path, "-X", method, "--data", "{}", "-H", p.header(p.account())}
	}
	stdout, stderr, code := p.Ask(command, args...)
	return stdout + stderr, code
}

// TestPlanted plants every fault of the table in docs/operate.md, and holds what the
// table says against what the real binary does: the line in the log and how long it
// takes, the counter, the alert that looks at it, and the commands.
func TestPlanted(t *testing.T) {
	t.Parallel()
	profile := testcaddy.FreeAddr(t)
	store := func() string { return profileServer("sqlite " + filepath.Join(t.TempDir(), "profile.db")) }
	testcaddy.Start(t, testcaddy.Site(profile, store()))
	ready(t, profile)
	out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, profile, out, optOut)
	choose(t, profile, in, allow)

	claims := func(claims map[string]any) func(p *planted) {
		return func(p *planted) {
			p.session = func(uid string) string { return testcaddy.Session(uid, claims) }
		}
	}
	off := func(by time.Duration) func(p *planted) { return func(p *planted) { p.clock.Forward(by) } }
	// The faults, by the first column. Some are there from the start, and others begin
	// while all is well.
	atStart, later := map[string]func(p *planted){}, map[string]func(p *planted){}
	later["the session cookie has a new name"] = func(p *planted) { p.cookie = "sid" }
	later["the issuer signs with a new key"] = func(p *planted) {
		p.session = func(uid string) string {
			return testcaddy.Sign(jwt.SigningMethodHS256, []byte(testcaddy.SecondSecret), nil, testcaddy.Claims(uid))
		}
	}
	atStart["the key set is an old one"] = func(p *planted) {
		file := filepath.Join(t.TempDir(), "jwks.json")
		if err := os.WriteFile(file, []byte(jwks("old")), 0o600); err != nil {
			t.Fatal(err)
		}
		p.tokens = "session jwt {\ncookie session\njwks " + file + "\nissuer " + testcaddy.SessionIssuer + "\naudience web\n}"
		p.session = func(uid string) string {
			return testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, map[string]any{"kid": "new"}, testcaddy.Claims(uid))
		}
	}
	later["the issuer has a new name"] = claims(map[string]any{"iss": "https://other.test"})
	atStart["this machine's clock is two hours behind, and tokens say from when they hold"] = func(p *planted) {
		off(-2 * time.Hour)(p)
		claims(map[string]any{"nbf": time.Now().Unix()})(p)
	}
	atStart["this machine's clock is two hours behind, and they do not"] = off(-2 * time.Hour)
	atStart["this machine's clock is two hours ahead"] = off(2 * time.Hour)
	later["the application does not renew its sessions"] = claims(testcaddy.Expired)
	atStart["a more specific `handle` has no gate"] = func(p *planted) {
		p.site = func(gate, proxy string) []string {
			return []string{"metrics_gate_tripwire", "handle /beacon {", proxy, "}", "handle {", gate, proxy, "}"}
		}
	}
	atStart["the gate stands behind `reverse_proxy`"] = func(p *planted) {
		p.site = func(gate, proxy string) []string {
			return []string{"metrics_gate_tripwire", "route {", proxy, gate, "}"}
		}
	}
	atStart["a rewrite makes it a beacon behind the gate"] = func(p *planted) {
		p.request = "POST /in/beacon"
		p.site = func(gate, proxy string) []string {
			return []string{"metrics_gate_tripwire", gate, "handle_path /in/* {", proxy, "}", proxy}
		}
	}
	atStart["such a `handle` without `metrics_gate_tripwire`, and pages pass the gate"] = func(p *planted) {
		p.site = func(gate, proxy string) []string {
			return []string{"handle /beacon {", proxy, "}", "handle {", gate, proxy, "}"}
		}
		p.happens = func() {
			p.send()
			_ = send(p.t, p.behind, p.addr, "GET /signin", "", "Accept: text/html")
		}
	}
	atStart["such a rewrite without it, and nothing passes the gate"] = func(p *planted) {
		p.request = "POST /in/beacon"
		p.site = func(gate, proxy string) []string { return []string{gate, "handle_path /in/* {", proxy, "}", proxy} }
	}
	atStart["shadow mode was forgotten"] = func(p *planted) {
		p.site = func(gate, proxy string) []string {
			return []string{strings.Replace(gate, "metrics_gate {", "metrics_gate shadow {", 1), proxy}
		}
	}
	later["the profile server is down"] = func(p *planted) {
		p.profile = testcaddy.FreeAddr(t)
		if err := p.Reload(testcaddy.Site(p.addr, testcaddy.Gate("route POST /beacon", p.tokens, profileAt(p.profile)), testcaddy.ProxyTo(p.behind.addr()))); err != nil {
			t.Fatal(err)
		}
		p.account = func() string { return testcaddy.NewUID(t) }
	}
	atStart["the change feed is deaf"] = func(p *planted) {
		server := testcaddy.FreeAddr(t)
		p.clock.Start(testcaddy.Site(server, store()))
		ready(t, server)
		deaf := new(atomic.Bool)
		p.profile = withoutEvents(p.t, server, deaf)
		p.happens = func() {
			if !deaf.Load() {
				follows(p.t, p.Server, server)
				deaf.Store(true)
			}
			choose(p.t, server, testcaddy.NewUID(p.t), optOut)
		}
	}

	rows := plantedRows(t)
	for _, row := range rows {
		for _, after := range row.after {
			t.Run(row.fault+", "+after, func(t *testing.T) {
				t.Parallel()
				p := newPlanted(t, profile, out)
				plant := atStart[row.fault]
				if plant != nil {
					plant(p)
				}
				p.start()
				if plant == nil {
					plant = later[row.fault]
					for range 150 {
						p.send()
					}
					p.clock.Forward(10 * time.Minute)
					plant(p)
				}
				before := row.counted(p)
				shown := func() bool { return len(p.Log.Where(row.inLog)) > 0 }
				happens := func(times int) {
					for range times {
						p.happens()
					}
				}
				number, unit, _ := strings.Cut(after, " ")
				n, _ := strconv.Atoi(number)
				switch unit {
				case "min":
					half := time.Duration(n) * time.Minute / 2
					happens(150)
					p.clock.Forward(half)
					happens(1)
					if shown() {
						t.Errorf("it is in the log within half the time")
					}
					p.clock.Forward(half)
				case "s":
					happens(1)
					p.clock.Forward(time.Duration(n) * time.Second)
				case "requests":
					happens(n - 1)
				}
				happens(1)

				if len(row.log) > 0 {
					testcaddy.Until(t, "a line in the log: "+strings.Join(row.log, " "), shown)
				} else if troubled := p.Log.Where(func(line string) bool {
					return strings.Contains(line, `"logger":"http.handlers.metrics_gate`) && !strings.Contains(line, `"level":"info"`)
				}); len(troubled) > 0 {
					t.Errorf("the log has a line, and the table says that it has none: %s", troubled[0])
				}
				for i, m := range row.metrics {
					testcaddy.Until(t, m.name+" to count it", func() bool { return row.counted(p)[i] > before[i] })
				}
				for _, command := range slices.Sorted(maps.Keys(row.asked)) {
					want := row.asked[command]
					text, code := p.asks(command, out, in)
					if code != want.exit {
						t.Errorf("%s exits %d, want %d\n%s", command, code, want.exit, text)
					}
					for _, words := range want.says {
						if !strings.Contains(text, words) {
							t.Errorf("%s does not say %q\n%s", command, words, text)
						}
					}
					if strings.Contains(text, "cannot come to it") && strings.Contains(text, "pages come, and not one request") {
						t.Errorf("%s says one fault twice\n%s", command, text)
					}
					for _, needle := range []string{out, in, "eyJ"} {
						if strings.Contains(text, needle) {
							t.Errorf("%s prints %q\n%s", command, needle, text)
						}
					}
				}
			})
		}
		if atStart[row.fault] == nil && later[row.fault] == nil {
			t.Errorf("docs/operate.md has a fault that nobody plants: %s", row.fault)
		}
	}
	if len(rows) != len(atStart)+len(later) {
		t.Errorf("docs/operate.md has %d faults, and %d can be planted", len(rows), len(atStart)+len(later))
	}
}

// A check that sends the cookie which the gate looks for, while pages send another,
// shows nothing of what pages send. It says so, also when it has come again and again,
// and when minutes have passed.
func TestCheckOfARenamedCookie(t *testing.T) {
	t.Parallel()
	profile := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(profile, profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db"))))
	ready(t, profile)
	out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, profile, out, optOut)
	choose(t, profile, in, allow)
	p := newPlanted(t, profile, out)
	p.start()
	if text, code := p.asks("check", out, in); code != 0 {
		t.Fatalf("of a gate that is well: exit %d\n%s", code, text)
	}
	for range 2 {
		p.cookie = "sid"
		for range 1000 {
			p.send()
		}
		p.cookie = testcaddy.SessionCookie
		text, code := p.asks("check", out, in)
		if code != 3 || !strings.Contains(text, "WRONG  gate default: no account is recognised in any gated request") ||
			!strings.Contains(text, "INCONCLUSIVE: it was decided by the account's preference, which is true. What your pages send may be decided otherwise") {
			t.Errorf("exit %d\n%s", code, text)
		}
		p.clock.Forward(10 * time.Minute)
	}
}

// A plantedRow is one of the table in docs/operate.md.
type plantedRow struct {
	fault   string
	log     []string // words of one line
	after   []string // "at once", "15 s", "10 min", "1000 requests"
	metrics []plantedMetric
	asked   map[string]asked // by command
}

type plantedMetric struct {
	name   string // without what all have in common
	labels []string
}

type asked struct {
	exit int
	says []string
}

func (r *plantedRow) inLog(line string) bool {
	return !slices.ContainsFunc(r.log, func(words string) bool { return !strings.Contains(line, words) })
}

func (r *plantedRow) counted(p *planted) (all []float64) {
	for _, m := range r.metrics {
		all = append(all, p.Metric(m.name, m.labels...))
	}
	return all
}

// plantedRows reads the table, and holds its alerts against the rules.
func plantedRows(t *testing.T) (rows []plantedRow) {
	t.Helper()
	_, table, _ := strings.Cut(string(testcaddy.Must(os.ReadFile("../docs/operate.md"))), "\n| what is wrong |")
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`([^`]+)`")
	metric := regexp.MustCompile("`…_([a-z_]+)(?:\\{([^}]+)\\})?`")
	label := regexp.MustCompile(`(\w+)="([^"]+)"`)
	alert := regexp.MustCompile(`\[(\w+)\]\(#(\w+)\)`)
	command := regexp.MustCompile("`(status|check|trace|validate)` ([0-9]):((?:,? `[^`]+`)+)")
	words := func(cell string) (all []string) {
		for _, match := range code.FindAllStringSubmatch(cell, -1) {
			all = append(all, match[1])
		}
		return all
	}
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 6 {
			t.Fatalf("a row of %d cells: %s", len(cells), line)
		}
		row := plantedRow{fault: strings.TrimSpace(cells[0]), log: words(cells[1]), asked: map[string]asked{}}
		for after := range strings.SplitSeq(cells[2], ", or ") {
			row.after = append(row.after, strings.ReplaceAll(after, ",", ""))
		}
		for _, found := range metric.FindAllStringSubmatch(cells[3], -1) {
			m := plantedMetric{name: found[1]}
			for _, match := range label.FindAllStringSubmatch(found[2], -1) {
				m.labels = append(m.labels, match[1], match[2])
			}
			row.metrics = append(row.metrics, m)
		}
		for _, match := range alert.FindAllStringSubmatch(cells[3], -1) {
			if !slices.ContainsFunc(prometheusRules(t), func(rule prometheusRule) bool {
				return rule.Alert == match[1] && slices.ContainsFunc(row.metrics, func(m plantedMetric) bool { return strings.Contains(rule.Expr, m.name) })
			}) {
				t.Errorf("%s: the alert %s looks at none of its metrics", row.fault, match[1])
			}
		}
		for _, match := range command.FindAllStringSubmatch(cells[4], -1) {
			row.asked[match[1]] = asked{testcaddy.Must(strconv.Atoi(match[2])), words(match[3])}
		}
		if len(row.asked) == 0 {
			t.Errorf("%s: no command shows it", row.fault)
		}
		rows = append(rows, row)
	}
	return rows
}

// withoutEvents is the address of a proxy in front of a profile server that, while it
// is deaf, takes all events out of the change feed and leaves the heartbeats in.
func withoutEvents(t *testing.T, server string, deaf *atomic.Bool) (addr string) {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(response *http.Response) error {
		if response.Request.URL.Path == "/v1/changes" {
			response.Body = struct {
				io.Reader
				io.Closer
			}{&heartbeats{bufio.NewReader(response.Body), deaf}, response.Body}
		}
		return nil
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

type heartbeats struct {
	*bufio.Reader
	deaf *atomic.Bool
}

func (h *heartbeats) Read(p []byte) (int, error) {
	for {
		line, err := h.ReadBytes('\n')
		if err != nil || !h.deaf.Load() || line[0] == ':' || len(line) == 1 {
			return copy(p, line), err
		}
	}
}
