package browser

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
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
	// known is a head that the document agrees with so far, so that it need not be
	// searched; seen is how much of the document was looked at.
	known *head
	seen  int

	// unread is what the tokenizer has not taken yet of the last piece.
	unread []byte
	yield  func(struct{}) bool
	next   func() (struct{}, bool)
	stop   func()
	// stopped means that no more of the document comes.
	stopped bool

	places
	// missing are the names of meta elements that have not come yet.
	missing []string
	// position is how far the tokens have come.
	position int
}

// places are what a search finds.
type places struct {
	// head is where Edit.Insert belongs, behind the head's tag; 0 as long as
	// there is none, which is never a place behind a tag.
	head int
	// contents is what to write into meta elements.
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

// Heads remembers how documents began, and what was found there: most of a site's
// have the same head, and comparing costs next to nothing beside a search. It belongs
// to Edits that set the same flags, and all of which insert something, or none. It is
// safe for concurrent use, and empty at first.
type Heads struct {
	known atomic.Pointer[[]*head]
	once  atomic.Uint64 // the hash of what the last document began with
}

// head is a document up to where its search ended, and what it has found, if anything.
// Nothing that follows makes a difference.
type head struct {
	document []byte
	places
}

const (
	// maxHeads is how many are remembered, and maxHead how long one may be.
	maxHeads = 8
	maxHead  = 16 << 10
)

var headSeed = maphash.MakeSeed()

// all returns those that are known, the newest first.
func (h *Heads) all() []*head {
	if h == nil || h.known.Load() == nil {
		return nil
	}
	return *h.known.Load()
}

// like returns one that agrees with the document, as far as both have come, or nil.
func (h *Heads) like(document []byte) *head {
	for _, known := range h.all() {
		if known.agrees(document, 0) {
			return known
		}
	}
	return nil
}

// remember keeps the head of a document. What no two documents in a row have in
// common may be about one person, and is not kept.
func (h *Heads) remember(document []byte, found places) {
	if h == nil || len(document) > maxHead {
		return
	}
	if sum := maphash.Bytes(headSeed, document); h.once.Swap(sum) != sum {
		return
	}
	known := append([]*head{{bytes.Clone(document), found}}, h.all()...)
	known = known[:min(len(known), maxHeads)]
	h.known.Store(&known)
}

// agrees says whether a document is the same from a place on, as far as both have
// come.
func (h *head) agrees(document []byte, from int) bool {
	to := min(len(document), len(h.document))
	return bytes.Equal(document[min(from, to):to], h.document[min(from, to):to])
}

// feed continues the search with the document as far as it has come, and says
// whether it has ended, with or without what was looked for. Last is said of a
// document that ends there.
func (s *search) feed(document []byte, last bool) (ended bool) {
	if s.next == nil {
		if s.seen == 0 {
			s.known = s.edit.Heads.like(document)
		}
		if s.known != nil && s.known.agrees(document, s.seen) {
			s.seen = len(document)
			if len(document) >= len(s.known.document) {
				s.places = s.known.places
				return true
			}
			if !last {
				return false
			}
		}
		s.seen = 0
		s.next, s.stop = iter.Pull(s.run)
	}
	s.unread = document[s.seen:]
	s.seen = len(document)
	_, more := s.next()
	s.unread = nil
	if !more {
		s.edit.Heads.remember(document[:s.position], s.places)
	}
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
	templates := 0
	tokens := html.NewTokenizer(s)
	for wantHead || wantMeta {
		kind := tokens.Next()
		// Where the document stops, the tokenizer makes a token of what it
		// has. Nothing is decided by half a token.
		if s.stopped || kind == html.ErrorToken {
			return
		}
		start, raw := s.position, tokens.Raw()
		s.position += len(raw)
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
					s.head = s.position
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
func (p *places) changes() bool { return p.head > 0 || len(p.contents) > 0 }
