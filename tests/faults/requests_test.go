package faults

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/token"
)

const (
	pagePath     = "/settings"
	opaquePrefix = "opaque-"
)

// site is one of the sites that requests go to.
type site struct {
	name    string
	options string
	opaque  bool // sessions are opaque tokens
	lenient bool // on_unknown collect
	names   bool // bodies name accounts
	asking  bool // the handshake asks browsers
}

// credential is one that a request carries.
type credential struct {
	state byte
	kind  credentialKind
	n     int // which of the accounts in that state
	where place
}

type (
	credentialKind int
	place          int
)

const (
	good credentialKind = iota
	expired
	junk
	tooLong
)

const (
	inCookie place = iota
	inHeader
)

func (k credentialKind) String() string { return [...]string{"good", "expired", "junk", "too long"}[k] }
func (p place) String() string          { return [...]string{"cookie", "header"}[p] }

var credentials = [][]credential{
	{},
	{{state: optedOut}},
	{{state: allows}},
	{{state: unset}},
	{{state: broken}},
	{{state: turning}},
	{{kind: junk}},
	{{state: optedOut, kind: expired}},
	{{state: allows, kind: expired}},
	{{state: allows}, {state: optedOut}},
	{{state: optedOut}, {state: allows, where: inHeader}},
	{{state: unset}, {state: unset, n: 1, where: inHeader}},
	{{state: allows}, {state: turning, where: inHeader}},
	{{kind: junk}, {state: optedOut, where: inHeader}},
	{{state: optedOut, kind: expired}, {state: allows, where: inHeader}},
	{{kind: junk, n: 1}, {kind: junk, n: 2}, {kind: junk, n: 3}, {kind: junk, n: 4}, {state: optedOut}},
	{{state: allows}, {kind: tooLong}},
}

// signal is what the browser says.
type signal struct {
	cookie, header string
	optedOut       bool
}

var signals = []signal{
	{},
	{cookie: "metrics_optout=True", optedOut: true},
	{cookie: "metrics_optout=account", optedOut: true},
	{header: "Metrics-Optout: ?1\r\n", optedOut: true},
	{cookie: "metrics_optout=0", header: "Metrics-Optout: true\r\n", optedOut: true},
	{cookie: "metrics_optout=0"},
	{header: "Sec-GPC: 1\r\n", optedOut: true},
	{cookie: "consent=groups%3AC0002%3A0", optedOut: true},
	{cookie: "consent=groups%3AC0002%3A1", header: "User-Agent: Mozilla/5.0 Firefox/153.0\r\n"},
}

// name is what a body says.
type name struct {
	state  byte
	hiding bool // it cannot be read, which blocks
	body   string
}

var names = []name{
	{body: `{"uid":"none","events":[]}`},
	{state: optedOut},
	{state: allows},
	{state: broken},
	{state: turning},
	{hiding: true, body: `{"uid":["` + account(optedOut, 0, 0) + `"]}`},
	{hiding: true, body: `{"uid":"` + account(optedOut, 0, 0)},
}

// route is what is asked for.
type route struct {
	request string
	path    string // of the gated route; "" where none is
	class   string // of the gated route
	status  int
}

var routes = []route{
	{"POST /metrics", "/metrics", "metrics", 200},
	{"POST /metrics-errors", "/metrics-errors", "metrics", 200},
	{"GET /metrics-errors?sentry_version=4", "/metrics-errors", "metrics", 200},
	{"GET /experiments.bundle.js", "/experiments.bundle.js", "experiment", 200},
	{"POST /nimbus-experiments", "/nimbus-experiments", "experiment", 200},
	{"GET " + pagePath, "", "", 200},
	{"HEAD " + pagePath, "", "", 200},
	{"GET /logo.svg", "", "", 200},
}

func (r *route) isPost() bool { return strings.HasPrefix(r.request, "POST ") }
func (r *route) isPage() bool { return strings.HasSuffix(r.request, " "+pagePath) }

// kind says what may become of a request.
type kind byte

const (
	may   kind = 'm' // it may arrive, by the state of the caches
	must  kind = 'c' // it has to arrive
	never kind = 'n' // it must not arrive
	page  kind = 'p' // a page, which has to arrive
	told  kind = 't' // a page that has to arrive, and to tell that metrics are blocked
	other kind = 'o' // neither gated nor a page: it has to arrive
)

// combination is one of all that there are.
type combination struct {
	site        int
	route       *route
	credentials []credential
	name        *name
	signal      *signal
}

// combinations is how many there are.
func combinations() int {
	return len(sites) * len(routes) * len(credentials) * len(names) * len(signals)
}

// theCombination is the n-th of all, in an order in which neighbours differ in
// everything.
func theCombination(n int) combination {
	const stride = 1_000_003 // a prime, so each comes once in a round
	all := combinations()
	i := n * stride % all
	take := func(of int) int {
		chosen := i % of
		i /= of
		return chosen
	}
	return combination{
		site:        take(len(sites)),
		route:       &routes[take(len(routes))],
		credentials: credentials[take(len(credentials))],
		signal:      &signals[take(len(signals))],
		name:        &names[take(len(names))],
	}
}

func (c *combination) String() string {
	var sent []string
	for _, one := range c.credentials {
		sent = append(sent, fmt.Sprintf("%s %s in the %s", states[one.state], one.kind, one.where))
	}
	return fmt.Sprintf("%s to %s with credentials %q, the name %q %s, the signal %q", c.route.request, sites[c.site].name,
		sent, states[c.name.state], c.name.body, c.signal.cookie+c.signal.header)
}

// kind is what becomes of it. What is not known yet of an account is unknown to
// a page, since that does not wait.
func (c *combination) kind(turned bool) kind {
	decided := c.decided(turned)
	switch {
	case c.route.isPage() && decided == never && !sites[c.site].lenient:
		return told
	case c.route.isPage():
		return page
	case c.route.path == "":
		return other
	default:
		return decided
	}
}

// decided is what the rules say of it, whatever is wrong with the authority. An
// account that is turning has opted out for good once what was known before is
// too old. Where on_unknown collects, accounts that opted out are known before
// anything fails, but for those of opaque tokens: who is meant may be unknown.
func (c *combination) decided(turned bool) kind {
	s, r := &sites[c.site], c.route
	if len(c.credentials) > 4 {
		return never
	}
	blocks := func(state byte) bool {
		return state == optedOut && !(s.lenient && s.opaque) || !s.lenient && (state == broken || state == turning && turned)
	}
	var proven, allowing, unverified int
	for _, credential := range c.credentials {
		switch {
		case credential.kind == tooLong:
			return never
		case credential.kind == junk, credential.kind == expired && s.opaque:
			unverified++
		case credential.kind == expired:
			if r.class == "metrics" && credential.state == optedOut { // it is named
				return never
			}
		case blocks(credential.state):
			return never
		default:
			proven++
			if credential.state == allows || credential.state == turning {
				allowing++
			}
		}
	}
	asked := s.asking && strings.Contains(c.signal.header, "Firefox")
	named := s.names && r.class == "metrics" && r.isPost()
	switch allowed := proven > 0 && allowing == proven; {
	case (c.signal.optedOut || asked) && !allowed, // a choice stands above what the browser says
		!s.lenient && unverified > 0 && proven == 0,
		named && (c.name.hiding || c.name.state == optedOut || c.name.state != 0 && blocks(c.name.state)):
		return never
	case len(c.credentials) == 0 && !(named && c.name.state != 0):
		return must
	default:
		return may
	}
}

// writer writes requests.
type writer struct {
	generation int
	turnedAt   *atomic.Int64 // when what is turning turned, in Unix nanoseconds; 0: not yet
	tokens     sync.Map      // by account and kind
}

// accounts is how many there are of a state in a generation.
const accounts = 24

// account is whom a credential or a body means. Where on_unknown collects, those
// who opted out are of the first generation, which is known before anything
// fails.
func (w *writer) account(c *combination, state byte, n int) string {
	generation := w.generation
	if sites[c.site].lenient && state == optedOut {
		generation = 0
	}
	return account(state, generation, n%accounts)
}

func (w *writer) token(c *combination, credential credential, n int) string {
	uid := w.account(c, credential.state, n+credential.n)
	opaque := sites[c.site].opaque
	switch {
	case credential.kind == junk:
		return fmt.Sprint("junk.", credential.n, ".", n%accounts)
	case credential.kind == tooLong:
		return strings.Repeat("x", token.MaxTokenBytes+1)
	case opaque && credential.kind == expired:
		return "expired-" + uid
	case opaque:
		return opaquePrefix + uid
	}
	key := fmt.Sprint(uid, credential.kind)
	if known, ok := w.tokens.Load(key); ok {
		return known.(string)
	}
	made := testcaddy.Session(uid)
	if credential.kind == expired {
		made = testcaddy.Session(uid, testcaddy.Expired)
	}
	w.tokens.Store(key, made)
	return made
}

// write writes the n-th request into a buffer, and says what may become of it.
func (w *writer) write(into []byte, n int, c *combination, closes bool) ([]byte, kind) {
	turned := w.turnedAt.Load()
	kind := c.kind(turned != 0 && time.Now().UnixNano() > turned+int64(maxAge))
	into = append(into[:0], c.route.request...)
	into = append(into, " HTTP/1.1\r\nHost: "...)
	into = append(into, sites[c.site].name+".test\r\n"+markHeader+": "...)
	into = fmt.Appendf(into, "%d %c %d\r\n", c.site, kind, n)
	cookies := []string{"lang=en"}
	if c.signal.cookie != "" {
		cookies = append(cookies, c.signal.cookie)
	}
	for _, credential := range c.credentials {
		raw := w.token(c, credential, n)
		if credential.where == inHeader {
			into = append(into, "Authorization: Bearer "+raw+"\r\n"...)
		} else {
			cookies = append(cookies, testcaddy.SessionCookie+"="+raw)
		}
	}
	into = append(into, "Cookie: "+strings.Join(cookies, "; ")+"\r\n"...)
	into = append(into, c.signal.header...)
	if c.route.isPage() {
		into = append(into, "Sec-Fetch-Dest: document\r\n"...)
	}
	if closes {
		into = append(into, "Connection: close\r\n"...)
	}
	body := ""
	if c.route.isPost() {
		if body = c.name.body; body == "" {
			body = `{"uid":"` + w.account(c, c.name.state, n) + `","events":[]}`
		}
		into = fmt.Appendf(into, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	into = append(into, "\r\n"+body...)
	return into, kind
}
