package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// asked is a request, as far as it is known without there being one.
type asked struct {
	host, method string // an empty host may be any

	// path may have a * for whatever may stand there, as routes have.
	path string

	// lost says that a handler may have rewritten method and path.
	lost bool
}

// matcherSet is a set of matchers, as far as host, method and path decide what
// all of them together let through.
type matcherSet struct {
	hosts   caddyhttp.MatchHost
	methods caddyhttp.MatchMethod
	paths   caddyhttp.MatchPath
	not     []matcherSet
	others  bool // something else has a say
}

// matcherSetsOf reads matchers as a configuration has them. What cannot be read,
// or depends on a placeholder, has a say that nobody knows.
func matcherSetsOf(raw []caddy.ModuleMap) (sets []matcherSet) {
	for _, matchers := range raw {
		var set matcherSet
		for name, value := range matchers {
			var err error
			switch name {
			case "host":
				if err = json.Unmarshal(value, &set.hosts); err == nil {
					err = set.hosts.Provision(caddy.Context{})
				}
				if err != nil || slices.ContainsFunc(set.hosts, hasPlaceholder) {
					set.hosts, set.others = nil, true
				}
			case "method":
				if json.Unmarshal(value, &set.methods) != nil {
					set.methods, set.others = nil, true
				}
			case "path":
				if err = json.Unmarshal(value, &set.paths); err == nil {
					err = set.paths.Provision(caddy.Context{})
				}
				if err != nil || slices.ContainsFunc(set.paths, hasPlaceholder) {
					set.paths, set.others = nil, true
				}
			case "not":
				var not []caddy.ModuleMap
				if json.Unmarshal(value, &not) != nil {
					set.others = true
				}
				set.not = matcherSetsOf(not)
			default:
				set.others = true
			}
		}
		sets = append(sets, set)
	}
	return sets
}

func hasPlaceholder(text string) bool { return strings.Contains(text, "{") }

// anyLets says whether any of the sets can let a request through, and whether that
// is certain. Without a set everything gets through.
func anyLets(sets []matcherSet, q asked) (lets, certain bool) {
	for i := range sets {
		may, sure := sets[i].lets(q)
		lets, certain = lets || may, certain || may && sure
	}
	return lets || len(sets) == 0, certain || len(sets) == 0
}

// lets says whether the set can let a request through and, as certain, whether
// nothing but its method, path and host decides that.
func (m *matcherSet) lets(q asked) (lets, certain bool) {
	certain = !m.others
	if m.hosts != nil {
		if q.host != "" && !TakesHost(m.hosts, q.host) {
			return false, true
		}
		certain = certain && q.host != ""
	}
	if m.methods != nil {
		if !q.lost && !m.methods.Match(q.request(q.path)) {
			return false, true
		}
		certain = certain && !q.lost
	}
	if m.paths != nil {
		some, all := q.isIn(m.paths)
		if !some {
			return false, true
		}
		certain = certain && all
	}
	for i := range m.not {
		some, all := m.not[i].lets(q)
		if some && all {
			return false, true
		}
		certain = certain && !some
	}
	return true, certain
}

// TakesHost says whether the hosts of a site, as they are written, take one, as
// Caddy's own matcher does. Nearly all of them are plain names, for which it needs no
// request.
func TakesHost(hosts caddyhttp.MatchHost, host string) bool {
	host = strings.Trim(host, "[]") // of an IPv6 address
	return slices.ContainsFunc(hosts, func(known string) bool { return strings.EqualFold(known, host) }) ||
		slices.ContainsFunc(hosts, func(known string) bool { return strings.Contains(known, "*") }) && hosts.Match((&asked{host: host}).request(""))
}

// isIn says whether patterns take some of the paths that are asked for, and
// whether they take all of them. It says some where it cannot tell.
func (q *asked) isIn(patterns caddyhttp.MatchPath) (some, all bool) {
	switch {
	case q.lost:
		return true, false
	case !strings.Contains(q.path, "*"):
		taken := patterns.Match(q.request(q.path))
		return taken, taken
	}
	for _, pattern := range patterns {
		before, _, _ := strings.Cut(q.path, "*")
		literal := pattern
		if wild := strings.IndexAny(pattern, `*?[\%`); wild >= 0 {
			literal = pattern[:wild]
		}
		length := min(len(literal), len(before))
		if !strings.EqualFold(literal[:length], before[:length]) {
			continue
		}
		some = true
		if inside := strings.TrimPrefix(strings.TrimSuffix(pattern, "*"), "*"); strings.ContainsAny(inside, `*?[\%`) {
			continue
		}
		// What takes whatever stands for the *, and nothing there, looks at neither.
		takes := func(filling string) bool {
			return caddyhttp.MatchPath{pattern}.Match(q.request(strings.ReplaceAll(q.path, "*", filling)))
		}
		if takes("a") && takes("b") && (!strings.HasSuffix(q.path, "*") || takes("")) {
			return true, true
		}
	}
	return some, false
}

// request is what matchers look at.
func (q *asked) request(path string) *http.Request {
	return (&http.Request{Host: q.host, Method: q.method, URL: &url.URL{Path: path}, RequestURI: path}).WithContext(nothingToReplace)
}

// nothingToReplace has the replacer that matchers of hosts and paths ask for.
var nothingToReplace = context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
