package token

import (
	"net/textproto"
	"strings"
)

// FromHeader returns the token in the value of a header such as Authorization:
// what stands behind the scheme, in any letter case, and a space (RFC 9110,
// section 11.4). Applications take tabs and several spaces as well, so it does.
// It returns "" for a value of another scheme. Without a scheme, all of the
// value is the token.
func FromHeader(value, scheme string) string {
	value = textproto.TrimString(value)
	if scheme == "" {
		return value
	}
	end := strings.IndexAny(value, " \t")
	if end < 0 || !strings.EqualFold(value[:end], scheme) {
		return ""
	}
	return textproto.TrimString(value[end:])
}
