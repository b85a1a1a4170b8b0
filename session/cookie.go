package session

import (
	"net/http"
	"net/textproto"
	"strings"
)

// Cookie returns the value of the cookie of that name. Names are compared
// letter by letter, as browsers and applications do. An empty value is no
// cookie.
//
// A sibling subdomain can plant a second cookie of the same name ("cookie
// tossing"), and nothing in the request tells the two apart: RFC 6265,
// section 5.4, sends them in an order that the attacker can influence. So
// different values under one name are reported as conflicting, and then none
// of them should be believed.
//
// It scans the raw header, because http.Request.Cookie parses all of it into
// memory for every call. It does not allocate.
func Cookie(h http.Header, name string) (value string, found, conflicting bool) {
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair cookie
			pair, line = nextCookie(line)
			if pair.name != name || pair.value == "" {
				continue
			}
			conflicting = conflicting || found && pair.value != value
			value, found = pair.value, true
		}
	}
	return value, found, conflicting
}

// CookieHolds says whether a request carries the cookie with this value, also
// beside others of its name.
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
