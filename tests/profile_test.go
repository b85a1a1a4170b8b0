package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A preference is what the profile server holds of an account, in JSON.
type preference string

const (
	unset   preference = "null"
	allow   preference = "false"
	optOut  preference = "true"
	unknown preference = "unknown" // asked for, the profile server fails
)

// A fault answers in place of the profile server.
type fault func(w http.ResponseWriter, r *http.Request)

// A profileAsked is one request that the profile server got.
type profileAsked struct {
	uid, method string
	ifMatch     []string
	body        string
	claims      jwt.MapClaims // of a minted token
	at          time.Time
}

// A profile is a programmable profile server. It speaks the API of
// docs/openapi.yaml at /v1/metrics_optout, for tokens that the gate mints, and
// one of an application at /users/<uid>/privacy, for a fixed bearer token. A
// token that is not as docs/reference.md says fails the test.
type profile struct {
	t      testing.TB
	addr   string
	server *http.Server

	mu       sync.Mutex
	held     map[string]preference
	versions map[string]int

	fault    atomic.Pointer[fault]         // while set, answers everything
	hold     atomic.Pointer[chan struct{}] // while set, no request is answered before it is closed
	noETag   atomic.Bool
	inFlight atomic.Int64
	most     atomic.Int64 // most requests in flight at a time
	asked    testcaddy.Ledger[profileAsked]
}

const bearerToken = "the-application-trusts-whoever-knows-this"

func newProfile(t testing.TB) *profile {
	p := &profile{t: t, addr: testcaddy.FreeAddr(t), held: map[string]preference{}, versions: map[string]int{}}
	p.up()
	t.Cleanup(func() { _ = p.server.Close() })
	return p
}

// up has it listen, also again after down.
func (p *profile) up() {
	p.t.Helper()
	listener := testcaddy.ListenAgain(p.t, p.addr)
	server := &http.Server{Handler: p, ReadHeaderTimeout: testcaddy.Patience}
	p.server = server
	go func() { _ = server.Serve(listener) }()
}

// down is a server that is not there: connections are refused.
func (p *profile) down() { _ = p.server.Close() }

// block is the profile block of a Caddyfile, for minted tokens.
func (p *profile) block(options ...string) string {
	return "profile http://" + p.addr + "/v1 {\nauth mint {\nkey " + testcaddy.FromFile("gate.secret") + "\n}\n" +
		strings.Join(options, "\n") + "\n}"
}

// patient leaves the profile server time to answer, for tests in which a slow
// machine must not make an answer unknown.
const patient = "timeout 20s"

// bearerBlock is one for the application's own API.
func (p *profile) bearerBlock(options ...string) string {
	return "profile http://" + p.addr + "/users/{uid}/privacy {\nauth bearer " + bearerToken +
		"\nfield analytics_allowed inverted\n" + strings.Join(options, "\n") + "\n}"
}

// set is the user choosing, somewhere else.
func (p *profile) set(uid string, choice preference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[uid] = choice
	p.versions[uid]++
}

// account makes one that holds the choice.
func (p *profile) account(choice preference) (uid string) {
	uid = testcaddy.NewUID(p.t)
	p.set(uid, choice)
	return uid
}

func (p *profile) get(uid string) preference {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[uid]
}

// lookups and writes are the requests so far about an account.
func (p *profile) lookups(uid string) int { return len(p.about(uid, http.MethodGet)) }
func (p *profile) writes(uid string) int  { return len(p.about(uid, http.MethodPost)) }

func (p *profile) about(uid, method string) []profileAsked {
	return p.asked.Where(func(a profileAsked) bool { return a.uid == uid && a.method == method })
}

// awaitAsked waits until an account has been asked about, or written, n times.
func (p *profile) awaitAsked(uid, method string, n int) {
	p.t.Helper()
	p.asked.Wait(p.t, fmt.Sprintf("%d × %s at the profile server", n, method), func(all []profileAsked) bool {
		count := 0
		for _, a := range all {
			if a.uid == uid && a.method == method {
				count++
			}
		}
		return count >= n
	})
}

// failWith puts a fault in the place of the profile server; nil ends it.
func (p *profile) failWith(f fault) {
	if f == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&f)
}

// stall has every request wait until the returned function is called.
func (p *profile) stall() (release func()) {
	hold := make(chan struct{})
	p.hold.Store(&hold)
	return sync.OnceFunc(func() { p.hold.Store(nil); close(hold) })
}

func (p *profile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/changes" {
		w.WriteHeader(http.StatusNotFound) // it has no feed to follow
		return
	}
	now := p.inFlight.Add(1)
	defer p.inFlight.Add(-1)
	for most := p.most.Load(); now > most && !p.most.CompareAndSwap(most, now); most = p.most.Load() {
	}
	body, _ := io.ReadAll(r.Body)
	asked := profileAsked{method: r.Method, ifMatch: r.Header.Values("If-Match"), body: string(body), at: time.Now()}
	field, opposite, ok := "metrics_optout", false, false
	if after, found := strings.CutPrefix(r.URL.Path, "/users/"); found {
		field, opposite = "analytics_allowed", true
		asked.uid, ok = strings.CutSuffix(after, "/privacy")
		ok = ok && r.Header.Get("Authorization") == "Bearer "+bearerToken
	} else if r.URL.Path == "/v1/metrics_optout" {
		asked.claims, ok = p.minted(r)
		asked.uid, _ = asked.claims["sub"].(string)
	}
	// Whoever waits for the request to be seen may end the fault then.
	answers := p.fault.Load()
	p.asked.Add(asked)
	if hold := p.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-r.Context().Done():
		}
		answers = p.fault.Load()
	}
	if answers != nil {
		(*answers)(w, r)
		return
	}
	if !ok {
		p.t.Errorf("the profile server was asked %s %s with a credential that is not as docs/reference.md says", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	held, known := p.held[asked.uid]
	if !known {
		held = unset
	}
	if held == unknown {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	etag := fmt.Sprintf(`"v%d"`, p.versions[asked.uid])
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	if !p.noETag.Load() {
		w.Header().Set("ETag", etag)
	}
	if r.Method == http.MethodPost {
		if match := r.Header.Get("If-Match"); match != "" && match != etag {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		var choice map[string]*bool
		if err := json.Unmarshal(body, &choice); err != nil || len(choice) != 1 || choice[field] == nil {
			p.t.Errorf("the profile server was sent %q", body)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		p.held[asked.uid] = preference(fmt.Sprint(*choice[field] != opposite))
		p.versions[asked.uid]++
		_, _ = io.WriteString(w, "{}")
		return
	}
	if opposite {
		held = map[preference]preference{unset: unset, allow: "true", optOut: "false"}[held]
	}
	_, _ = fmt.Fprintf(w, `{%q:%s}`, field, held)
}

// minted verifies the token of a request as a profile server would.
func (p *profile) minted(r *http.Request) (jwt.MapClaims, bool) {
	got := jwt.MapClaims{}
	raw, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found {
		return got, false
	}
	_, err := jwt.ParseWithClaims(raw, got, func(*jwt.Token) (any, error) { return []byte(testcaddy.GateSecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("metrics-gate"), jwt.WithExpirationRequired(),
		jwt.WithAudience("http://"+p.addr+"/v1"), jwt.WithIssuedAt(), jwt.WithLeeway(2*time.Second))
	if err == nil {
		err = auditMinted(r.Method, got)
	}
	if err != nil {
		p.t.Errorf("a minted token is not as docs/reference.md says: %v", err)
		return got, false
	}
	return got, true
}

// auditMinted holds the claims against docs/reference.md: one token per purpose, for a
// minute, in the gate's own name.
func auditMinted(method string, got jwt.MapClaims) error {
	scope := "profile:metrics_optout"
	if method == http.MethodPost {
		scope += ":write"
		if got["source"] != "browser" {
			return fmt.Errorf("source is %v", got["source"])
		}
	}
	issued, _ := got["iat"].(float64)
	expires, _ := got["exp"].(float64)
	jti, _ := got["jti"].(string)
	switch {
	case got["scope"] != scope:
		return fmt.Errorf("scope is %v for %s", got["scope"], method)
	case got["client_id"] != "metrics-gate":
		return fmt.Errorf("client_id is %v", got["client_id"])
	case expires-issued != 60:
		return fmt.Errorf("it lives for %v s", expires-issued)
	case jti == "":
		return errors.New("it has no jti")
	}
	return nil
}

// The faults of the table, less a server that is not there at all. What
// would be learnt from each by being lenient is that metrics are allowed.
var faults = map[string]fault{
	"slow beyond the timeout": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"500": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 500, "application/json", `{"metrics_optout":false}`)
	},
	"401": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 401, "application/json", `{"metrics_optout":false}`)
	},
	"404": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 404, "application/json", `{"metrics_optout":false}`)
	},
	"HTML": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, "text/html", "<html>welcome to the hotel</html>")
	},
	"HTML type": func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, "text/html", `{"metrics_optout":false}`) },
	"a word for a boolean": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, "application/json", `{"metrics_optout":"yes"}`)
	},
	"another field": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, "application/json", `{"metricsOptout":false}`)
	},
	"10 MB": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, "application/json", `{"metrics_optout":false,"more":"`+strings.Repeat("x", 10<<20)+`"}`)
	},
	"closes half-way": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"metrics_optout":false`)
		panic(http.ErrAbortHandler)
	},
	"closes at once": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"redirect": func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			reply(w, 200, "application/json", `{"metrics_optout":false}`)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	},
}

func reply(w http.ResponseWriter, status int, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}
