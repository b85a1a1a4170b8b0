package gate

import (
	"cmp"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Route is a gated route: requests that are non-essential metrics, or that
// hand out experiment assignments. Everything else is never touched.
type Route struct {
	// Methods of the requests, in capitals. At least one; GET includes HEAD,
	// which applications answer with the same code, unless another route
	// names it. OPTIONS cannot be gated,
	// since a browser's CORS preflight carries no metrics.
	Methods []string `json:"methods,omitempty"`

	// Path of the requests. It matches in any letter case and with or without
	// one trailing slash, as the routes of an Express application do. A path
	// that ends in /* matches everything below it; exact paths are tried
	// first, then the longest such prefix.
	Path string `json:"path,omitempty"`

	// Class is "metrics" (default) or "experiment". A blocked experiment
	// request always gets its answer, which should be the control group's.
	Class string `json:"class,omitempty"`

	// Answer is what a blocked request gets instead of the application.
	// Default: status 204 without a body.
	Answer *Answer `json:"answer,omitempty"`

	// Reply is what the client of a collected metrics request gets: "show", the
	// application's reply, or "hide", the Answer, as if it had been blocked.
	// Default: the gate's.
	Reply string `json:"reply,omitempty"`
}

// The classes of routes, as configurations and metrics spell them.
const (
	// ClassMetrics are non-essential metrics.
	ClassMetrics = "metrics"
	// ClassExperiment hands out experiment assignments.
	ClassExperiment = "experiment"
)

// Validate returns the first thing that is wrong with the route.
func (r *Route) Validate() error {
	if len(r.Methods) == 0 {
		return wrongf("methods", "none given; write at least one, such as POST")
	}
	for _, method := range r.Methods {
		switch {
		case method == http.MethodOptions:
			return wrongf("methods", "OPTIONS always passes and cannot be gated; leave it out")
		case method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "":
			return wrongf("methods", "%q is not a method; write it in capitals, such as POST", method)
		}
	}
	switch {
	case !strings.HasPrefix(r.Path, "/"):
		return wrongf("path", "%q does not start with /", r.Path)
	case strings.Contains(strings.TrimSuffix(r.Path, "/*"), "*"):
		return wrongf("path", "%q has a * elsewhere than at its end as /*", r.Path)
	case strings.ContainsAny(r.Path, "{}?#%"):
		return wrongf("path", "%q must be a plain path, without placeholder, query or escape", r.Path)
	case cleanPath(strings.TrimSuffix(r.Path, "*")) != strings.TrimSuffix(r.Path, "*"):
		return wrongf("path", "%q is not clean; write %s", r.Path, cleanPath(r.Path))
	}
	if r.Class != "" && r.Class != ClassMetrics && r.Class != ClassExperiment {
		return wrongf("class", "%q is neither metrics nor experiment", r.Class)
	}
	switch {
	case r.Reply != "" && r.Class == ClassExperiment:
		return wrongf("reply", "an experiment's reply is always shown; leave it out")
	case !isReply(r.Reply):
		return wrongf("reply", "%q is neither hide nor show", r.Reply)
	}
	return wrong("answer", r.Answer.validate())
}

// ClassOrDefault returns the class, ClassMetrics where none is set.
func (r *Route) ClassOrDefault() string { return cmp.Or(r.Class, ClassMetrics) }

// Takes says whether the route takes a request of this method for this path,
// in any spelling that the gate knows.
func (r *Route) Takes(method, urlPath string) bool {
	var table routeTable
	return table.add(r.prepare()) == nil && table.match(method, urlPath) != nil
}

// gatedRoute is a Route made ready for requests.
type gatedRoute struct {
	index      int // in Gate.Routes
	methods    []string
	path       string // as matched: without the *, or without a trailing slash
	below      bool   // takes everything below path
	experiment bool
	answer     *answer
	reply      string
}

func (r *Route) prepare() *gatedRoute {
	path, below := strings.CutSuffix(r.Path, "*")
	if !below && len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return &gatedRoute{
		methods:    r.Methods,
		path:       path,
		below:      below,
		experiment: r.Class == ClassExperiment,
		answer:     r.Answer.prepare(),
		reply:      r.Reply,
	}
}

// routeTable finds the gated route of a request. Most requests are not
// gated, so the way to "no" is short: most paths end as no gated path does,
// and of the others only those of the right length are compared.
type routeTable struct {
	exact    map[int][]*gatedRoute // by length of the path
	prefixes []*gatedRoute         // longest first

	// endings are how the exact paths end, see ending.
	endings [256]bool
}

// ending is a hash of a path's last two bytes, in either case of letters. No
// way of writing a path changes them, other than to end it with a slash or a
// dot segment: those have an ending of their own, zero, and so has the path
// whose letters have cases beyond ASCII.
func ending(path string) uint8 {
	last := len(path) - 1
	if last < 1 || path[last] == '/' || path[last] == '.' || path[last] >= utf8.RuneSelf || path[last-1] >= utf8.RuneSelf {
		return 0
	}
	return max(1, path[last]|0x20^(path[last-1]|0x20)<<3)
}

// add puts a route into the table and refuses one that repeats another's
// method and path.
func (t *routeTable) add(route *gatedRoute) error {
	siblings := t.prefixes
	if !route.below {
		siblings = t.exact[len(route.path)]
	}
	for _, other := range siblings {
		for _, method := range route.methods {
			if strings.EqualFold(other.path, route.path) && slices.Contains(other.methods, method) {
				return fmt.Errorf("%s %s is gated twice; leave one out", method, route.path)
			}
		}
	}
	if !route.below {
		if t.exact == nil {
			t.exact = map[int][]*gatedRoute{}
		}
		t.exact[len(route.path)] = append(siblings, route)
		t.endings[ending(route.path)] = true
		return nil
	}
	t.prefixes = append(t.prefixes, route)
	slices.SortStableFunc(t.prefixes, func(a, b *gatedRoute) int { return cmp.Compare(len(b.path), len(a.path)) })
	return nil
}

// match returns the gated route of a request, or nil. The path is the
// decoded one of the URL. It is matched as the application behind would
// match it, or something in front of it would make it: /METRICS, /metrics/,
// //metrics, /./metrics and /%6detrics are all /metrics. So a path is tried
// with dots and slashes resolved, and then as it came: /beacon/..%2fx is /x
// for one application, and below /beacon for another. A route for GET is one
// for HEAD as well, unless HEAD has its own.
func (t *routeTable) match(method, urlPath string) *gatedRoute {
	if end := ending(urlPath); end != 0 && !t.endings[end] && len(t.prefixes) == 0 {
		return nil
	}
	if urlPath == "" { // of a target like http://host, which proxies send on as /
		urlPath = "/"
	}
	var route *gatedRoute
	if strings.Contains(urlPath, "//") || strings.Contains(urlPath, "/.") {
		route = t.spelt(method, cleanPath(urlPath))
	}
	if route == nil {
		route = t.spelt(method, urlPath)
	}
	if route == nil && method == http.MethodHead {
		return t.match(http.MethodGet, urlPath)
	}
	return route
}

// spelt is match for one spelling of the path.
func (t *routeTable) spelt(method, urlPath string) *gatedRoute {
	exactPath := urlPath
	if n := len(urlPath) - 1; n > 0 && urlPath[n] == '/' {
		exactPath = urlPath[:n]
	}
	for _, route := range t.exact[len(exactPath)] {
		if strings.EqualFold(route.path, exactPath) && slices.Contains(route.methods, method) {
			return route
		}
	}
	for _, route := range t.prefixes {
		if len(urlPath) >= len(route.path) && strings.EqualFold(route.path, urlPath[:len(route.path)]) &&
			slices.Contains(route.methods, method) {
			return route
		}
	}
	return nil
}

// cleanPath resolves dots and repeated slashes as RFC 3986, section 5.2.4,
// does: it keeps a trailing slash, and makes one of a dot segment at the end.
func cleanPath(p string) string {
	cleaned := path.Clean("/" + p)
	isFolder := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
	if isFolder && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned
}
