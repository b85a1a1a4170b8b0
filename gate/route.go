package gate

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/metricsgate/metricsgate/session"
)

// Route is a gated route: requests that are non-essential metrics, or that
// hand out experiment assignments. Or it is an exception from wider ones, of
// class essential. Everything else is never touched.
type Route struct {
	// Methods of the requests, in capitals; requests match in any letter case.
	// At least one; GET includes HEAD, which applications answer with the same
	// code, and CONNECT, which over HTTP/2 and HTTP/3 opens a WebSocket, unless
	// another route names them. OPTIONS cannot be gated, since a browser's CORS
	// preflight carries no metrics.
	Methods []string `json:"methods,omitempty"`

	// Path of the requests. A * for a whole segment stands for one segment, a
	// last /* for everything below. The route with more segments other than *
	// wins, then the earlier one.
	//
	// Requests match in every spelling that a server behind the gate may take
	// for the path: in any letter case, with or without one slash at the end,
	// with escapes, dots and repeated slashes resolved, without ;parameters,
	// and without the first part of //host/path.
	Path string `json:"path,omitempty"`

	// Class is "metrics" (default), "experiment" or "essential". A blocked
	// experiment request always gets its answer, which should be the control
	// group's. What is essential is never gated; it matches as the path is
	// written only, and other spellings of it are what a wider route takes
	// them for.
	Class string `json:"class,omitempty"`

	// Answer is what a blocked request gets instead of the application.
	// Default: status 204 without a body.
	Answer *Answer `json:"answer,omitempty"`

	// Reply is what the client of a collected metrics request gets: "show", the
	// application's reply, or "hide", the Answer, as if it had been blocked.
	// Default: the gate's.
	Reply string `json:"reply,omitempty"`

	// Names says where requests of a metrics route name accounts; empty: nowhere.
	// Default: the gate's.
	Names *session.NamesConfig `json:"names,omitempty"`
}

// maxSegments is how many segments the path of a route has at most.
const maxSegments = 30

// The classes of routes, as configurations and metrics spell them.
const (
	// ClassMetrics are non-essential metrics.
	ClassMetrics = "metrics"
	// ClassExperiment hands out experiment assignments.
	ClassExperiment = "experiment"
	// ClassEssential is never gated: an exception inside a wider route.
	ClassEssential = "essential"
)

// Validate returns the first thing that is wrong with the route by itself.
func (r *Route) Validate() error {
	if err := r.validateMethods(); err != nil {
		return wrong("methods", err)
	}
	if err := r.validatePath(); err != nil {
		return wrong("path", err)
	}
	switch r.Class {
	case "", ClassMetrics, ClassExperiment:
	case ClassEssential:
		if r.Answer != nil || r.Reply != "" || r.Names != nil {
			return wrongf("class", "what is essential is never blocked or hidden; leave answer, reply and names out")
		}
	default:
		return wrongf("class", "%q is not one of metrics, experiment, essential", r.Class)
	}
	switch {
	case r.Reply != "" && r.Class == ClassExperiment:
		return wrongf("reply", "an experiment's reply is always shown; leave it out")
	case r.Names != nil && r.Class == ClassExperiment:
		return wrongf("names", "an experiment's reply would tell what an account prefers that is only named; leave them out")
	case !isReply(r.Reply):
		return wrongf("reply", "%q is neither hide nor show", r.Reply)
	}
	if _, err := namesOf(r.Names); err != nil {
		return wrong("names", err)
	}
	return wrong("answer", r.Answer.validate())
}

// namesOf reads what is named as configured; nil reads nothing.
func namesOf(config *session.NamesConfig) (*session.Names, error) {
	if config == nil {
		return nil, nil
	}
	return session.NewNames(*config)
}

func (r *Route) validateMethods() error {
	if len(r.Methods) == 0 {
		return errors.New("none given; write at least one, such as POST")
	}
	for i, method := range r.Methods {
		switch {
		case method == http.MethodOptions:
			return errors.New("OPTIONS always passes and cannot be gated; leave it out")
		case method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "":
			return fmt.Errorf("%q is not a method; write it in capitals, such as POST", method)
		case slices.Contains(r.Methods[:i], method):
			return fmt.Errorf("%s is there twice; leave one out", method)
		}
	}
	return nil
}

func (r *Route) validatePath() error {
	clean := resolved(&url.URL{Path: strings.TrimSuffix(r.Path, "*")})
	if strings.HasSuffix(r.Path, "*") {
		clean += "*"
	}
	isPartly := func(segment string) bool { return segment != "*" && strings.Contains(segment, "*") }
	switch {
	case !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("%q does not start with /; write the path alone, such as /api/beacon", r.Path)
	case slices.ContainsFunc(strings.Split(r.Path, "/"), isPartly):
		return fmt.Errorf("%q has a * that is part of a segment; write /*/ for one segment, or /* at the end for all that follow", r.Path)
	case strings.HasSuffix(r.Path, "/*/"):
		return fmt.Errorf("%q ends in /*/, which may mean one segment or all that follow; write %s for all", r.Path, strings.TrimSuffix(r.Path, "/"))
	case strings.ContainsAny(r.Path, `{}?#%;\`):
		return fmt.Errorf("%q must be a plain path, without placeholder, query, parameter, backslash or escape", r.Path)
	case strings.Count(r.Path, "/") > maxSegments:
		return fmt.Errorf("%q has more than %d segments", r.Path, maxSegments)
	case clean != r.Path:
		return fmt.Errorf("%q is not clean; write %s", r.Path, clean)
	}
	return nil
}

// ValidateAfter returns what makes the route useless after an earlier one of
// the same configuration.
func (r *Route) ValidateAfter(earlier *Route) error {
	before, after := earlier.prepare(), r.prepare()
	for _, method := range r.Methods {
		switch {
		case !slices.Contains(earlier.Methods, method):
		case before.covers(after) && after.covers(before) && before.essential != after.essential:
			return fmt.Errorf("%s %s is gated and essential at once; leave one out", method, r.Path)
		case before.covers(after) && after.covers(before):
			return fmt.Errorf("%s %s is there twice; leave one out", method, r.Path)
		case before.literals == after.literals && before.covers(after):
			return fmt.Errorf("%s %s takes nothing, since %s before it takes it all; write it first, or leave it out", method, r.Path, earlier.Path)
		}
	}
	return nil
}

// ClassOrDefault returns the class, ClassMetrics where none is set.
func (r *Route) ClassOrDefault() string { return cmp.Or(r.Class, ClassMetrics) }

// Takes says whether the route takes a request of this method for this path,
// in any spelling that the gate knows.
func (r *Route) Takes(method, urlPath string) bool {
	var table routeTable
	table.add(r.prepare())
	return table.match(method, urlPath) != nil
}

// gatedRoute is a Route made ready for requests.
type gatedRoute struct {
	index      int // in Gate.Routes; of no meaning where it is essential
	methods    []string
	path       string   // without a slash at its end, or the * there
	parts      []string // of path, between which a * stands for a segment
	segments   []string // of path
	below      bool     // takes everything below path
	slash      bool     // was written with a slash at its end
	literals   int      // segments other than *
	experiment bool
	essential  bool
	answer     *answer
	reply      string
	names      *session.Names // nil: requests name nobody
}

func (r *Route) prepare() *gatedRoute {
	path, below := strings.CutSuffix(r.Path, "*")
	slash := false
	if !below && path != "/" {
		path, slash = strings.CutSuffix(path, "/")
	}
	var segments []string
	if names := strings.Trim(path, "/"); names != "" {
		segments = strings.Split(names, "/")
	}
	literals := len(segments) - strings.Count(path, "*")
	if path == "/" && !below {
		literals++ // so that it stands out of /*
	}
	return &gatedRoute{
		methods:    r.Methods,
		path:       path,
		parts:      strings.Split(path, "*"),
		segments:   segments,
		below:      below,
		slash:      slash,
		literals:   literals,
		experiment: r.Class == ClassExperiment,
		essential:  r.Class == ClassEssential,
		answer:     r.Answer.prepare(),
		reply:      r.Reply,
	}
}

// takesMethod says whether one of the route's methods is this one. Servers
// differ in whether patch is PATCH, and browsers send it as it was written.
func (g *gatedRoute) takesMethod(method string) bool {
	for _, own := range g.methods {
		if len(own) == len(method) && strings.EqualFold(own, method) {
			return true
		}
	}
	return false
}

// takes says whether the route takes a path that is read in one way, and
// whether the path is spelt as the route is.
func (g *gatedRoute) takes(path string) (taken, asWritten bool) {
	asWritten = true
	for i, part := range g.parts {
		if i > 0 { // a * stands for what is left of a segment
			segment := strings.IndexByte(path, '/')
			if segment < 0 {
				segment = len(path)
			}
			if segment == 0 {
				return false, false
			}
			path = path[segment:]
		}
		if len(path) < len(part) || !strings.EqualFold(path[:len(part)], part) {
			return false, false
		}
		asWritten = asWritten && path[:len(part)] == part
		path = path[len(part):]
	}
	if g.below {
		return true, asWritten
	}
	return path == "" || path == "/", asWritten && (path == "/") == g.slash
}

// covers says whether the route takes every path that the other one takes.
func (g *gatedRoute) covers(other *gatedRoute) bool {
	taken, _ := g.takes(other.path) // in which only a * takes a *
	return taken && (g.below || !other.below)
}

// meets says whether there is a request that both routes take, one of which is
// gated.
func (g *gatedRoute) meets(other *gatedRoute) bool {
	isShared := func(method string) bool {
		return other.takesMethod(method) || method == http.MethodGet && other.takesMethod(http.MethodHead) ||
			method == http.MethodHead && other.takesMethod(http.MethodGet)
	}
	if g.essential && other.essential || !slices.ContainsFunc(g.methods, isShared) {
		return false
	}
	for i := range min(len(g.segments), len(other.segments)) {
		a, b := g.segments[i], other.segments[i]
		if a != "*" && b != "*" && !strings.EqualFold(a, b) {
			return false
		}
	}
	return len(g.segments) == len(other.segments) || g.below && len(g.segments) < len(other.segments) ||
		other.below && len(other.segments) < len(g.segments)
}

// routeTable finds the route of a request. Most requests are not gated, so the
// way to "no" is short, however many routes there are.
type routeTable struct {
	routes   []*gatedRoute // in the order in which they are tried
	outlines [32]outline   // of gated ones, by the first letter of their methods
}

// outline is how the paths of some gated routes begin and end. Of what is
// essential it says nothing.
type outline struct {
	begin, end hashes
	beginBelow hashes // of those that take everything below their path
}

// hashes are a set of parts of paths. Zero stands for a part that cannot be told
// or, in a route, for any.
type hashes [4]uint64

func (h *hashes) has(hash uint8) bool { return h[hash>>6]&(1<<(hash&63)) != 0 }

func (h *hashes) add(hash uint8) {
	if hash == 0 {
		*h = hashes{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	}
	h[0] |= 1
	h[hash>>6] |= 1 << (hash & 63)
}

// add puts a route into the table: behind those with as many literals.
func (t *routeTable) add(route *gatedRoute) {
	t.routes = append(t.routes, route)
	slices.SortStableFunc(t.routes, func(a, b *gatedRoute) int { return cmp.Compare(b.literals, a.literals) })
	if route.essential {
		return
	}
	for _, method := range route.methods {
		t.outlines[initial(method)].add(route)
		if method == http.MethodGet {
			t.outlines[initial(http.MethodHead)].add(route)
			t.outlines[initial(http.MethodConnect)].add(route)
		}
	}
}

func (o *outline) add(route *gatedRoute) {
	begin := beginning(route.path)
	if strings.HasPrefix(route.path, "/*") || route.below && route.path == "/" {
		begin = 0
	}
	if route.below {
		o.beginBelow.add(begin)
		return
	}
	o.begin.add(begin)
	o.end.add(ending(route.path))
}

// mayTake is the short way to "no". Most paths end as no route's does; where a
// route takes everything below its path, most begin as no route's does.
func (o *outline) mayTake(u *url.URL) bool {
	exact, below := o.end.has(0), o.beginBelow.has(0) // whether there are any
	switch {
	case !exact && !below:
		return false
	case u.RawPath != "":
		return true
	// What is behind a semicolon may not be the path's end.
	case exact && (o.end.has(ending(u.Path)) || strings.IndexByte(u.Path, ';') >= 0):
		begin := beginning(u.Path)
		return o.begin.has(begin) || o.beginBelow.has(begin)
	default:
		return below && o.beginBelow.has(beginning(u.Path))
	}
}

// has says whether the table has a route of this method and path.
func (t *routeTable) has(method string, route *gatedRoute) bool {
	return slices.ContainsFunc(t.routes, func(own *gatedRoute) bool {
		return own.covers(route) && route.covers(own) &&
			(own.takesMethod(method) || method == http.MethodHead && own.takesMethod(http.MethodGet))
	})
}

// match is lookUp of a path that has nothing escaped.
func (t *routeTable) match(method, urlPath string) *gatedRoute {
	return t.lookUp(method, &url.URL{Path: urlPath})
}

// initial is the first letter of a method, in either case.
func initial(method string) uint8 {
	if method == "" {
		return 0
	}
	return method[0] & 31
}

// ending is a hash of how a path's last segment ends, in either case of letters.
// Few ways of writing a path change that; where one may, or where letters have
// cases beyond ASCII, it is zero.
func ending(path string) (hash uint8) {
	last := len(path) - 1
	if last < 1 || path[last] == '/' || path[last] == '.' {
		return 0
	}
	for i := last; i >= max(0, last-3) && path[i] != '/'; i-- {
		if path[i] >= utf8.RuneSelf || path[i] == '\\' {
			return 0
		}
		hash = hash*31 + (path[i] | 0x20)
	}
	return max(1, hash)
}

// beginning is a hash of how a path's first segment begins, in the same way. Only
// of a path that every server reads alike it can be told.
func beginning(path string) (hash uint8) {
	if !isPlain(path) {
		return 0
	}
	for i := 1; i < min(len(path), 4) && path[i] != '/'; i++ {
		if path[i] >= utf8.RuneSelf {
			return 0
		}
		hash = hash*31 + (path[i] | 0x20)
	}
	return max(1, hash)
}

// matchURL returns the route that gates a request, or nil.
func (t *routeTable) matchURL(method string, u *url.URL) *gatedRoute {
	if !t.outlines[initial(method)].mayTake(u) {
		return nil
	}
	if route := t.lookUp(method, u); route != nil && !route.essential {
		return route
	}
	return nil
}

// lookUp returns the route of a request, which may be essential, or nil. A route for GET is one for
// HEAD as well, and for CONNECT, of which proxies make the GET that opens a
// WebSocket (RFC 8441), unless these have their own.
func (t *routeTable) lookUp(method string, u *url.URL) *gatedRoute {
	route := t.read(method, u)
	if route == nil && (strings.EqualFold(method, http.MethodHead) || method == http.MethodConnect) {
		route = t.read(http.MethodGet, u)
	}
	return route
}

// read is lookUp for one method. Where servers read the path differently, what
// one of them may take for a gated route is gated.
func (t *routeTable) read(method string, u *url.URL) *gatedRoute {
	if u.RawPath == "" && isPlain(u.Path) {
		return t.spelt(method, u.Path)
	}
	route := t.spelt(method, resolved(u))
	if route != nil && !route.essential {
		return route
	}
	for _, other := range t.routes {
		if (route == nil || !other.essential) && other.takesMethod(method) && other.mayTake(u) {
			if !other.essential {
				return other
			}
			route = other
		}
	}
	return route
}

// spelt is read for a path that is read in one way. Servers do not agree in
// the case of letters and in a slash at the end either, so there, too, what is
// gated wins, unless it is spelt as the essential route is.
func (t *routeTable) spelt(method, path string) (essential *gatedRoute) {
	for _, route := range t.routes {
		if !route.takesMethod(method) {
			continue
		}
		switch taken, asWritten := route.takes(path); {
		case !taken:
		case asWritten || !route.essential:
			return route
		case essential == nil:
			essential = route
		}
	}
	return essential
}
