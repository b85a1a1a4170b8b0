package session

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// parameter is one of a query string or a form. Its value is a name, or holds
// JSON in which names stand.
type parameter struct {
	name  string
	holds *place // nil: the value is a name
}

// pairs looks for parameters in a query string or a form, which may have several
// lines of them. Which of two of a name counts, applications do not agree about,
// so all do.
func (s *search) pairs(text []byte, parameters []parameter) {
	if len(parameters) == 0 {
		return
	}
	for len(text) > 0 && !s.tooMany() {
		pair := text
		if end := bytes.IndexAny(text, "&\r\n"); end >= 0 {
			pair, text = text[:end], text[end+1:]
		} else {
			text = nil
		}
		quotedName, quotedValue, _ := bytes.Cut(pair, []byte("="))
		name := s.unescape(quotedName)
		for i := range parameters {
			if parameters[i].name == string(name) {
				s.parameter(quotedValue, parameters[i].holds)
				name = s.unescape(quotedName)
			}
		}
	}
}

// parameter looks at the value of a parameter.
func (s *search) parameter(quoted []byte, holds *place) {
	value := s.unescape(quoted)
	if holds == nil {
		s.name(value, 0)
		return
	}
	s.escaped = nil // of what is read now
	switch {
	case len(value) == 0:
	case beginsJSON(value):
		s.texts(value, holds)
	default:
		document, ok := decodeBase64(value)
		if !ok || !beginsJSON(document) {
			s.unlearnt = true
			return
		}
		s.texts(document, holds)
	}
}

// unescape undoes the encoding of a form, until it is called again.
func (s *search) unescape(text []byte) []byte {
	if !bytes.ContainsAny(text, "%+") {
		return text
	}
	s.escaped = appendUnescaped(s.escaped[:0], text, ' ')
	return s.escaped
}

// unescaped undoes the escapes of a URL in a cookie or header, in which a plus is
// one.
func unescaped(text string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	return string(appendUnescaped(nil, text, '+'))
}

// appendUnescaped undoes escapes, and replaces each plus. What is no escape stands
// for itself, as it does for browsers, so that one which is broken hides no other.
func appendUnescaped[T []byte | string](to []byte, text T, plus byte) []byte {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '+':
			to = append(to, plus)
		case text[i] == '%' && i+2 < len(text) && isHex(text[i+1]) && isHex(text[i+2]):
			to = append(to, unhex(text[i+1])<<4|unhex(text[i+2]))
			i += 2
		default:
			to = append(to, text[i])
		}
	}
	return to
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// decodeBase64 decodes either alphabet, with or without padding. Where a plus
// was not escaped, a space is left of it.
func decodeBase64(text []byte) ([]byte, bool) {
	plain := bytes.Map(func(r rune) rune {
		switch r {
		case '-', ' ':
			return '+'
		case '_':
			return '/'
		case '\r', '\n':
			return -1
		default:
			return r
		}
	}, bytes.TrimRight(text, "= \r\n"))
	n, err := base64.RawStdEncoding.Decode(plain, plain)
	return plain[:n], err == nil
}
