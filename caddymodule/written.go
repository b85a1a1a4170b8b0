package caddymodule

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// While Caddy provisions a configuration it forgets what is written, matcher by
// matcher and route by route, and keeps the modules that it has made of it. So
// here is what was written, of both.

// matchersOf are the matchers of a route. Of those that look at anything but
// method, path and host only the name is kept.
func matchersOf(route *caddyhttp.Route) caddyhttp.RawMatcherSets {
	if route.MatcherSetsRaw != nil {
		return route.MatcherSetsRaw
	}
	return matcherSetsWritten(route.MatcherSets)
}

func matcherSetsWritten(sets []caddyhttp.MatcherSet) (written caddyhttp.RawMatcherSets) {
	for _, set := range sets {
		matchers := caddy.ModuleMap{}
		for _, matcher := range set {
			var value any
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchPath, *caddyhttp.MatchMethod, *caddyhttp.MatchHost:
				value = matcher
			case *caddyhttp.MatchNot:
				value = matcherSetsWritten(matcher.MatcherSets)
			}
			matchers[nameOf(matcher)] = caddyconfig.JSON(value, nil)
		}
		written = append(written, matchers)
	}
	return written
}

// handlersOf are the handlers of a route. Of those that are not known to matter
// only the name is kept.
func handlersOf(route *caddyhttp.Route) []json.RawMessage {
	if route.HandlersRaw != nil {
		return route.HandlersRaw
	}
	written := make([]json.RawMessage, 0, len(route.Handlers))
	for _, handler := range route.Handlers {
		var value any = struct{}{}
		name := nameOf(handler)
		if subroute, ok := handler.(*caddyhttp.Subroute); ok {
			value = caddyhttp.Subroute{Routes: routesWritten(subroute.Routes)}
		} else if lookedInto[name] {
			value = handler
		}
		written = append(written, caddyconfig.JSONModuleObject(value, "handler", name, nil))
	}
	return written
}

func routesWritten(routes caddyhttp.RouteList) caddyhttp.RouteList {
	written := make(caddyhttp.RouteList, len(routes))
	for i := range routes {
		route := &routes[i]
		written[i] = caddyhttp.Route{Group: route.Group, MatcherSetsRaw: matchersOf(route), HandlersRaw: handlersOf(route), Terminal: route.Terminal}
	}
	return written
}

// nameOf is the name of a module, or nothing where it has none.
func nameOf(module any) string {
	if named, ok := module.(caddy.Module); ok {
		return named.CaddyModule().ID.Name()
	}
	return ""
}

// writtenOf is what matchers are, for whoever is to find them in a configuration.
func writtenOf(sets caddyhttp.RawMatcherSets) string {
	texts := make([]string, 0, len(sets))
	for _, set := range sets {
		words := make([]string, 0, len(set))
		for _, name := range slices.Sorted(maps.Keys(set)) {
			var values []string
			if json.Unmarshal(set[name], &values) == nil {
				name += " " + strings.Join(values, " ")
			}
			words = append(words, strings.TrimSpace(name))
		}
		texts = append(texts, strings.Join(words, ", "))
	}
	return strings.Join(texts, ", or ")
}
