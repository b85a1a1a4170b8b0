package faults

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// The options of every profile. What is waited for is short, so that a server
// that hangs does not take the test's time.
const (
	maxAge  = 400 * time.Millisecond
	timeout = "80ms"
)

// The application speaks like Firefox Accounts' content server; the routes of
// the preset and of a gate of one's own are the same.
const ownRoutes = "route POST /metrics {\nanswer 200\n}\nroute GET,HEAD,POST /metrics-errors {\nanswer 200\n}\n" +
	"route GET /experiments.bundle.js experiment {\nanswer 200\n}\nroute POST /nimbus-experiments experiment {\nanswer 200\n}\n"

var sites = []site{
	{name: "strict", options: "preset fxa", names: true},
	{name: "lenient", options: "preset fxa\non_unknown collect", names: true, lenient: true},
	{name: "shown", options: ownRoutes + "reply show"},
	{name: "asking", options: "preset fxa\nhandshake\nexperiment_params forceExperiment", names: true, asking: true},
	{name: "opaque", options: "preset fxa", names: true, opaque: true},
	{name: "lenient-opaque", options: "preset fxa\non_unknown collect", names: true, opaque: true, lenient: true},
}

// stage is a part of the test with one fault.
type stage struct {
	fault  fault
	share  int // of the requests, in a hundred
	reload bool
}

var stages = []stage{
	{well, 10, false},
	{refused, 12, true},
	{hanging, 4, true},
	{well, 8, true},
	{stalled, 4, true},
	{reset, 12, true},
	{garbage, 14, true},
	{well, 8, false},
	{failing, 14, true},
	{flapping, 10, true},
	{well, 4, false},
}

// requests is how many are sent, at least: FAULTS, or what CI sends.
func requests(t *testing.T) int {
	asked := os.Getenv("FAULTS")
	if asked == "" {
		return enough
	}
	n, err := strconv.Atoi(asked)
	if err != nil || n < 1 {
		t.Fatalf("FAULTS=%s is not a number of requests; write one such as 1000000", asked)
	}
	return n
}

// matrix is the test's state.
type matrix struct {
	t         *testing.T
	addr      string
	authority *authority
	caddy     *testcaddy.Server
	writer    writer
	turnedAt  atomic.Int64
	stage     atomic.Pointer[stage]

	sent    [][]atomic.Int64    // gated ones, by site and route
	arrived [][256]atomic.Int64 // by site and kind
	kinds   [][256]atomic.Int64 // sent, by site and kind
	next    atomic.Int64        // the number of the next request
	resent  atomic.Int64
	wrong   atomic.Int64
}

// TestFaults sends combinations of sites (on_unknown, replies, names, the
// handshake), routes, credentials, names and signals, while profile server,
// feed and introspection fail in every way and the configuration is reloaded.
// Whatever happens, no beacon of somebody who opted out reaches the application,
// no page becomes an error, and the gate counts what was sent.
func TestFaults(t *testing.T) {
	m := &matrix{t: t, addr: testcaddy.FreeAddr(t), authority: newAuthority(t)}
	m.writer.turnedAt = &m.turnedAt
	m.sent, m.arrived, m.kinds = make([][]atomic.Int64, len(sites)), make([][256]atomic.Int64, len(sites)), make([][256]atomic.Int64, len(sites))
	for i := range m.sent {
		m.sent[i] = make([]atomic.Int64, len(routes))
	}
	app := application(t, m.arrives)
	m.caddy = testcaddy.Start(t, m.sites(app, 0)...)
	m.warm()

	total, generation := requests(t), 0
	for done := 0; done < total; {
		for i := range stages {
			generation++
			n := max(1, min(total, round)*stages[i].share/100)
			began := time.Now()
			m.run(&stages[i], generation, n, app)
			t.Logf("%-8s %6d requests, %v", stages[i].fault, n, time.Since(began).Round(time.Millisecond))
			done += n
		}
	}
	m.count()
}

// sites are the site blocks. Some settings of the first change with every
// generation, so that its cache and its connection to the feed begin anew.
func (m *matrix) sites(app string, generation int) (blocks []string) {
	_, port, _ := strings.Cut(m.addr, ":")
	for i := range sites {
		s := &sites[i]
		session := testcaddy.SessionJWT()
		if s.opaque {
			session = "session introspect http://" + m.authority.addr + "/v1/verify {\ncookie " + testcaddy.SessionCookie + "\ntimeout " + timeout +
				"\nmax_age " + maxAge.String() + "\nheader Authorization Bearer\n}"
		} else {
			session = strings.Replace(session, "{\n", "{\nheader Authorization Bearer\n", 1)
		}
		entries := 100_000
		if i == 0 {
			entries += generation
		}
		profile := fmt.Sprintf("profile http://%s/v1 {\nauth mint {\nkey %s\n}\ntimeout %s\nmax_age %s\nfollow %s\nmax_entries %d\n}",
			m.authority.addr, testcaddy.FromFile("gate.secret"), timeout, maxAge, map[bool]string{true: "on", false: "off"}[i%2 == 0], entries)
		blocks = append(blocks, "http://"+s.name+".test:"+port+" {\nbind 127.0.0.1\nheader X-Generation "+fmt.Sprint(generation)+"\n"+
			testcaddy.Gate("label "+s.name, s.options, "signal {\ngpc\ncookie consent C0002:0\n}", session, profile)+"\n"+
			testcaddy.ProxyTo(app)+"\n}")
	}
	return blocks
}

// arrives is told of every request that reaches the application.
func (m *matrix) arrives(request head) {
	var site, n int
	var kind kind
	if _, err := fmt.Sscanf(string(request.mark), "%d %c %d", &site, &kind, &n); err != nil {
		m.t.Errorf("%q arrived with the mark %q", request.first, request.mark)
		return
	}
	m.arrived[site][kind].Add(1)
	if kind == never {
		c := theCombination(n)
		m.complain("while the authority is %v there arrived %v", m.stage.Load().fault, &c)
	}
	if decided := string(request.decision); (kind == other) != (decided == "") || kind == told && decided != "block" {
		c := theCombination(n)
		m.complain("while the authority is %v there arrived, with the decision %q, %v", m.stage.Load().fault, decided, &c)
	}
}

// complain tells of the first few of what may be very many.
func (m *matrix) complain(format string, args ...any) {
	if m.wrong.Add(1) <= 10 {
		m.t.Errorf(format, args...)
	}
}

// warm has every account be known that opted out and is asked about where
// on_unknown collects.
func (m *matrix) warm() {
	m.stage.Store(&stages[0])
	client := &connection{addr: m.addr}
	defer client.close()
	for i := range sites {
		if !sites[i].lenient {
			continue
		}
		for n := range accounts {
			// By a name, so that it is known whatever becomes of its session.
			c := combination{site: i, route: &routes[0], name: &names[1], signal: &signals[0]}
			known := func() float64 {
				return m.caddy.Metric("requests_total", "gate", sites[i].name, "reason", "preference")
			}
			before := known()
			testcaddy.Until(m.t, "an account to be known", func() bool {
				request, _ := m.writer.write(nil, n, &c, false)
				request = bytes.Replace(request, []byte(" n "), []byte(" m "), 1) // it may arrive as long as it is not
				m.sent[i][0].Add(1)
				if _, err := client.send(request, true); err != nil {
					m.t.Fatal(err)
				}
				return known() > before
			})
		}
	}
}

// round is how many requests go through all stages at most, before they begin
// again.
const round = 200_000

// senders is how many send at a time. Most of them wait while something hangs.
const senders = 128

// run sends so many requests while something is wrong, and reloads meanwhile.
func (m *matrix) run(s *stage, generation, n int, app string) {
	m.turnedAt.Store(0)
	m.writer.generation = generation
	m.stage.Store(s)
	m.authority.set(s.fault)
	last := m.next.Load() + int64(n)
	half := last - int64(n/2)
	turn := make(chan struct{})
	var reloading atomic.Bool
	reloading.Store(s.reload)
	var sending, settled sync.WaitGroup
	settled.Add(senders)
	for range senders {
		sending.Go(func() {
			client := &connection{addr: m.addr}
			defer client.close()
			settle := sync.OnceFunc(settled.Done)
			defer settle()
			var request []byte
			for {
				closes := reloading.Load()
				if closes || !s.reload {
					settle()
				}
				i := m.next.Add(1) - 1
				if i == half {
					close(turn)
				}
				if i >= last && !closes {
					return
				}
				request = m.send(client, int(i), request, closes)
			}
		})
	}
	if s.reload {
		// Whatever is sent meanwhile is sent on a connection of its own: one that
		// is kept may be closed as the next request comes, and nobody could say
		// whether it was counted.
		settled.Wait()
		if err := m.caddy.Reload(m.sites(app, generation)...); err != nil {
			m.t.Error(err)
		}
		reloading.Store(false)
	}
	<-turn
	var uids []string
	for i := range accounts {
		uids = append(uids, account(turning, generation, i))
	}
	m.authority.turn(uids)
	m.turnedAt.Store(time.Now().UnixNano())
	sending.Wait()
}

// send sends the i-th request and looks at what comes back.
func (m *matrix) send(client *connection, i int, buffer []byte, closes bool) []byte {
	c := theCombination(i)
	request, kind := m.writer.write(buffer, i, &c, closes)
	status, err := client.send(request, c.route.request[0] != 'H')
	for tries := 0; err != nil && closes && tries < 100; tries++ {
		// The listener that is closed takes connections with it that nobody has
		// accepted; nothing of them was read.
		m.resent.Add(1)
		status, err = client.send(request, c.route.request[0] != 'H')
	}
	if err != nil || status != c.route.status {
		m.complain("while the authority is %v, %v is answered %d, %v", m.stage.Load().fault, &c, status, err)
		return request
	}
	m.kinds[c.site][kind].Add(1)
	for r := range routes {
		if &routes[r] == c.route {
			m.sent[c.site][r].Add(1)
		}
	}
	return request
}

// count waits until all has arrived, and holds what the gate has counted against
// what was sent and what came.
func (m *matrix) count() {
	t := m.t
	for i := range sites {
		s := sites[i].name
		arrived := func() float64 {
			return float64(m.arrived[i][may].Load() + m.arrived[i][must].Load() + m.arrived[i][never].Load())
		}
		collected := func() float64 { return m.caddy.Metric("requests_total", "gate", s, "decision", "collect") }
		dropped := func() float64 { return m.caddy.Metric("upstream_total", "gate", s, "class", "dropped") }
		testcaddy.Until(t, s+": everything that was collected to arrive", func() bool {
			return m.caddy.Metric("detached_requests") == 0 && collected() == arrived()+dropped()
		})
		for _, path := range []string{"/metrics", "/metrics-errors", "/experiments.bundle.js", "/nimbus-experiments"} {
			var sent int64
			for r := range routes {
				if routes[r].path == path {
					sent += m.sent[i][r].Load()
				}
			}
			if counted := m.caddy.Metric("requests_total", "gate", s, "route", path); counted != float64(sent) {
				t.Errorf("%s %s: %d were sent and %v counted", s, path, sent, counted)
			}
		}
		for _, kind := range []kind{must, page, told, other} {
			lost := float64(m.kinds[i][kind].Load() - m.arrived[i][kind].Load())
			if lost < 0 || lost > dropped() || kind != must && lost != 0 {
				t.Errorf("%s: of what has to arrive (%c) %v are missing, and %v were dropped", s, kind, lost, dropped())
			}
		}
		t.Logf("%-14s %d must not arrive; %.0f were collected, of which %.0f dropped", s, m.kinds[i][never].Load(), collected(), dropped())
	}
	for _, decision := range []string{"block preference", "block signal", "block unknown", "block unverified_session", "block probing",
		"collect explicit_allow", "collect default", "collect unknown", "collect unverified_session"} {
		action, reason, _ := strings.Cut(decision, " ")
		n := m.caddy.Metric("requests_total", "decision", action, "reason", reason)
		if n == 0 {
			t.Errorf("nothing was decided as %s: the test looks at nothing", decision)
		}
		t.Logf("%-26s %.0f", decision, n)
	}
	t.Logf("%d requests were sent again, since a listener was closed; %d opt-outs were written into profiles", m.resent.Load(), m.authority.writes.Load())
}
