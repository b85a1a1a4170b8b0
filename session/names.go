package session

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/policy"
)

// NamesConfig says where requests name accounts. Nobody has proven such a name.
// The zero value is nowhere.
type NamesConfig struct {
	// Body are the places of names in a JSON body, or in each text of a sequence
	// of them, such as uid, data.uid, events[].user_id and
	// [].properties.distinct_id, where [] is every element. What is itself a
	// query string is read with requests[]?uid. Default: none.
	Body []string `json:"body,omitempty"`

	// Query are the parameters of the address that hold names. Default: none.
	Query []string `json:"query,omitempty"`

	// Form are the fields of a form that hold names or, with a place behind a
	// colon, JSON or base64 of JSON, such as data:[].properties.distinct_id.
	// Default: none.
	Form []string `json:"form,omitempty"`

	// Match is the regular expression of names: what does not match is nobody's.
	// Default: everything is a name.
	Match string `json:"match,omitempty"`

	// Limit is how many bytes of a body are read, inflated; in a larger one the
	// names could not be learnt. At most 1048576. Default: 262144.
	Limit int `json:"limit,omitempty"`
}

// Places returns all places of names, such as "body uid" and "query uid".
func (c *NamesConfig) Places() (places []string) {
	for kind, words := range map[string][]string{"body": c.Body, "query": c.Query, "form": c.Form} {
		for _, word := range words {
			places = append(places, kind+" "+word)
		}
	}
	slices.Sort(places)
	return places
}

const (
	// MaxNames is how many different accounts a request may name; where it names
	// more, they could not be learnt.
	MaxNames = 16

	defaultNamesLimit = 256 << 10
	maxNamesLimit     = 1 << 20
	// maxPaths bounds the places of one kind in a configuration.
	maxPaths = 16
)

// Names reads the accounts that a request names. It is safe for concurrent use.
type Names struct {
	body        *place // nil: JSON bodies name nobody
	query, form []parameter
	match       *regexp.Regexp // nil: everything is a name
	limit       int
}

// NewNames returns nil where the configuration is empty. An error says which
// setting is wrong and what to write instead.
func NewNames(config NamesConfig) (*Names, error) {
	if len(config.Body)+len(config.Query)+len(config.Form) == 0 {
		if config.Match != "" || config.Limit != 0 {
			return nil, errors.New("nothing is read; write body <path>, query <parameter> or form <field>")
		}
		return nil, nil
	}
	names := &Names{limit: cmp.Or(config.Limit, defaultNamesLimit)}
	if names.limit < 1 || names.limit > maxNamesLimit {
		return nil, fmt.Errorf("limit: %d is not one of 1 to %d bytes; write one such as 256KiB", config.Limit, maxNamesLimit)
	}
	if max(len(config.Body), len(config.Query), len(config.Form)) > maxPaths {
		return nil, fmt.Errorf("there are more than %d places of a kind; write fewer", maxPaths)
	}
	if config.Match != "" {
		var err error
		if names.match, err = regexp.Compile(config.Match); err != nil {
			return nil, fmt.Errorf("match: %q is not a regular expression: %w", config.Match, err)
		}
	}
	var err error
	if names.body, err = placesOf(config.Body...); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	for _, name := range config.Query {
		if name == "" {
			return nil, errors.New(`query: "" is not a parameter; write its name, such as uid`)
		}
		names.query = append(names.query, parameter{name: name})
	}
	for _, text := range config.Form {
		field, path, holdsJSON := strings.Cut(text, ":")
		if field == "" {
			return nil, fmt.Errorf("form: %q has no field; write <field> or <field>:<path>, such as data:[].uid", text)
		}
		added := parameter{name: field}
		if holdsJSON {
			if added.holds, err = placesOf(path); err != nil {
				return nil, fmt.Errorf("form: %w", err)
			}
		}
		names.form = append(names.form, added)
	}
	return names, nil
}

// Read returns the different accounts that a request names, and whether that is
// all of them: what is named and cannot be learnt is never the same as nobody.
// In r.Body it leaves what was there: the next reader gets the same bytes, and
// the same error where there was one.
//
// JSON is read as JSON.parse would, so that the gate sees the names that the
// application sees: the last duplicate wins, and letter case counts. A string
// and an integer, by its digits, are names; what is absent, null or empty and
// what does not match names nobody. A body that announces more than the limit is
// not read at all, so that a client that waits for "100 Continue" never sends
// it.
func (n *Names) Read(r *http.Request) (named []string, learnt bool) {
	var room [2]found
	s := search{match: n.match, found: room[:0]}
	if len(n.query) > 0 && r.URL.RawQuery != "" {
		s.pairs([]byte(r.URL.RawQuery), n.query)
	}
	if n.body != nil || n.form != nil {
		unpack := unpackers.Get().(*unpacker)
		defer unpack.done()
		document, kind, ok := readBody(r, n.limit, unpack)
		s.unlearnt = s.unlearnt || !ok
		if len(document) > 0 {
			n.readDocument(&s, document, kind)
		}
	}
	for i := range s.found {
		switch name := s.found[i].name; {
		case name == "":
			s.unlearnt = true
		case !slices.Contains(named, name):
			named = append(named, name)
		}
	}
	return named, !s.unlearnt
}

// readDocument reads a body as JSON, as a form or, where it may be either, by
// how it begins: no form that a browser writes begins as JSON does. One that
// calls itself a form is read as one in any case, since applications believe it.
func (n *Names) readDocument(s *search, document []byte, kind contentType) {
	isJSON := beginsJSON(document)
	if n.body != nil && (isJSON || n.form == nil) {
		s.texts(document, n.body)
	}
	if n.form != nil && (!isJSON || kind == urlEncoded) {
		s.unlearnt = s.unlearnt || kind == multipart || isBinary(document)
		s.pairs(document, n.form)
	}
}

// search is one look for names, from the first byte to the last.
type search struct {
	match *regexp.Regexp
	found []found
	// unlearnt says that there may be names that are not among those found,
	// whatever comes later.
	unlearnt bool
	// places is how many places were looked at.
	places int
	// quoted and escaped are memory for texts that are not written as they are
	// meant, in JSON and in a query string.
	quoted, escaped []byte
}

// found is a name, or "" for one that could not be learnt, and the place where
// it stands. What stands there twice is kept once.
type found struct {
	name string
	at   int
}

// maxPlaces is how many places of a request are looked at, names or not. It
// bounds the time that a body can take whose every byte is one.
const maxPlaces = 1 << 16

// tooMany counts a place that is looked at, and says whether it is one too many.
func (s *search) tooMany() bool {
	s.places++
	s.unlearnt = s.unlearnt || s.places > maxPlaces
	return s.places > maxPlaces
}

// maxNameBytes is how long a text may be that is held against Match.
const maxNameBytes = 4 << 10

// name takes a text for a name, unless it says that there is none.
func (s *search) name(text []byte, at int) {
	for i := range s.found {
		if s.found[i].at == at && s.found[i].name == string(text) {
			return
		}
	}
	switch {
	case len(text) == 0:
		return
	case len(text) > maxNameBytes:
		s.add("", at)
		return
	case !s.matches(text):
		return
	}
	switch name := string(text); {
	case !policy.IsUID(name):
		s.add("", at)
	case !s.hasRoom(name):
		s.unlearnt = true
	default:
		s.found = append(s.found, found{name, at})
	}
}

// matches holds a text against Match, which costs by its length.
func (s *search) matches(text []byte) bool {
	if s.match == nil {
		return true
	}
	s.places += len(text) / 4
	return s.match.Match(text)
}

// add notes a name at a place, or that there is one which could not be learnt.
func (s *search) add(name string, at int) {
	if added := (found{name, at}); !slices.Contains(s.found, added) {
		s.found = append(s.found, added)
	}
}

// hasRoom says whether a name is known already, or one more may be.
func (s *search) hasRoom(name string) bool {
	var different [MaxNames]string
	n := 0
	for i := range s.found {
		switch known := s.found[i].name; {
		case known == name:
			return true
		case known == "" || slices.Contains(different[:n], known):
		default:
			different[n] = known
			n++
		}
	}
	return n < MaxNames
}

// forget drops what was found since began at a place and below it: there is a
// later value for it in the same object.
func (s *search) forget(began int, at *place) {
	kept := s.found[:began]
	for _, f := range s.found[began:] {
		if f.at < at.id || f.at >= at.end {
			kept = append(kept, f)
		}
	}
	s.found = kept
}

// isBinary says whether there is a byte that no text has.
func isBinary(text []byte) bool {
	return bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}

// beginsJSON says whether a text begins as an object or an array does.
func beginsJSON(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && (text[0] == '{' || text[0] == '[')
}
