package browser

import (
	"bytes"
	"encoding/json"
	"io"
	"iter"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
)

// search finds, in a document that arrives in pieces, the places that an
// Edit changes. The tokenizer wants to pull its input and a handler pushes it,
// so the tokenizer runs as a coroutine: it stops where the input ends and goes
// on from there with the next piece. Beginning again with every piece instead
// would cost quadratic time with an upstream that writes single bytes.
type search struct {
	edit *Edit

	// unread is what the tokenizer has not taken yet of the last piece.
	unread []byte
	yield  func(struct{}) bool
	next   func() (struct{}, bool)
	stop   func()
	// stopped means that no more of the document comes.
	stopped bool

	// head is where Edit.Insert belongs, behind the head's tag; 0 as long as
	// there is none, which is never a place behind a tag.
	head int
	// missing are the names of meta elements that have not come yet, and contents
	// what to write into those that have.
	missing  []string
	contents []replacement
}

// replacement is what to write in place of the content of a meta element, which
// stands from start to end, quotes included.
type replacement struct {
	start, end int
	content    []byte
}

// newSearch makes a search, which from its first piece on holds a coroutine
// until it has found everything or is stopped.
func newSearch(edit *Edit) *search {
	s := &search{edit: edit, stop: func() {}}
	for _, meta := range edit.Metas {
		if !slices.Contains(s.missing, meta.Name) {
			s.missing = append(s.missing, meta.Name)
		}
	}
	return s
}

// plainHead is how nearly every document begins, up to the end of its head's
// tag: a doctype, no comments, and attributes whose values are quoted or words.
var plainHead = regexp.MustCompile(strings.NewReplacer(
	"SPACE", `[\t\n\f\r ]`, "ATTRIBUTES", `(?:[\t\n\f\r ]+[a-z-]+(?:=(?:"[^"]*"|[a-z0-9-]+))?)*`,
).Replace(`(?i)^SPACE*<!doctype html>SPACE*<htmlATTRIBUTES>SPACE*<headATTRIBUTES>`))

// feed continues the search with more of the document and says whether it has
// ended, with or without what was looked for.
func (s *search) feed(piece []byte) (ended bool) {
	if s.next == nil {
		if len(s.missing) == 0 {
			// The tokenizer finds the same and costs ten times as much, most of
			// it for memory that it takes for each document. In little text
			// regexp goes back where it has to, which is faster than its other
			// ways.
			if found := plainHead.FindIndex(piece[:min(len(piece), 1024)]); found != nil {
				s.head = found[1]
				return true
			}
		}
		s.next, s.stop = iter.Pull(s.run)
	}
	s.unread = piece
	_, more := s.next()
	s.unread = nil
	return !more
}

// Read hands the tokenizer what there is of the document and gives way to the
// caller of feed when there is no more.
func (s *search) Read(p []byte) (int, error) {
	for len(s.unread) == 0 {
		if s.stopped || !s.yield(struct{}{}) {
			s.stopped = true
			return 0, io.EOF
		}
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// run reads the document until it knows all places, or that they are not
// there.
//
// HTML needs no tag for its head: whatever belongs into one opens it, and a
// <head> behind that is ignored. So only what may stand in front of a head's
// tag is passed over here, and what a parser would ignore is not taken for
// the tag. The elements whose content is text, such as <title> and <script>,
// are known to the tokenizer; comments and attributes are tokens of their own.
func (s *search) run(yield func(struct{}) bool) {
	s.yield = yield
	wantHead, wantMeta := len(s.edit.Insert) > 0, len(s.missing) > 0
	position, templates := 0, 0
	tokens := html.NewTokenizer(s)
	for wantHead || wantMeta {
		kind := tokens.Next()
		// Where the document stops, the tokenizer makes a token of what it
		// has. Nothing is decided by half a token.
		if s.stopped || kind == html.ErrorToken {
			return
		}
		start, raw := position, tokens.Raw()
		position += len(raw)
		switch kind {
		case html.TextToken:
			if start == 0 {
				if isUTF16(raw) {
					return
				}
				raw = bytes.TrimPrefix(raw, utf8Mark)
			}
			wantHead = wantHead && len(bytes.Trim(raw, htmlSpace)) == 0
		case html.StartTagToken, html.SelfClosingTagToken:
			name, _ := tokens.TagName()
			tag := string(name)
			if wantHead && tag != "html" {
				wantHead = false
				if tag == "head" {
					s.head = position
				}
			}
			switch {
			case tag == "template":
				templates++
			case templates > 0:
				// What a template holds is no part of the document.
			case tag == "meta":
				if wantMeta {
					s.readMeta(tokens, start)
					wantMeta = len(s.missing) > 0
				}
			case tag == "body", tag == "svg", tag == "math":
				// SVG and MathML have other rules than the tokenizer's, and
				// both are content of a body.
				wantMeta = false
			}
		case html.EndTagToken:
			name, _ := tokens.TagName()
			switch string(name) {
			case "template":
				templates = max(templates-1, 0)
			case "head", "body", "html":
				wantHead = false
				wantMeta = wantMeta && templates > 0
			case "br":
				wantHead = false
			}
		default: // a comment or the doctype: may stand anywhere
		}
	}
}

// htmlSpace is what the HTML standard calls ASCII whitespace.
const htmlSpace = "\t\n\f\r "

// utf8Mark is a byte order mark, which browsers take off before they parse.
var utf8Mark = []byte("\ufeff")

// isUTF16 says whether a document begins with the mark of UTF-16, which wins
// over any charset. What looks like a tag in there is something else.
func isUTF16(document []byte) bool {
	return bytes.HasPrefix(document, []byte{0xfe, 0xff}) || bytes.HasPrefix(document, []byte{0xff, 0xfe})
}

// readMeta looks at the meta element that the tokenizer has just read, and
// that stands at start. Of several with its name, applications read the first.
func (s *search) readMeta(tokens *html.Tokenizer, start int) {
	var name, content []byte
	var hasContent bool
	for more := true; more; {
		var key, value []byte
		key, value, more = tokens.TagAttr()
		switch string(key) {
		case "name":
			name = value
		case "content":
			content, hasContent = value, true
		}
	}
	i := slices.Index(s.missing, string(name))
	if i < 0 {
		return
	}
	s.missing = slices.Delete(s.missing, i, i+1)
	if !hasContent {
		return
	}
	if changed := override(content, s.edit.Metas, string(name)); changed != nil {
		value, end := contentSpan(tokens.Raw())
		s.contents = append(s.contents, replacement{start + value, start + end, changed})
	}
}

// override sets the flags of one element in its content, a URL-encoded JSON
// object. It returns nil where the content is no such thing: the application
// cannot read it either, or reads it in a way that is not known here.
func override(content []byte, metas []MetaFlags, name string) []byte {
	// As decodeURIComponent: a plus sign is a plus sign, and what is not
	// UTF-8 is an error.
	decoded, err := url.PathUnescape(string(content))
	if err != nil || !utf8.ValidString(decoded) {
		return nil
	}
	var object map[string]json.RawMessage
	// null is valid and leaves the map nil.
	if json.Unmarshal([]byte(decoded), &object) != nil || object == nil {
		return nil
	}
	for _, meta := range metas {
		if meta.Name != name {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(meta.Flags)) {
			setFlag(object, key, meta.Flags[key])
		}
	}
	encoded, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	// As encodeURIComponent, and the five signs that it leaves alone are
	// encoded as well, so that nothing is left that HTML gives a meaning to.
	return []byte(strings.ReplaceAll(url.QueryEscape(string(encoded)), "+", "%20"))
}

// setFlag sets a key, which may lead into nested objects. What stands in the way
// and is no object becomes one.
func setFlag(object map[string]json.RawMessage, key string, value json.RawMessage) {
	name, rest, nested := strings.Cut(key, ".")
	if !nested {
		object[name] = value
		return
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(object[name], &inner) != nil || inner == nil {
		inner = map[string]json.RawMessage{}
	}
	setFlag(inner, rest, value)
	object[name], _ = json.Marshal(inner) // fails for what is no JSON, as the whole would
}

// contentSpan returns where the value of the first content attribute stands
// in a meta element's tag, quotes included. The tokenizer does not tell where
// it found a value, so this walks the tag by the tokenizer's rules; the tag is
// one that the tokenizer has read to its end, with such an attribute.
func contentSpan(tag []byte) (start, end int) {
	i := len("<meta")
	skipSpace := func() {
		for strings.IndexByte(htmlSpace, tag[i]) >= 0 {
			i++
		}
	}
	for {
		skipSpace()
		if tag[i] == '>' {
			return i, i
		}
		key := i
		// An equals sign that begins a name is part of it.
		if tag[i] == '=' {
			i++
		}
		for strings.IndexByte(htmlSpace+"/>=", tag[i]) < 0 {
			i++
		}
		name := tag[key:i]
		skipSpace()
		start, end = i, i
		switch tag[i] {
		case '/':
			i++
		case '=':
			i++
			skipSpace()
			start = i
			switch quote := tag[i]; quote {
			case '"', '\'':
				i += 2 + bytes.IndexByte(tag[i+1:], quote)
			default:
				for strings.IndexByte(htmlSpace+">", tag[i]) < 0 {
					i++
				}
			}
			end = i
		}
		if string(bytes.ToLower(name)) == "content" {
			return start, end
		}
	}
}

// apply makes the changes that were found in the beginning of the document.
func (s *search) apply(document []byte) []byte {
	for _, r := range slices.Backward(s.contents) { // so that the places before stay where they are
		document = slices.Replace(document, r.start, r.end, slices.Concat([]byte{'"'}, r.content, []byte{'"'})...)
	}
	// The head's tag is in front of everything in it, so this place has not
	// moved.
	if s.head > 0 {
		document = slices.Insert(document, s.head, s.edit.Insert...)
	}
	return document
}

// changes says whether apply changes anything.
func (s *search) changes() bool { return s.head > 0 || len(s.contents) > 0 }
