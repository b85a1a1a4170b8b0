package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// maxAge is how late an opt-out can act at the one gate of an edge, whatever happens
// to the feed. At the other nothing grows too old, so that all depends on the feed.
const (
	maxAge     = 2 * time.Second
	feedMaxAge = 24 * time.Hour
)

// A fleet is two gates, each in front of an application, that ask two profile
// servers on one database behind a pooler. Between any two of them is a link.
type fleet struct {
	t        *testing.T
	database *testpostgres.Cluster
	pooler   *testpostgres.Bouncer
	dsn      string // of the database, for the pooler
	keys     *keySet
	toKeys   *link
	servers  [2]*server
	edges    [2]*edge
	starts   int // of processes, so far

	certificate, key string // the files of the edges
}

// server is a profile server.
type server struct {
	addr    string
	toStore *link
	process *process
}

// edge is a gate and what is around it.
type edge struct {
	number    int
	port      string
	feed      string // the port of the gate that depends on the feed
	bare      string // the port of the same site without a gate
	toProfile *link
	toApp     *link
	app       *application
	settings  settings
	process   *process
	current   atomic.Pointer[process] // for those who send; nil: it is down
	// whole is when all that was acknowledged before was known at the gate that
	// depends on the feed.
	whole atomic.Pointer[time.Time]
	// sure is how often the key of sessions had changed when the edge was last
	// seen to know the latest.
	sure atomic.Int64

	mu        sync.Mutex
	disturbed []span // when connections with it may have broken
}

func (e *edge) String() string { return fmt.Sprint("edge ", e.number) }

// settling is how long it may take to notice that a connection was closed.
const settling = 2 * time.Second

func (e *edge) disturb() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disturbed = append(e.disturbed, span{from: time.Now()})
}

func (e *edge) settle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disturbed[len(e.disturbed)-1].to = time.Now()
}

// excuses says whether a request may have had no answer that began at a time and
// has ended now.
func (e *edge) excuses(began time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.disturbed, func(s span) bool { return s.to.IsZero() || s.to.Add(settling).After(began) })
}

// settings are what changes from one configuration of an edge to the next.
type settings struct {
	entries     int
	mintKey     string
	sessionKeys []string
	comment     int
}

// tally is what is known of the gated requests of a process, from outside.
type tally struct {
	answered atomic.Int64
	unsure   atomic.Int64 // sent, and nobody knows what became of them
	arrived  atomic.Int64
}

// process is one run of Caddy, and what was seen of it.
type process struct {
	*testcaddy.Server

	number  int
	ahead   bool // its clock
	tally   tally
	cutOff  atomic.Bool     // an application was out of reach meanwhile
	atFirst *testcaddy.Held // when it was quiet; nil: it was not yet
}

func newFleet(t *testing.T, arrived func(*edge, *arrival)) *fleet {
	f := &fleet{t: t, database: testpostgres.Start(t), keys: newKeySet(t)}
	f.dsn = f.database.DSN
	f.pooler = testpostgres.Pooler(t, f.dsn, "transaction")
	f.toKeys = newLink(t, target{"tcp", "127.0.0.1:0"}, target{"tcp", f.keys.addr()})
	for i := range f.servers {
		f.servers[i] = &server{addr: testcaddy.FreeAddr(t), toStore: f.linkToStore()}
		f.startServer(i, 0)
	}
	certificate, key := certificate(t)
	for i := range f.edges {
		app := newApplication(t)
		e := &edge{number: i, port: freePort(t), feed: freePort(t), bare: freePort(t), app: app, settings: settings{entries: 100_000, mintKey: "ec.key", sessionKeys: []string{"first", "second", "third"}}}
		app.arrived = func(a *arrival) { arrived(e, a) }
		e.toApp = newLink(t, target{"tcp", "127.0.0.1:0"}, target{"tcp", app.addr()})
		// As behind a load balancer: its own server, and the other where that is away.
		e.toProfile = newLink(t, target{"tcp", "127.0.0.1:0"}, target{"tcp", f.servers[i].addr}, target{"tcp", f.servers[1-i].addr})
		f.edges[i] = e
	}
	f.certificate, f.key = certificate, key
	for _, e := range f.edges {
		f.startEdge(e, 0)
	}
	return f
}

func freePort(t *testing.T) string {
	_, port, _ := net.SplitHostPort(testcaddy.FreeAddr(t))
	return port
}

// linkToStore leads to the pooler, by a socket of the name that PostgreSQL's
// clients look for.
func (f *fleet) linkToStore() *link {
	folder, err := os.MkdirTemp("", "link-") // t.TempDir's name is too long for a socket
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = os.RemoveAll(folder) })
	through := testcaddy.Must(url.Parse(f.pooler.DSN))
	name := ".s.PGSQL." + through.Query().Get("port")
	return newLink(f.t, target{"unix", filepath.Join(folder, name)}, target{"unix", filepath.Join(through.Query().Get("host"), name)})
}

// startServer starts a profile server, whose clock is ahead by some time.
func (f *fleet) startServer(i int, ahead time.Duration) {
	s := f.servers[i]
	dsn := testcaddy.Must(url.Parse(f.pooler.DSN))
	query := dsn.Query()
	query.Set("host", filepath.Dir(s.toStore.addr()))
	dsn.RawQuery = query.Encode()
	s.process = f.run(ahead, testcaddy.Site(s.addr, `profile_server {
		store postgres `+dsn.String()+`
		tokens jwt {
			key `+testcaddy.FromFile("ec.pub")+`
			key `+testcaddy.FromFile("ed.pub")+`
			audience `+testcaddy.ProfileAudience+`
			issuer metrics-gate `+testcaddy.TrustedRelier+`
		}
		trusted_client metrics-gate `+testcaddy.TrustedRelier+`
		events {
			key `+testcaddy.FromFile("rsa.pub")+`
			issuer `+eventIssuer+`
			audience `+testcaddy.TrustedRelier+`
		}
	}`))
}

func (f *fleet) startEdge(e *edge, ahead time.Duration) {
	now := time.Now() // it knows nothing, and so asks about everybody
	e.whole.Store(&now)
	e.process = f.run(ahead, f.edgeSites(e, f.starts+1)...)
	e.current.Store(e.process)
}

func (f *fleet) run(ahead time.Duration, sites ...string) *process {
	f.starts++
	start := func(sites ...string) *testcaddy.Server { return testcaddy.Start(f.t, sites...) }
	if ahead != 0 {
		clock := testcaddy.NewClock(f.t)
		clock.Forward(ahead)
		start = clock.Start
	}
	return &process{number: f.starts, ahead: ahead != 0, Server: start(sites...)}
}

// edgeSites are an edge's sites: each answer says which process gave it, and so
// does each request that reaches the application.
func (f *fleet) edgeSites(e *edge, process int) []string {
	sessionKeys := make([]string, 0, len(e.settings.sessionKeys))
	for _, word := range e.settings.sessionKeys {
		sessionKeys = append(sessionKeys, `"`+word+` secret that seals the sessions of the gate"`)
	}
	site := func(port, gate string) string {
		return fmt.Sprintf(`https://localhost:%s {
			bind 127.0.0.1
			tls %s %s
			header X-Process %d
			header X-Comment %d
			%s
			reverse_proxy %s {
				header_up X-Process %[4]d
			}
		}`, port, f.certificate, f.key, process, e.settings.comment, gate, e.toApp.addr())
	}
	gate := func(label string, maxAge time.Duration) string {
		return testcaddy.Gate("label "+label, "preset fxa", "handshake", "session_key "+strings.Join(sessionKeys, " "),
			"signal {\ngpc\ndnt\n}",
			`session jwt {
				cookie session
				header Authorization Bearer
				local_storage token
				jwks http://`+f.toKeys.addr()+`/keys
				issuer `+testcaddy.SessionIssuer+`
				audience web
			}`,
			`profile http://`+e.toProfile.addr()+`/v1 {
				auth mint {
					key `+testcaddy.FromFile(e.settings.mintKey)+`
					audience `+testcaddy.ProfileAudience+`
				}
				timeout 1s
				max_age `+maxAge.String()+`
				max_entries `+fmt.Sprint(e.settings.entries)+`
			}`)
	}
	return []string{site(e.bare, ""), site(e.port, gate("aging", maxAge)), site(e.feed, gate("told", feedMaxAge))}
}

// certificate makes one for localhost, and returns its file and that of its key.
func certificate(t *testing.T) (file, key string) {
	private := testcaddy.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("certificate.pem", "CERTIFICATE", testcaddy.Must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))),
		write("key.pem", "PRIVATE KEY", testcaddy.Must(x509.MarshalPKCS8PrivateKey(private)))
}
