package session

import (
	"net/http"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/policy"
)

// Signals says where a request carries the browser's word.
type Signals struct {
	// Cookies are names of cookies, compared letter by letter.
	Cookies []string
	// Headers are names of headers in canonical form (see
	// http.CanonicalHeaderKey), so that no request pays for that.
	Headers []string
	// Consents are cookies and headers in words of their own, such as those of a
	// consent banner.
	Consents []Consent
	// GPC makes "Sec-GPC: 1" count (Global Privacy Control).
	GPC bool
	// DNT makes "DNT: 1" count (Do Not Track).
	DNT bool
	// Probing says that browsers which can answer are being asked, so that one
	// which said nothing yet is policy.SignalProbing.
	Probing bool
	// Own is the name of the cookie that whoever reads the signals sets itself.
	// There, and nowhere else, Remembered counts, and Reported passes it over.
	Own string
}

// Consent is a cookie or a header that means opted out where its value matches,
// and no objection where it does not. It speaks of this site, so it is never
// written into a profile.
type Consent struct {
	// Cookie is the name of the cookie, or Header that of the header, in
	// canonical form.
	Cookie, Header string
	// OptedOut is looked for in the value, of which the escapes of a URL are
	// decoded once.
	OptedOut *regexp.Regexp
}

const (
	// NoAnswer is the value of a signal's cookie that says: this browser was asked
	// and gave no answer. It is no signal, and ends the probing.
	NoAnswer = "none"
	// Remembered is the value of the cookie Signals.Own that says: an account
	// that opted out was here.
	Remembered = "account"
)

// Read returns what the browser says in all that the request carries: every
// configured cookie and header, duplicates included. Where two contradict each
// other the opt-out holds, and is not to be recorded. It does not allocate,
// unless a consent's value has to be decoded.
func (s *Signals) Read(h http.Header) policy.Signal {
	said := s.read(h, "")
	if s.Probing && !said.answered() && canAnswer(h) {
		return policy.SignalProbing
	}
	return said.signal()
}

// Reported returns what the browser says where it just said so, in a report of
// its own: opted out, to be recorded unless another cookie or header of the
// request contradicts it. The cookie Own is what it said before.
func (s *Signals) Reported(h http.Header) policy.Signal {
	said := s.read(h, s.Own)
	said.optedOut = true
	return said.signal()
}

// Places returns where a request carries what counts, such as "cookie
// metrics_optout", for those who explain a signal.
func (s *Signals) Places(h http.Header) (places []string) {
	speaks := func(place string, only Signals) {
		only.Own = s.Own
		if only.read(h, "") != (said{}) {
			places = append(places, place)
		}
	}
	for _, name := range s.Cookies {
		speaks("cookie "+name, Signals{Cookies: []string{name}})
	}
	for _, name := range s.Headers {
		speaks("header "+name, Signals{Headers: []string{name}})
	}
	for _, consent := range s.Consents {
		place := "cookie " + consent.Cookie
		if consent.Cookie == "" {
			place = "header " + consent.Header
		}
		speaks(place, Signals{Consents: []Consent{consent}})
	}
	speaks("header Sec-GPC", Signals{GPC: s.GPC})
	speaks("header DNT", Signals{DNT: s.DNT})
	return places
}

// said is what the values of a request come to.
type said struct {
	optedOut, noObjection, noAnswer bool // by the browser
	unrecorded, consented           bool // by what speaks of this site
}

// answered says whether nothing is left to ask the browser. What it let this
// site do is no answer to that.
func (s said) answered() bool { return s.optedOut || s.noObjection || s.noAnswer || s.unrecorded }

func (s said) signal() policy.Signal {
	switch {
	case s.optedOut && !s.noObjection && !s.consented:
		return policy.SignalOptedOut
	case s.optedOut || s.unrecorded:
		return policy.SignalUnrecorded
	case s.noObjection || s.consented:
		return policy.SignalNoObjection
	default:
		return policy.SignalNone
	}
}

// read reads everything but the cookie of the name without.
func (s *Signals) read(h http.Header, without string) (said said) {
	s.readCookies(h, without, &said)
	for _, name := range s.Headers {
		for _, line := range h[name] {
			// Whoever stands in between may have joined several lines into
			// one list (RFC 9110, section 5.3).
			for more := true; more; {
				var value string
				value, line, more = strings.Cut(line, ",")
				said.add(textproto.TrimString(value))
			}
		}
	}
	for i := range s.Consents {
		if consent := &s.Consents[i]; consent.Header != "" {
			for _, value := range h[consent.Header] {
				said.consent(consent, textproto.TrimString(value))
			}
		}
	}
	// GPC by the letter: a field whose value is exactly "1".
	said.unrecorded = said.unrecorded || s.GPC && slices.Contains(h["Sec-Gpc"], "1") || s.DNT && slices.Contains(h["Dnt"], "1")
	return said
}

func (s *Signals) readCookies(h http.Header, without string, said *said) {
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair cookie
			pair, line = nextCookie(line)
			if pair.name != without && slices.Contains(s.Cookies, pair.name) {
				said.add(pair.value)
				said.noAnswer = said.noAnswer || pair.value == NoAnswer
				said.unrecorded = said.unrecorded || pair.value == Remembered && pair.name == s.Own
			}
			for i := range s.Consents {
				if consent := &s.Consents[i]; consent.Cookie != "" && consent.Cookie == pair.name {
					said.consent(consent, pair.value)
				}
			}
		}
	}
}

// add adds one value of a signal's cookie or header, in any letter case; with a
// question mark it is a boolean of a structured field (RFC 9651, section 3.3.6).
func (s *said) add(value string) {
	switch {
	case value == "1" || value == "?1" || strings.EqualFold(value, "true"):
		s.optedOut = true
	case value == "0" || value == "?0" || strings.EqualFold(value, "false"):
		s.noObjection = true
	}
}

// maxConsent bounds what is looked at of a consent's value. No banner writes as
// much, so more is what somebody would write to hide an opt-out.
const maxConsent = 4 << 10

// consent adds one value of a consent's cookie or header. An empty one says
// nothing.
func (s *said) consent(consent *Consent, value string) {
	if value == "" {
		return
	}
	value = unescaped(value)
	if len(value) > maxConsent || consent.OptedOut.MatchString(value) {
		s.unrecorded = true
	} else {
		s.consented = true
	}
}

// canAnswer says whether the browser has a WebChannel, over which it can be
// asked: Firefox on desktop and Android, and what is built on it. Firefox on
// iOS calls itself FxiOS and has none.
func canAnswer(h http.Header) bool {
	agent := h["User-Agent"]
	return len(agent) > 0 && strings.Contains(agent[0], "Firefox/")
}
