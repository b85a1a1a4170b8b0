package gate

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/session"
)

// Signal says where the browser's word is found. Cookies and headers mean
// opted out with "true", "1" or "?1" and no objection with "false", "0" or "?0",
// in any letter case. Where they contradict each other the opt-out holds, and is
// not written into a profile. They go on to the upstream unchanged.
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

	// Consents are cookies and headers in words of their own, such as those of
	// a consent banner. They block, and are never written into a profile.
	// Default: none.
	Consents []Consent `json:"consents,omitempty"`
}

// Consent is a cookie or a header that means opted out where its value matches
// OptedOut, or is longer than 4 KiB, and no objection where it does not. The
// value's URL escapes are decoded once.
type Consent struct {
	// Cookie is the name of the cookie. Exactly one of Cookie and Header is set.
	Cookie string `json:"cookie,omitempty"`

	// Header is the name of the header.
	Header string `json:"header,omitempty"`

	// OptedOut is a regular expression in Go's syntax (RE2), which is looked for
	// anywhere in the value. Required.
	OptedOut string `json:"opted_out,omitempty"`
}

func (c *Consent) validate() error {
	if (c.Cookie == "") == (c.Header == "") {
		return errors.New("write either a cookie or a header")
	}
	if c.OptedOut == "" {
		return errors.New("there is no regular expression for what means opted out; write one, such as ^0$")
	}
	if _, err := regexp.Compile(c.OptedOut); err != nil {
		return fmt.Errorf("%q is not a regular expression: %w", c.OptedOut, err)
	}
	return nil
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
		Own:     signalCookie,
	}
	for _, consent := range s.Consents {
		reader.Consents = append(reader.Consents, session.Consent{
			Cookie: consent.Cookie, Header: http.CanonicalHeaderKey(consent.Header),
			OptedOut: regexp.MustCompile(consent.OptedOut), // Validate has looked at it
		})
	}
	for _, name := range s.Headers {
		reader.Headers = append(reader.Headers, http.CanonicalHeaderKey(name))
	}
	return reader
}

// Validate finds names that are not names of cookies or headers, and the gate's
// own outcome header.
func (s *Signal) Validate() error {
	names, headers := slices.Concat(s.Cookies, s.Headers), slices.Clone(s.Headers)
	for i := range s.Consents {
		consent := &s.Consents[i]
		if err := consent.validate(); err != nil {
			return err
		}
		names = append(names, consent.Cookie+consent.Header)
		headers = append(headers, consent.Header)
	}
	for _, name := range names {
		if name == "" || strings.ContainsAny(name, " \t\r\n\"(),/:;<=>?@[\\]{}") {
			return fmt.Errorf("%q is not the name of a cookie or header", name)
		}
	}
	for _, name := range headers {
		if http.CanonicalHeaderKey(name) == OutcomeHeader {
			return fmt.Errorf("%s is the gate's own outcome header and cannot be a signal", OutcomeHeader)
		}
	}
	return nil
}
