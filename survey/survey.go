package survey

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// maxKinds bounds how many kinds of requests are told apart, and so the memory.
const maxKinds = 10_000

// Edge is what a configuration makes of requests.
type Edge interface {
	// Serves says whether the edge serves a host, by its name.
	Serves(host, port string) bool

	// Gates returns the route that a gate has for a request, or nothing, and
	// whether that gate surely sees the request. Host and port are empty where
	// nobody knows them.
	Gates(host, port, method string, u *url.URL) (route string, sure bool)
}

// Survey gathers what looks like metrics. It is not safe for concurrent use.
type Survey struct {
	// Edge is what the requests came by. Default: nothing is gated.
	Edge Edge

	// Requests is how many there were, and Left how many of them look like
	// metrics and are of kinds beyond the bound.
	Requests, Left int

	kinds map[kind]*gathered
	plain int // of kinds, those that nothing speaks against
	asked map[question]answer
}

// question is what the Edge is asked, mostly the same again and again.
type question struct{ host, port, method, path string }

type answer struct {
	route string
	sure  bool
}

// maxAsked bounds how many answers are kept.
const maxAsked = 10_000

// kind is what is told apart.
type kind struct {
	method, host, path string
	route              string
	sure               bool
}

// gathered is what is known of a kind.
type gathered struct {
	is       likeness
	statuses map[int]int
	requests int
	sdk      string // the preset whose hints fit
	fixed    int    // segments at the path's end, as the hint has them
	beacons  int
	moded    int // of requests, those of which it is known whether they are beacons
	answered int // with success
	tiny     int
}

// speaks says whether anything so far says that a kind measures.
func (g *gathered) speaks() bool { return g.sdk != "" || g.beacons > 0 || g.is > unknown }

// why says why a kind measures people; by nothing, it does not. One request can
// be anything: an empty list, what a page saves as it closes. So what most of a
// kind are counts.
func (g *gathered) why() (why []string) {
	isBeacon := g.beacons > 0 && 2*g.beacons >= g.moded
	isTiny := g.tiny > 0 && 2*g.tiny >= g.answered
	if g.sdk == "" && !isBeacon && (g.is == unknown || !isTiny) {
		return nil
	}
	for _, one := range []struct {
		word  string
		holds bool
	}{{WhySDK, g.sdk != ""}, {WhyBeacon, isBeacon}, {WhyPath, g.is > unknown}, {WhyTiny, isTiny}} {
		if one.holds {
			why = append(why, one.word)
		}
	}
	return why
}

// Add looks at a request.
func (s *Survey) Add(r *Request) {
	s.Requests++
	if isEssential(r) {
		return
	}
	if s.Edge != nil && r.Elsewhere {
		r.Elsewhere = !s.Edge.Serves(r.Host, r.Port)
	}
	one := gathered{is: like(r), requests: 1, beacons: count(isBeacon(r)), statuses: map[int]int{r.Status: 1}}
	preset, end := recognised(r)
	one.sdk, one.fixed = preset, strings.Count(end, "/")
	if one.is == unlike {
		if preset == "" {
			return
		}
		one.is = unknown
	}
	one.moded = count(one.beacons > 0 || r.Header.Get("Sec-Fetch-Mode") != "")
	if r.Status >= 200 && r.Status <= 299 {
		one.answered, one.tiny = 1, count(isTiny(r, one.is))
	}
	if !one.speaks() && r.Method != http.MethodPost || r.Status == http.StatusNotFound && preset == "" {
		return // what is not there measures nobody: somebody is looking for holes
	}
	known := s.kindOf(r, end, one.speaks())
	if known == nil {
		s.Left += count(one.speaks())
		return
	}
	if one.speaks() && !known.speaks() {
		s.plain--
	}
	known.add(&one)
}

func count(holds bool) int {
	if holds {
		return 1
	}
	return 0
}

// kindOf finds the kind of a request, or makes it. Where there is no room, those
// go that nothing speaks against.
func (s *Survey) kindOf(r *Request, end string, speaks bool) *gathered {
	k := kind{method: methodOf(r.Method), path: general(r.Path)}
	if end != "" {
		if prefix, _ := cutEnd(r.Path, end); prefix == "" {
			k.path = end
		} else {
			k.path = general(prefix) + end
		}
	}
	if r.Elsewhere {
		k.host = generalHost(r.Host)
	} else if s.Edge != nil {
		of := s.ask(question{r.Host, r.Port, r.Method, r.Path})
		k.route, k.sure = of.route, of.sure
	}
	if known := s.kinds[k]; known != nil {
		return known
	}
	if len(s.kinds) >= maxKinds && speaks && s.plain > 0 {
		maps.DeleteFunc(s.kinds, func(_ kind, g *gathered) bool { return !g.speaks() })
		s.plain = 0
	}
	if len(s.kinds) >= maxKinds {
		return nil
	}
	if s.kinds == nil {
		s.kinds = map[kind]*gathered{}
	}
	g := &gathered{is: unknown, statuses: map[int]int{}}
	s.kinds[k] = g
	s.plain++
	return g
}

// ask asks the Edge about a path as it was sent, since what stands for an
// identifier is no path.
func (s *Survey) ask(q question) (a answer) {
	if known, ok := s.asked[q]; ok {
		return known
	}
	if u, err := url.ParseRequestURI(q.path); err == nil {
		a.route, a.sure = s.Edge.Gates(q.host, q.port, q.method, u)
	}
	if s.asked == nil || len(s.asked) >= maxAsked {
		s.asked = map[question]answer{}
	}
	s.asked[q] = a
	return a
}

// methodOf is a method that everybody knows: another can be what somebody made
// up, such as a name.
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return method
	}
	return "other"
}

// add takes what is known of more requests into account.
func (g *gathered) add(more *gathered) {
	g.is = max(g.is, more.is)
	g.sdk, g.fixed = cmp.Or(g.sdk, more.sdk), max(g.fixed, more.fixed)
	g.requests += more.requests
	g.beacons += more.beacons
	g.moded += more.moded
	g.answered += more.answered
	g.tiny += more.tiny
	for status, n := range more.statuses {
		g.statuses[status] += n
	}
}

// sum is two kinds in one, of which the first may be nil.
func sum(a, b *gathered) *gathered {
	if a == nil {
		a = &gathered{is: b.is, statuses: map[int]int{}}
	}
	a.add(b)
	return a
}
