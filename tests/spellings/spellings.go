// Package spellings has the ways in which one request can be written, and what
// real servers make of them. Table is what they were found to take for a route;
// make spellings writes it anew. The gate is held to it.
package spellings

import (
	"fmt"
	"slices"
	"strings"
)

// Route is a route that each of the servers has.
type Route struct{ Method, Path, Class string }

// Routes are those that each of the servers has, as metrics_gate has them. The
// servers answer with the path of the one that took a request, in X-Took.
var Routes = []Route{
	{"POST", "/beacon", "metrics"},
	{"GET", "/pixel.gif", "metrics"},
	{"PATCH", "/patch", "metrics"},
	{"POST", "/a/*/b", "metrics"},
	{"POST", "/t/*", "metrics"},
	{"POST", "/t/keep", "essential"},
	{"POST", "/api/beacon", "metrics"},
}

// IsGated says whether the route of that path is a gated one.
func IsGated(path string) bool {
	return slices.ContainsFunc(Routes, func(route Route) bool { return route.Path == path && route.Class != "essential" })
}

// Caddyfile is the routes as options of metrics_gate.
func Caddyfile() string {
	var lines strings.Builder
	for _, route := range Routes {
		fmt.Fprintf(&lines, "route %s %s %s\n", route.Method, route.Path, route.Class)
	}
	return lines.String()
}

// Request is the beginning of a request line: the method and the target, byte
// for byte.
type Request struct{ Method, Target string }

func (r Request) String() string { return r.Method + " " + r.Target }

// Paths that the routes take as they are written.
var examples = []Request{
	{"POST", "/beacon"},
	{"GET", "/pixel.gif"},
	{"PATCH", "/patch"},
	{"POST", "/a/x/b"},
	{"POST", "/t/x"},
	{"POST", "/t/keep"},
	{"POST", "/api/beacon"},
}

// What may stand before a path: each takes the place of its first slash.
var befores = []string{
	"//", "///", "/./", "/.//", "/../", "//../", "/../../", "/%2e/", "/%2E%2e/", "/.%2e/",
	"/x/../", "/x//../", "/x/y/../../", "/x/%2e%2e/", "/x/.%2E/", "/x%2f../", "/x%2F..%2f", "/x/..%2f", "/x/..;/", "/x;y/../", "/x/..;y/", "/x/;/../",
	"/x%2fy/../", "/x%2fy/../../", `/\`, `/x\..\`, `/x/..\`, `/\/`, "/%5c", "/x%5c..%5c", "/x/..%5C",
	"//host/", "///host/", "//host:80/", "//user:word@host/", "//host//", "//host;x/", "//ho%2fst/", `//host\`, `/\host/`, `\\host\`, "/%5chost/", "/%2fhost/", "//host/x/../", "//host/../", "/x/..//host/",
	"//host%3f/", "//[::1]/", "//host name/", "//%68ost/", "//a/b/../",
	"/;/", "/;a/", "/;a=b;c/", "/.;/", "/.;a/", "/;/../", "/%3b/", "/%3ba/",
	"http://host/", "HTTP://host/", "https://host:1/", "ws://host/", "http://host//", "http://host/x/../", "http://host/;a/", "http:/", "http:", "http:///", "other:", "other:/", "other://host/",
	"/%2f", "/%2F%2f", "%2f", "", `\`, "*/", "/#/", "/?/", "/%00/", "/%20/", "/ /", "/%c0%af/",
}

// What may follow a path.
var afters = []string{
	"/", "//", "/.", "/./", "/%2e", "/%2E/", "/x/..", "/x/../", "/x/%2e%2e", "/x//..", "/..;/", "/.;", "/.;x", "/x/..;", "/./x/..",
	";", ";x", ";x=y", ";jsessionid=1", ";x;y", ";/", ";/x", ";x/y", ";/../x", "/;", "/;x", "/;/", ";?x", ";x?y=z", ";%2f", ";%2fx", ";x/..", "%3b", "%3bx", "%3B/x", ";#",
	"%2f", "%2F", "%2f/", "/%2f", "%2f.", "%2f%2e", `\`, "%5c", "%5C", `/\`,
	"?", "?x=1", "/?x", "?/x", "??", "#", "#x", "/#", "#/x", "#?x", "%3f", "%3Fx=1", "%23", "%23x",
	".", "..", "%2e", "%20", "%09", "%00", "%00.gif", "%0a", "%0d%0a", "+", "~", "*", "/*", "&x", ",", "=", "@", ":", "!", ".json", ".js", "%2ejson", "/index", "/x", "x", "-x", "%c3%a9", "%e2%84%aa", "|", "^", "{}", "%", "%z", "%2",
}

// What a path can be turned into in its middle.
var middles = []func(path string) string{
	strings.ToUpper,
	func(p string) string { return p[:1] + strings.ToUpper(p[1:2]) + p[2:] },
	func(p string) string { return p[:len(p)-1] + strings.ToUpper(p[len(p)-1:]) },
	func(p string) string { return p[:1] + escape(p[1:2], "%%%02x") + p[2:] },
	func(p string) string { return p[:1] + escape(p[1:2], "%%%02X") + p[2:] },
	func(p string) string { return p[:len(p)-1] + escape(p[len(p)-1:], "%%%02x") },
	func(p string) string { return "/" + escape(p[1:], "%%%02x") },
	func(p string) string { return "/" + escape(strings.ToUpper(p[1:]), "%%%02X") },
	func(p string) string { return p[:1] + escape(p[1:2], "%%25%02x") + p[2:] },
	func(p string) string { return "/" + escape(p[1:], "%%u00%02x") },
	func(p string) string { return strings.NewReplacer("k", "%e2%84%aa", "s", "%c5%bf").Replace(p) },
	func(p string) string { return p[:2] + "%00" + p[2:] },
	func(p string) string { return p[:2] + "%ef%bb%bf" + p[2:] },
	func(p string) string { return p[:2] + ";" + p[2:] },
	func(p string) string { return p[:2] + `\` + p[2:] },
	func(p string) string { return strings.Replace(p, ".", "%2e", 1) },
	inside("//"), inside("///"), inside("/./"), inside("/%2e/"), inside("/y/../"), inside("/y/%2e%2e/"), inside("/y//../"), inside("/../"),
	inside("%2f"), inside("%2F"), inside(`\`), inside("%5c"), inside("/;/"), inside("/;y/"), inside(";/"), inside(";y/"), inside(";y=z/"), inside("%3b/"),
	inside(`/y\..\`), inside("/y/..;/"), inside("/y;z/../"), inside("/y%2f../"), inside(";y/../x/"), inside("?/"), inside("#/"), inside("/%20/"), inside("%00/"),
}

// inside writes the last slash of a path in another way.
func inside(slash string) func(string) string {
	return func(path string) string {
		if last := strings.LastIndexByte(path, '/'); last > 0 {
			return path[:last] + slash + path[last+1:]
		}
		return path
	}
}

func escape(text, format string) string {
	var escaped strings.Builder
	for i := range len(text) {
		if text[i] == '/' {
			escaped.WriteByte('/')
		} else {
			fmt.Fprintf(&escaped, format, text[i])
		}
	}
	return escaped.String()
}

// Requests is the list of all that the servers are asked: each example written
// in each way, and in each two ways at once.
func Requests() (all []Request) {
	seen := map[Request]bool{}
	add := func(method, target string) {
		r := Request{method, target}
		if !seen[r] && !strings.ContainsAny(target, " ") {
			seen[r] = true
			all = append(all, r)
		}
	}
	for i, example := range examples {
		method, path := example.Method, example.Target
		add(method, path)
		for _, other := range []string{strings.ToLower(method), method[:1] + strings.ToLower(method[1:]), "HEAD", "head", "OPTIONS", "PUT"} {
			add(other, path)
			add(other, path+"/")
			add(other, path+";x")
		}
		for j, middle := range middles {
			add(method, middle(path))
			for k, before := range befores {
				if some(i, j, k) {
					add(method, before+middle(path)[1:])
				}
			}
			for k, after := range afters {
				if some(i, j, k) {
					add(method, middle(path)+after)
				}
			}
		}
		for j, before := range befores {
			add(method, before+path[1:])
			for k, after := range afters {
				if some(i, j, k) {
					add(method, before+path[1:]+after)
				}
			}
		}
		for _, after := range afters {
			add(method, path+after)
		}
	}
	return all
}

// some keeps every second pair of the first example, and fewer of the others,
// which are there for what is different about them.
func some(example, first, second int) bool {
	if example == 0 {
		return (first+second)%2 == 0
	}
	return (first*7+second*3+example)%11 == 0
}
