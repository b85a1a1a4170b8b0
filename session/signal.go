package session

import (
	"net/http"
	"net/textproto"
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
	// GPC makes "Sec-GPC: 1" count (Global Privacy Control).
	GPC bool
	// DNT makes "DNT: 1" count (Do Not Track).
	DNT bool
	// Probing says that browsers which can answer are being asked, so that one
	// which said nothing yet is policy.SignalProbing.
	Probing bool
}

// NoAnswer is the value of a signal's cookie that says: this browser was asked
// and gave no answer. It is no signal, and ends the probing.
const NoAnswer = "none"

// Read returns the strongest signal among everything that the request says:
// every configured cookie and header, duplicates included. Where two
// contradict each other, the opt-out holds. It does not allocate.
func (s *Signals) Read(h http.Header) policy.Signal {
	signal, answered := policy.SignalNone, false
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair cookie
			pair, line = nextCookie(line)
			if slices.Contains(s.Cookies, pair.name) {
				signal = signal.Strongest(meaning(pair.value))
				answered = answered || pair.value == NoAnswer
			}
		}
	}
	for _, name := range s.Headers {
		for _, line := range h[name] {
			// Whoever stands in between may have joined several lines into
			// one list (RFC 9110, section 5.3).
			for more := true; more; {
				var value string
				value, line, more = strings.Cut(line, ",")
				signal = signal.Strongest(meaning(textproto.TrimString(value)))
			}
		}
	}
	// GPC by the letter: a field whose value is exactly "1".
	if s.GPC && slices.Contains(h["Sec-Gpc"], "1") || s.DNT && slices.Contains(h["Dnt"], "1") {
		signal = signal.Strongest(policy.SignalPrivacyHeader)
	}
	if s.Probing && signal == policy.SignalNone && !answered && canAnswer(h) {
		return policy.SignalProbing
	}
	return signal
}

// canAnswer says whether the browser has a WebChannel, over which it can be
// asked: Firefox on desktop and Android, and what is built on it. Firefox on
// iOS calls itself FxiOS and has none.
func canAnswer(h http.Header) bool {
	agent := h["User-Agent"]
	return len(agent) > 0 && strings.Contains(agent[0], "Firefox/")
}

// meaning is what one value of a signal's cookie or header says.
func meaning(value string) policy.Signal {
	switch value {
	case "true", "1":
		return policy.SignalOptedOut
	case "false", "0":
		return policy.SignalNoObjection
	}
	return policy.SignalNone
}
