package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// place is where in a JSON document names stand, or below which they do. All
// places of a document are one tree, so that it is read once.
type place struct {
	members  []member
	elements *place // of an array
	// isName says that the value is a name; parameters that it is a query string
	// with these.
	isName     bool
	parameters []parameter
	// id numbers the places of a tree; those below this one come up to end.
	id, end int
}

type member struct {
	name string
	at   *place
}

// placesOf makes the tree of paths, or nil of none.
func placesOf(paths ...string) (*place, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	root := new(place)
	for _, path := range paths {
		if err := root.add(path); err != nil {
			return nil, err
		}
	}
	root.number(0)
	return root, nil
}

// add adds a path such as events[].user.id or requests[]?uid.
func (p *place) add(path string) error {
	steps, name, holdsQuery := strings.Cut(path, "?")
	at := p
	for i, step := range strings.Split(steps, ".") {
		key := strings.TrimRight(step, "[]")
		brackets := step[len(key):]
		depth := len(brackets) / 2
		if key == "$" && i == 0 {
			return fmt.Errorf("%q begins with a $, as JSONPath does, and would look for a member of this name; leave the $ and the point away", path)
		}
		if brackets != strings.Repeat("[]", depth) || strings.ContainsAny(key, "[]") || strings.ContainsFunc(key, unicode.IsControl) ||
			key == "" && (i > 0 || depth == 0) || holdsQuery && name == "" {
			return fmt.Errorf("%q is not a path; write one such as uid, data.uid, events[].user_id, [].uid or requests[]?uid", path)
		}
		if key != "" {
			at = at.member(key)
		}
		for range depth {
			if at.elements == nil {
				at.elements = new(place)
			}
			at = at.elements
		}
	}
	if holdsQuery {
		at.parameters = append(at.parameters, parameter{name: name})
	} else {
		at.isName = true
	}
	return nil
}

// member returns the place of a member of an object, which it makes where there
// is none.
func (p *place) member(name string) *place {
	for i := range p.members {
		if p.members[i].name == name {
			return p.members[i].at
		}
	}
	at := new(place)
	p.members = append(p.members, member{name, at})
	return at
}

func (p *place) number(next int) int {
	p.id = next
	next++
	for i := range p.members {
		next = p.members[i].at.number(next)
	}
	if p.elements != nil {
		next = p.elements.number(next)
	}
	p.end = next
	return next
}

// likeParse reads JSON as JSON.parse does: a field may be there twice, and what
// is no Unicode does not matter.
var likeParse = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// documentReader is a decoder that is used again.
type documentReader struct {
	decoder  jsontext.Decoder
	document bytes.Buffer
}

var documents = sync.Pool{New: func() any { return new(documentReader) }}

// read returns the decoder of a document, until done is called.
func (r *documentReader) read(document []byte) *jsontext.Decoder {
	r.document = *bytes.NewBuffer(document)
	r.decoder.Reset(&r.document, likeParse...)
	return &r.decoder
}

// done forgets the document, which is somebody's.
func (r *documentReader) done() {
	r.document = bytes.Buffer{}
	r.decoder.Reset(&r.document)
	documents.Put(r)
}

var errTooMany = errors.New("there are too many places")

// texts looks for names in a JSON text, or a sequence of them: an envelope, or
// one a line. Where it goes on in what is no text (an envelope's attachment), it
// ends, and what was found counts.
func (s *search) texts(document []byte, root *place) {
	pooled := documents.Get().(*documentReader)
	d := pooled.read(document)
	defer pooled.done()
	for first := true; ; first = false {
		start := d.InputOffset()
		if err := s.value(d, root); err != nil {
			if first || !errors.Is(err, io.EOF) && !goesOnInBinary(document[start:]) {
				s.unlearnt = true
			}
			return
		}
	}
}

// goesOnInBinary says whether what should be another text begins with a line
// that is no text at all. What begins as JSON and is broken is not taken for
// that.
func goesOnInBinary(rest []byte) bool {
	line, _, _ := bytes.Cut(bytes.TrimLeft(rest, " \t\r\n"), []byte("\n"))
	return !beginsJSON(line) && (isBinary(line) || !utf8.Valid(line))
}

// value reads a value at a place: the names that it is or holds.
func (s *search) value(d *jsontext.Decoder, at *place) error {
	if s.tooMany() {
		return errTooMany
	}
	isRead := at.isName || at.parameters != nil
	kind := d.PeekKind()
	switch {
	case kind == jsontext.KindBeginObject && at.members != nil:
		if isRead {
			s.add("", at.id)
		}
		return s.object(d, at)
	case kind == jsontext.KindBeginArray && at.elements != nil:
		if isRead {
			s.add("", at.id)
		}
		return s.array(d, at)
	}
	value, err := d.ReadValue()
	if err != nil || !isRead {
		return err
	}
	switch {
	case kind == jsontext.KindNull:
	case kind == jsontext.KindString:
		text := s.unquote(value)
		if at.isName {
			s.name(text, at.id)
		}
		s.pairs(bytes.TrimPrefix(text, []byte("?")), at.parameters)
	case kind == jsontext.KindNumber && at.isName && isInteger(value):
		s.name(value, at.id)
	default:
		s.add("", at.id)
	}
	return nil
}

// object reads the members of an object. Decoders that have failed are at no
// end of an object, and say so again.
func (s *search) object(d *jsontext.Decoder, at *place) error {
	began := len(s.found)
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() != jsontext.KindEndObject {
		var name jsontext.Value
		if name, err = d.ReadValue(); err != nil {
			return err
		}
		if inner := s.memberOf(at, name); inner == nil {
			_, err = d.ReadValue()
		} else {
			s.forget(began, inner)
			err = s.value(d, inner)
		}
	}
	if err == nil {
		_, err = d.ReadToken()
	}
	return err
}

// array reads the elements of an array.
func (s *search) array(d *jsontext.Decoder, at *place) error {
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() != jsontext.KindEndArray {
		err = s.value(d, at.elements)
	}
	if err == nil {
		_, err = d.ReadToken()
	}
	return err
}

// memberOf returns the place of the member of that name, or nil.
func (s *search) memberOf(at *place, quoted jsontext.Value) *place {
	name := s.unquote(quoted)
	for i := range at.members {
		if at.members[i].name == string(name) {
			return at.members[i].at
		}
	}
	return nil
}

// unquote decodes a valid JSON string, until the next one. What is no Unicode in
// an escaped one becomes the replacement character, which no account id may
// hold.
func (s *search) unquote(text jsontext.Value) []byte {
	if bytes.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1]
	}
	s.quoted, _ = jsontext.AppendUnquote(s.quoted[:0], text)
	return s.quoted
}

// isInteger says whether a JSON number is written as an integer, so that its
// digits name an account.
func isInteger(number jsontext.Value) bool {
	return !bytes.ContainsAny(number, ".eE") && string(number) != "-0"
}
