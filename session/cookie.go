package session

import (
	"net/http"
	"net/textproto"
	"strings"
)

// CookieHolds says whether a request carries the cookie with this value, also
// beside others of its name. Names are compared letter by letter, as browsers
// and applications do. It scans the raw header, because http.Request.Cookie
// parses all of it into memory for every call, and does not allocate.
func CookieHolds(h http.Header, name, value string) bool {
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair cookie
			pair, line = nextCookie(line)
			if pair.name == name && pair.value == value {
				return true
			}
		}
	}
	return false
}

type cookie struct{ name, value string }

// nextCookie splits the first cookie off a line of the Cookie header (RFC
// 6265, section 4.2.1), with the spaces around name and value and a pair of
// quotes around the value removed.
func nextCookie(line string) (first cookie, rest string) {
	// strings.Cut would be shorter and take a quarter longer, for every cookie
	// of every gated request.
	pair := line
	if i := strings.IndexByte(line, ';'); i >= 0 { //nolint:modernize // see above
		pair, rest = line[:i], line[i+1:]
	}
	name, value := pair, ""
	if i := strings.IndexByte(pair, '='); i >= 0 {
		name, value = pair[:i], textproto.TrimString(pair[i+1:])
	}
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return cookie{textproto.TrimString(name), value}, rest
}
