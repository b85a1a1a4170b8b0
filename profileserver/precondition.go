package profileserver

import (
	"net/http"
	"strings"
)

// ifMatch reports whether the request's If-Match holds for a representation
// with this strong tag (RFC 9110, 13.1.1). Every account has a
// representation, null where nobody wrote anything, so * always holds.
func ifMatch(h http.Header, tag string) bool {
	values := h.Values("If-Match")
	return len(values) == 0 || listed(values, tag, false)
}

// ifNoneMatch reports whether the request's If-None-Match holds (RFC 9110,
// 13.1.2).
func ifNoneMatch(h http.Header, tag string) bool {
	values := h.Values("If-None-Match")
	return len(values) == 0 || !listed(values, tag, true)
}

// listed reports whether a list of entity tags holds tag, or is *. Weak tags
// count only where the weak comparison is asked for (RFC 9110, 8.8.3.2). The
// reading ends at the first thing that is no tag: what stands behind it never
// matches, so that a broken If-Match writes nothing.
func listed(values []string, tag string, weak bool) bool {
	list := strings.Trim(strings.Join(values, ","), " \t")
	if list == "*" {
		return true
	}
	for {
		list = strings.TrimLeft(list, " \t,")
		strong, isWeak := strings.CutPrefix(list, "W/")
		opaque, ok := strings.CutPrefix(strong, `"`)
		if !ok {
			return false
		}
		opaque, list, ok = strings.Cut(opaque, `"`)
		if !ok {
			return false
		}
		if `"`+opaque+`"` == tag && (weak || !isWeak) {
			return true
		}
	}
}
