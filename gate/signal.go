package gate

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/session"
)

// Signal says where the browser's word is found. Cookies and headers mean
// opted out with "true" or "1" and no objection with "false" or "0". They
// go on to the upstream unchanged.
type Signal struct {
	// Cookies are names of cookies, besides metrics_optout.
	Cookies []string `json:"cookies,omitempty"`

	// Headers are names of headers, besides Metrics-Optout.
	Headers []string `json:"headers,omitempty"`

	// GPC makes "Sec-GPC: 1" (Global Privacy Control) an opt-out. It asks not
	// to sell or share, which is not the same as no telemetry, so it blocks
	// but is never written into a profile. Default: false.
	GPC bool `json:"gpc,omitempty"`

	// DNT makes "DNT: 1" (Do Not Track) an opt-out, under the same rules as
	// GPC. Default: false.
	DNT bool `json:"dnt,omitempty"`
}

const (
	signalCookie = "metrics_optout"
	signalHeader = "Metrics-Optout"
)

// reader returns what reads the signals: the two defaults and the named ones.
func (s *Signal) reader() *session.Signals {
	reader := &session.Signals{
		Cookies: append([]string{signalCookie}, s.Cookies...),
		Headers: []string{signalHeader},
		GPC:     s.GPC,
		DNT:     s.DNT,
	}
	for _, name := range s.Headers {
		reader.Headers = append(reader.Headers, http.CanonicalHeaderKey(name))
	}
	return reader
}

// Validate finds names that are not names of cookies or headers, and the gate's
// own outcome header.
func (s *Signal) Validate() error {
	for _, name := range slices.Concat(s.Cookies, s.Headers) {
		if name == "" || strings.ContainsAny(name, " \t\r\n\"(),/:;<=>?@[\\]{}") {
			return fmt.Errorf("%q is not the name of a cookie or header", name)
		}
	}
	for _, name := range s.Headers {
		if http.CanonicalHeaderKey(name) == OutcomeHeader {
			return fmt.Errorf("%s is the gate's own outcome header and cannot be a signal", OutcomeHeader)
		}
	}
	return nil
}
