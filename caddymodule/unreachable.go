package caddymodule

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/gate"
)

// hiddenBy returns an own address that a matcher in front of the gate would
// keep from it, or "". What a matcher says of anything but method and path
// (hosts, networks) chooses among visitors rather than among addresses, and
// is taken to let them through.
func hiddenBy(matcher caddy.ModuleMap) string {
	sets := matcherSetsOf([]caddy.ModuleMap{matcher})
	for _, own := range []struct{ method, name string }{
		{http.MethodGet, "handshake.js"},
		{http.MethodPost, "signal"},
		{http.MethodGet, "status"},
		{http.MethodGet, "preference"},
		{http.MethodPost, "preference"},
		{http.MethodGet, "preference.css"},
	} {
		path := browser.Base + own.name
		if lets, _ := anyLets(sets, asked{method: own.method, path: path}); !lets {
			return own.method + " " + path
		}
	}
	return ""
}

// Unreachable says that requests which a gate is there for cannot come to it, nor to
// any other gate.
type Unreachable struct {
	// Gate is its label, Hosts are those of its site, and Ports what that listens on;
	// none are all.
	Gate         string
	Hosts, Ports []string

	// Requests are those that cannot come to it, such as "POST /metrics".
	Requests []string

	// Why says what keeps them from it, Advice what to write instead.
	Why, Advice string
}

// Unreachable returns what certainly cannot come to the gates of the configuration.
// Where that depends on anything but a request's host, method and path, or on a
// handler that is not known, it can.
func (s *Sites) Unreachable() (all []Unreachable) {
	for _, server := range s.servers {
		var places []*place
		findPlaces(server.blocks, place{}, &places)
		for _, at := range places {
			for _, u := range at.unreachable(server.blocks) {
				u.Ports = server.numbers()
				all = append(all, u)
			}
		}
	}
	return all
}

// place is where a gate stands.
type place struct {
	gate     *gate.Gate
	label    string
	hosts    []string // that its site is for; an empty one is any
	prefixes []string // that paths can lose on the way to it, in the order of the ways
}

// maxPrefixes bounds what handlers may have taken off a path. Where there is more,
// nothing is said of a gate.
const maxPrefixes = 64

// findPlaces adds those of the gates in blocks, each once, and returns the
// prefixes that paths have lost behind them.
func findPlaces(blocks []block, so place, found *[]*place) (prefixes []string) {
	for i := range blocks {
		block := &blocks[i]
		within := so
		within.hosts = append(slices.Clip(within.hosts), block.hosts()...)
		for _, step := range block.steps {
			switch {
			case step.gate != nil:
				within.gate, within.label = step.gate, step.label
				addPlace(found, within)
			case step.inner != nil:
				within.prefixes = findPlaces(step.inner, within, found)
			case step.strip != "" && len(within.prefixes) <= maxPrefixes:
				longer := []string{step.strip}
				for _, prefix := range within.prefixes {
					longer = append(longer, prefix+step.strip)
				}
				within.prefixes = append(slices.Clip(within.prefixes), longer...)
			}
		}
		if !endsAll(block.steps) {
			so.prefixes = within.prefixes
		}
	}
	return so.prefixes
}

// addPlace adds a place, or what is new of it where the gate is in a named route
// that is invoked more than once.
func addPlace(found *[]*place, at place) {
	if len(at.hosts) == 0 {
		at.hosts = []string{""}
	}
	for _, known := range *found {
		if known.gate == at.gate {
			known.hosts = append(slices.Clip(known.hosts), at.hosts...)
			known.prefixes = append(slices.Clip(known.prefixes), at.prefixes...)
			return
		}
	}
	*found = append(*found, &at)
}

// hosts are those that the block's matchers name; an empty one is any.
func (b *block) hosts() (hosts []string) {
	for _, set := range b.matchers {
		hosts = append(hosts, set.hosts...)
	}
	if len(hosts) > 0 && slices.ContainsFunc(b.matchers, func(set matcherSet) bool { return set.hosts == nil }) {
		hosts = append(hosts, "")
	}
	return hosts
}

// endsAll says whether nothing comes out behind the handlers.
func endsAll(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool {
		for i := range s.inner { // of a group, only one may be taken
			if inner := &s.inner[i]; inner.group == "" && len(inner.matchers) == 0 && endsAll(inner.steps) {
				return true
			}
		}
		return s.ends
	})
}

// unreachable returns what cannot come to the gate, by what keeps it from there.
func (at *place) unreachable(blocks []block) (all []Unreachable) {
	if len(at.prefixes) > maxPrefixes {
		return nil
	}
	ways := make(map[string][]block, len(at.hosts))
	for _, host := range at.hosts {
		ways[host] = slices.DeleteFunc(slices.Clone(blocks), func(b block) bool { return !b.isFor(host) })
	}
	for _, route := range at.gate.Routes() {
		for _, method := range route.Methods {
			var missed *obstacle
			for _, host := range at.hosts {
				if missed = at.missed(ways[host], host, method, route.Path); missed == nil {
					break
				}
			}
			if missed == nil {
				continue
			}
			why, advice := missed.explain()
			known := slices.IndexFunc(all, func(u Unreachable) bool { return u.Why == why })
			if known < 0 {
				known = len(all)
				named := slices.DeleteFunc(slices.Clone(at.hosts), func(host string) bool { return host == "" })
				all = append(all, Unreachable{Gate: at.label, Hosts: named, Why: why, Advice: advice})
			}
			all[known].Requests = append(all[known].Requests, method+" "+route.Path)
		}
	}
	return all
}

// missed is what keeps a route's requests from the gate, and none where they may
// come to one. What answers in front of the gate is looked for by what applications
// send, as the route is written; matchers may be for those that are spelt in another
// way.
func (at *place) missed(blocks []block, host, method, path string) (missed *obstacle) {
	methods, paths := []string{method}, []string{path}
	if method == http.MethodGet {
		methods = append(methods, http.MethodHead, http.MethodConnect)
	}
	if trimmed, slash := strings.CutSuffix(path, "/"); slash && trimmed != "" {
		paths = append(paths, trimmed)
	} else if !strings.HasSuffix(path, "*") && !slash {
		paths = append(paths, path+"/")
	}
	for _, method := range methods {
		for _, path := range paths {
			next := at.missedBy(blocks, asked{host: host, method: method, path: path})
			if next == nil {
				return next
			}
			if missed == nil {
				missed = next
			}
			if !missed.keptOut {
				return missed
			}
		}
	}
	return missed
}

// missedBy is missed for one request, whatever the prefixes in front of its path.
func (at *place) missedBy(blocks []block, q asked) (missed *obstacle) {
	for _, prefix := range append([]string{""}, at.prefixes...) {
		arrived := &url.URL{Path: prefix + q.path}
		v := visit{asked: q, arrived: arrived, now: *arrived, target: at.gate}
		if v.through(blocks)&isGated != 0 {
			return nil
		}
		missed = v.missed // that of what the gate stands behind comes last
	}
	return missed
}

// obstacle is what keeps a request from a gate: a handler in front of it that
// answers, unless it says otherwise.
type obstacle struct {
	keptOut bool   // by matchers of what the gate is in,
	own     bool   // its own
	taken   bool   // by a block that comes first
	kind    string // of the block
	by      string // a handler, or what matchers are
}

// misses notes that the request does not get into a block.
func (v *visit) misses(by obstacle, block *block) {
	if v.target != nil && v.missed == nil && block.holds(v.target) {
		v.missed = &by
	}
}

// directives are the words in a Caddyfile for handlers that are called otherwise.
var directives = map[string]string{"static_response": "respond, redir or abort"}

// answers is how a later block misses a request that a handler of this one has
// answered.
func (b *block) answers(later *block, handler string) obstacle {
	switch {
	case b.terminal || b.group != "" && b.group == later.group:
		return obstacle{taken: true, kind: b.kind(), by: b.written}
	case b.written != "":
		handler += " (" + b.written + ")"
	}
	return obstacle{by: handler}
}

// kind is what a block is in a Caddyfile, as far as that can be told.
func (b *block) kind() string {
	switch {
	case b.group != "": // of which only the first that matches is taken
		return "handle"
	case b.terminal:
		return "site"
	default:
		return "handle, route or site"
	}
}

// has says whether the gate is one of the block's own handlers, and holds whether it
// is anywhere in it.
func (b *block) has(g *gate.Gate) bool {
	return slices.ContainsFunc(b.steps, func(s step) bool { return s.gate != nil && s.gate == g })
}

func (b *block) holds(g *gate.Gate) bool {
	return b.has(g) || slices.ContainsFunc(b.steps, func(s step) bool {
		return slices.ContainsFunc(s.inner, func(inner block) bool { return inner.holds(g) })
	})
}

// explain says what keeps requests from a gate, and what to write.
func (o *obstacle) explain() (why, advice string) {
	switch {
	case o.own:
		return "the gate's own matcher lets none of them through: " + o.by,
			"leave it out, since what is not gated passes anyway, or have it match them as well"
	case o.keptOut:
		return "the " + o.kind + " that the gate stands in lets none of them in: " + o.by,
			"write metrics_gate in front of it, or have its matcher match them as well"
	case o.taken:
		return "a " + o.kind + " that comes first takes them: " + o.by,
			"write metrics_gate in that one as well, or in front of both"
	default:
		return "they are answered in front of the gate, by " + o.by,
			"write metrics_gate in front of that, inside the same handle or route"
	}
}
