package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/browser"
)

// hiddenBy returns an own address that a matcher in front of the gate would
// keep from it, or "". What a matcher says of anything but method and path
// (hosts, networks) chooses among visitors rather than among addresses, and
// is taken to let them through.
func hiddenBy(matcher caddy.ModuleMap) string {
	for _, own := range []struct{ method, name string }{
		{http.MethodGet, "handshake.js"},
		{http.MethodPost, "signal"},
		{http.MethodGet, "status"},
		{http.MethodGet, "preference"},
		{http.MethodPost, "preference"},
		{http.MethodGet, "preference.css"},
	} {
		path := browser.Base + own.name
		if lets, _ := letsThrough(matcher, "", own.method, path); !lets {
			return own.method + " " + path
		}
	}
	return ""
}

// letsThrough says whether a set of matchers can let a request through and,
// as certain, whether nothing but its method, path and host decides that. An
// empty host may be any.
func letsThrough(set caddy.ModuleMap, host, method, path string) (lets, certain bool) {
	certain = true
	request := &http.Request{Host: host, Method: method, URL: &url.URL{Path: path}, RequestURI: path, Header: http.Header{}}
	caddyhttp.NewTestReplacer(request) // the path matcher asks for a replacer
	for name, raw := range set {
		var matched bool
		switch name {
		case "path":
			var paths caddyhttp.MatchPath
			if json.Unmarshal(raw, &paths) != nil || paths.Provision(caddy.Context{}) != nil {
				certain = false
				continue
			}
			matched = paths.Match(request)
		case "method":
			var methods caddyhttp.MatchMethod
			if json.Unmarshal(raw, &methods) != nil {
				certain = false
				continue
			}
			matched = methods.Match(request)
		case "host":
			var hosts caddyhttp.MatchHost
			if host == "" || json.Unmarshal(raw, &hosts) != nil || hosts.Provision(caddy.Context{}) != nil {
				certain = false
				continue
			}
			matched = hosts.Match(request)
		case "not":
			var sets []caddy.ModuleMap
			if json.Unmarshal(raw, &sets) != nil {
				certain = false
				continue
			}
			matched = true
			for _, inner := range sets {
				lets, sure := letsThrough(inner, host, method, path)
				matched = matched && !(lets && sure)
				certain = certain && (sure || !lets)
			}
		default:
			certain = false
			continue
		}
		if !matched {
			return false, true
		}
	}
	return true, certain
}
