package chaos

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// route is what is asked for.
type route struct {
	method, target string
	class          string // "": it is not gated
	kind           string // of what is not gated
	answer         string // of a gated one, when it is blocked or hidden
	contentType    string
	weight         int
}

const fxaExperiments = `{"Features":{},"Enrollments":[],"features":{},"nimbusUserId":""}`

var routes = []route{
	{"POST", "/metrics", "metrics", "", `{"success":true}`, "application/json; charset=utf-8", 40},
	{"POST", "/navigation-timing", "metrics", "", `{}`, "application/json; charset=utf-8", 10},
	{"POST", "/metrics-errors", "metrics", "", `{"success":true}`, "application/json; charset=utf-8", 6},
	{"GET", "/metrics-errors?sentry_version=4", "metrics", "", `{"success":true}`, "application/json; charset=utf-8", 4},
	{"HEAD", "/metrics-errors", "metrics", "", ``, "application/json; charset=utf-8", 2},
	{"POST", "/nimbus-experiments", "experiment", "", fxaExperiments, "application/json; charset=utf-8", 8},
	{"GET", "/experiments.bundle.js", "experiment", "", ``, "text/javascript; charset=utf-8", 4},
	{"GET", "/settings", "", "page", "", "", 6},
	{"GET", "/logo.svg", "", "asset", "", "", 6},
	{"POST", "/account", "", "essential", "", "", 6},
}

func (r *route) String() string { return r.method + " " + r.target }

// credential is one that a request carries.
type credential struct {
	kind     credentialKind
	account  *account
	inHeader bool
	ahead    bool // of the gate's own: the clock of who sealed it was
}

type credentialKind int

const (
	signed    credentialKind = iota // a JSON Web Token
	proven                          // the gate's own session, of a page that proved its account
	expired                         // a token that is too old
	withdrawn                       // a token of the key before, which is in the set no more
	junk                            // what is no token
)

func (k credentialKind) String() string {
	return [...]string{"JWT", "own", "expired", "withdrawn key's", "unverifiable"}[k]
}

// signal is what the browser says with a request.
type signal struct {
	kind           string
	header, cookie string
	optedOut       bool
}

var signals = []signal{
	{},
	{kind: "GPC", header: "Sec-GPC: 1", optedOut: true},
	{kind: "DNT", header: "DNT: 1", optedOut: true},
	{kind: "header", header: "Metrics-Optout: ?1", optedOut: true},
	{kind: "cookie of the handshake", cookie: "metrics_optout=1", optedOut: true},
	{kind: "cookie of the preference page", cookie: "metrics_optout=true", optedOut: true},
	{kind: "cookie of an account", cookie: "metrics_optout=account", optedOut: true},
	{kind: "contradiction", cookie: "metrics_optout=0", header: "Metrics-Optout: true", optedOut: true},
	{kind: "no objection", cookie: "metrics_optout=0"},
}

// name is how a body names an account.
type name struct {
	kind    string
	hiding  bool // nobody can learn whom
	text    string
	gzipped bool
}

var names = []name{
	{kind: "uid", text: `{"uid":"%","events":[]}`},
	{kind: "data.uid", text: `{"data":{"uid":"%"},"events":[]}`},
	{kind: "gzip", text: `{"uid":"%","events":[]}`, gzipped: true},
	{kind: "another type", hiding: true, text: `{"uid":["%"]}`},
	{kind: "broken JSON", hiding: true, text: `{"uid":"%"`},
}

// request is what somebody sends, and what the model says of it.
type request struct {
	mark        uint64
	route       *route
	feed        bool // it goes to the gate that depends on the feed
	credentials []credential
	name        *name
	named       *account
	signal      *signal
	body        []byte
	judged      judged

	protocol string
	began    time.Time
	arrivals atomic.Int64
}

// plainBody is what a body says that names nobody.
const plainBody = `{"events":[{"type":"screen.settings"}]}`

// pick takes one of some by chance.
func pick[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

// invent makes up a request.
func (c *chaos) invent(rng *rand.Rand) *request {
	r := &request{route: pickRoute(rng), feed: rng.IntN(3) == 0, signal: &signals[0]}
	one := func() *account { return pick(rng, c.accounts) }
	token := func(a *account, inHeader bool) credential {
		switch n := rng.IntN(10); {
		case n < 2:
			return credential{kind: expired, account: a, inHeader: inHeader}
		case n < 3:
			return credential{kind: withdrawn, account: a, inHeader: inHeader}
		default:
			return credential{kind: signed, account: a, inHeader: inHeader}
		}
	}
	switch n := rng.IntN(100); {
	case n < 25: // nobody
	case n < 60:
		r.credentials = []credential{token(one(), rng.IntN(4) == 0)}
	case n < 75:
		r.credentials = []credential{{kind: proven, account: one()}}
	case n < 83:
		r.credentials = []credential{token(one(), false), token(one(), true)}
	case n < 90:
		r.credentials = []credential{{kind: proven, account: one()}, token(one(), true)}
	case n < 95:
		r.credentials = []credential{{kind: junk, account: one()}}
	default:
		r.credentials = []credential{{kind: junk, account: one()}, token(one(), true)}
	}
	if rng.IntN(4) == 0 {
		r.signal = &signals[1+rng.IntN(len(signals)-1)]
	}
	if r.route.method == http.MethodPost {
		r.body = []byte(plainBody)
		if r.route.class == "metrics" && rng.IntN(3) == 0 {
			r.name, r.named = &names[rng.IntN(len(names))], one()
			r.body = r.name.body(r.named)
		}
	}
	return r
}

func pickRoute(rng *rand.Rand) *route {
	total := 0
	for i := range routes {
		total += routes[i].weight
	}
	n := rng.IntN(total)
	for i := range routes {
		if n -= routes[i].weight; n < 0 {
			return &routes[i]
		}
	}
	panic("unreachable")
}

func (n *name) body(a *account) []byte {
	text := []byte(strings.Replace(n.text, "%", a.uid, 1))
	if !n.gzipped {
		return text
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(text)
	_ = w.Close()
	return packed.Bytes()
}
