package gate

import (
	"net/url"
	"path"
	"strings"
)

// Servers do not read a path alike, and several may stand between the gate and
// the application. What each of them takes for a route was learnt from real
// ones; tests/spellings has the table. Where they differ, the gate takes a path
// for every route that one of them may take it for:
//
//   - A segment . or .. is resolved, or a name like any other. An empty one is
//     dropped, or is what a .. takes away.
//   - What follows a semicolon is the segment's parameters, or a query to the
//     path's end, or part of the name. What follows a # is never sent.
//   - A backslash is a slash or is not, and so is an escaped slash.
//   - What follows two slashes at the beginning is a host or is not.

// isPlain says whether every server reads a path alike that has nothing escaped,
// but for the case of its letters and a slash at its end.
func isPlain(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := range len(path) {
		if !separates[path[i]] {
			continue
		}
		if path[i] != '/' || i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return false
		}
	}
	return true
}

// separates are the letters that servers may take for the end of a segment, or of
// its name.
var separates = [256]bool{'/': true, ';': true, '\\': true}

// resolved is the path of a URL as most servers read it: dots are resolved, and
// several slashes are one. It keeps a slash at the end, and makes one of a dot
// segment there.
func resolved(u *url.URL) string {
	cleaned := path.Clean("/" + u.Path)
	isFolder := strings.HasSuffix(u.Path, "/") || strings.HasSuffix(u.Path, "/.") || strings.HasSuffix(u.Path, "/..")
	if isFolder && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned
}

// longestRead is the length of paths, in bytes, up to which they are read. Most
// servers refuse longer ones.
const longestRead = 8 << 10

// mayTake says whether some server, or several in a row, may take the path of a
// URL for the route's.
func (g *gatedRoute) mayTake(u *url.URL) bool {
	path, escaped := u.Path, u.RawPath
	if u.Opaque != "" { // such as http:beacon, of which proxies send on beacon
		path, escaped = unescape(u.Opaque), u.Opaque
	}
	return max(len(path), len(escaped)) > longestRead ||
		newReading(g, false).takes(path) || escaped != "" && newReading(g, true).takes(escaped)
}

// reading compares a path with a route's in all ways at once, from their ends.
// So it takes time in proportion to the path, however many ways there are.
type reading struct {
	route   *gatedRoute
	escaped bool // the path still has its escapes
	start   int  // of ways: nothing was read yet
	lost    bool // a ".." takes away more segments than can be counted
}

// ways are how far a reading may have come. Bit n of ways[k] says that what was
// read can be what the route has behind its first k segments, if n of the
// segments before are taken away by a "..". Where the route takes everything
// below its path, one more is for nothing of that read yet. The last, readHost,
// is for all of the route and, before it, what may be a host.
type ways [maxSegments + 3]uint64

const readHost = maxSegments + 2

func (w *ways) add(others *ways) {
	for k := range w {
		w[k] |= others[k]
	}
}

func newReading(route *gatedRoute, escaped bool) *reading {
	r := &reading{route: route, escaped: escaped, start: len(route.segments)}
	if route.below {
		r.start++
	}
	return r
}

// takes says whether there is a way in which the route takes the path.
func (r *reading) takes(path string) bool {
	var now ways
	now[r.start] = 1
	if path != "" && (path[0] == '/' || path[0] == '\\') {
		path = path[1:]
	}
	for end := len(path); end >= 0; {
		begin := strings.LastIndexByte(path[:end], '/') + 1
		now = r.segment(now, path[begin:end])
		end = begin - 1
	}
	return now[0] != 0 || r.lost
}

// segment reads a segment: as it is, or without its parameters, or as the end
// of the path.
func (r *reading) segment(now ways, text string) ways {
	next := r.parts(now, text)
	behind := ";"
	if r.escaped { // or # is a letter that was escaped
		behind = ";#"
	}
	if parameters := strings.IndexAny(text, behind); parameters >= 0 {
		now[r.start] |= 1
		shorter := r.parts(now, text[:parameters])
		next.add(&shorter)
	}
	return next
}

// parts reads a segment as one or, where it has slashes of another kind, as
// several.
func (r *reading) parts(now ways, text string) ways {
	next := r.name(&now, text)
	at, width := r.otherSlash(text)
	if at < 0 {
		return next
	}
	for at >= 0 {
		now = r.segment(now, text[at+width:])
		text = text[:at]
		at, width = r.otherSlash(text)
	}
	now = r.segment(now, text)
	next.add(&now)
	return next
}

// otherSlash finds the last of what only some servers take for a slash.
func (r *reading) otherSlash(text string) (at, width int) {
	at = strings.LastIndexByte(text, '\\')
	if !r.escaped {
		return at, 1
	}
	width = 1
	for i := strings.LastIndexByte(text, '%'); i > at; i = strings.LastIndexByte(text[:i], '%') {
		if name := unescape(text[i:min(i+3, len(text))]); name == "/" || name == `\` {
			return i, 3
		}
	}
	return at, width
}

// name reads a segment by its name.
func (r *reading) name(now *ways, name string) (next ways) {
	if r.escaped {
		name = unescape(name)
	}
	for k, ways := range now {
		next[k] |= ways >> 1 // a .. takes it away
		if ways&1 != 0 {
			r.step(&next, k, name)
		}
	}
	switch name {
	case "", ".":
		next.add(now)
	case "..":
		for k, ways := range now {
			next[k] |= ways << 1
			r.lost = r.lost || ways>>63 != 0
		}
	}
	return next
}

// step adds to next where a segment leads that no ".." takes away.
func (r *reading) step(next *ways, k int, name string) {
	segments := r.route.segments
	switch {
	case k == readHost && name == "": // it was one
		next[0] |= 1
	case k == readHost:
	case k == 0:
		next[readHost] |= 1
	case k <= len(segments) && matches(segments[k-1], name):
		next[k-1] |= 1
	}
	if r.route.below && k >= len(segments) && k != readHost {
		next[len(segments)] |= 1
	}
}

// matches says whether a segment of a route takes one of this name.
func matches(segment, name string) bool {
	return strings.EqualFold(segment, name) || segment == "*" && name != ""
}

func unescape(segment string) string {
	if name, err := url.PathUnescape(segment); err == nil {
		return name
	}
	return segment
}
