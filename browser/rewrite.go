package browser

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Edit says what to change in a document.
type Edit struct {
	// Insert becomes the first thing in the document's <head>; empty inserts
	// nothing.
	Insert []byte
	// Metas are the <meta> elements in which flags are set.
	Metas []MetaFlags
	// Heads is what earlier documents were like; nil: nothing is known.
	Heads *Heads
	// Private makes every document "Cache-Control: private, no-cache", also
	// one in which nothing is changed: on a site whose documents differ by
	// person, nobody's may be used for somebody else. What forbids even more
	// stays.
	Private bool
}

// MetaFlags are the flags to set in one <meta>. Of several for the same one, the
// later are set after the earlier.
type MetaFlags struct {
	// Name is that of the element, whose content is a URL-encoded JSON object.
	Name string
	// Flags are the keys to set there, each with its JSON value. A dotted key
	// reaches into nested objects and leaves their other members; of two that
	// meet, the longer is set after the shorter.
	Flags map[string]json.RawMessage
}

// Result says what became of a document. The set is closed: metrics have one
// label value for each.
type Result uint8

const (
	// Untouched means that there was no document to insert anything into, or
	// nothing to insert.
	Untouched Result = iota
	// Injected means that Edit.Insert is in the document.
	Injected
	// NoHead means that the document's first 64 KiB have no <head> tag.
	NoHead
	// Encoded means that the document came in a Content-Encoding although
	// none was asked for, so that it could not be read.
	Encoded
	// NoTransform means that the upstream forbids changes to the document.
	NoTransform
	// Cut means that the handlers behind failed before it was known where to
	// insert.
	Cut

	// ResultCount is the number of results, for tables indexed by Result.
	ResultCount
)

var resultNames = [ResultCount]string{
	Untouched:   "untouched",
	Injected:    "injected",
	NoHead:      "no_head",
	Encoded:     "encoded",
	NoTransform: "no_transform",
	Cut:         "cut",
}

// String returns the result as metrics spell it.
func (r Result) String() string { return resultNames[r] }

// PrepareRequest changes the headers of a request so that its answer can be
// edited: a whole document that is not compressed. A browser's conditions are
// removed because what they name is the document as it was edited then, and a
// page that was cached before an opt-out must not be revalidated into use.
func PrepareRequest(h http.Header) {
	h.Set("Accept-Encoding", "identity")
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "If-Range", "Range"} {
		h.Del(name)
	}
}

// ofOriginal lists the headers that describe the document as the upstream
// sent it, and so are wrong for an edited one, as net/http spells them.
var ofOriginal = []string{
	"Content-Length", "Etag", "Last-Modified", "Accept-Ranges",
	"Digest", "Content-Digest", "Repr-Digest", "Content-Md5",
}

// trailersOfOriginal are the same as trailers that are not announced.
var trailersOfOriginal = func() (names []string) {
	for _, name := range ofOriginal {
		names = append(names, http.TrailerPrefix+name)
	}
	return names
}()

const (
	// maxHeld is how much of a document is held until it is known where to
	// change it.
	maxHeld = 64 << 10
	// firstWrite is how much of an edited document is sent at once to begin
	// with, unless it ends or is flushed before. Caddy's encode looks at the
	// first write to tell whether compressing pays, where the document
	// announces no length.
	firstWrite = 4 << 10
)

// state is how far a response has come.
type state uint8

const (
	// waiting: the handlers have not said yet what they answer.
	waiting state = iota
	// holding: a document has begun, and nothing of it was sent, nor its
	// headers.
	holding
	// passing: everything goes straight to the client.
	passing
)

// Response is the http.ResponseWriter of one page, for the handlers behind.
// It edits an HTML document with status 200 while it streams, and passes
// everything else through: other types, statuses and encodings, informational
// responses, upgrades. Apart from the edit, a document's bytes stay as they
// are.
//
// Close must be called when the handlers behind have ended, in whatever way.
// As with any ResponseWriter, its methods must not be called at the same time.
type Response struct {
	w      http.ResponseWriter
	edit   Edit
	state  state
	result Result

	// held is the beginning of a document, begun its header at that moment,
	// and search looks for the places in it; all belong to holding.
	held   *[]byte
	begun  http.Header
	search *search
	// known means that the search has ended.
	known bool
	// flushOwed means that the handlers asked to flush what was held.
	flushOwed bool

	edited bool
	// flagsWanted means that this is a document to set flags in.
	flagsWanted  bool
	flagsApplied bool
}

// buffers holds what documents were held in.
var buffers = sync.Pool{New: func() any {
	buffer := make([]byte, 0, newBuffer)
	return &buffer
}}

// newBuffer is how much a buffer has room for to begin with; most documents
// need no more.
const newBuffer = 16 << 10

// maxPooled bounds what is kept for later: an edit may make a buffer longer
// than what may be held.
const maxPooled = 2 * maxHeld

func release(buffer *[]byte) {
	if cap(*buffer) <= maxPooled {
		*buffer = (*buffer)[:0]
		buffers.Put(buffer)
	}
}

// NewResponse wraps w for the answer to one GET request for a page.
func NewResponse(w http.ResponseWriter, edit Edit) *Response {
	return &Response{w: w, edit: edit}
}

// Header returns the headers that WriteHeader sends.
func (r *Response) Header() http.Header { return r.w.Header() }

// Unwrap returns the writer behind, for http.ResponseController: hijacking and
// deadlines are none of our business. Flushing is, and so is ReadFrom.
func (r *Response) Unwrap() http.ResponseWriter { return r.w }

// WriteHeader sends the status, or keeps it until the document that begins
// with it is sent.
func (r *Response) WriteHeader(status int) {
	informational := status >= 100 && status <= 199 && status != http.StatusSwitchingProtocols
	switch {
	case r.state == holding:
		// The status is known to be 200; a second one does not count.
	case r.state == passing || informational:
		r.w.WriteHeader(status)
	case r.begin(status):
		r.state = holding
		r.held = buffers.Get().(*[]byte)
		r.begun = maps.Clone(r.w.Header())
		r.search = newSearch(&r.edit)
	default:
		r.state = passing
		r.w.WriteHeader(status)
	}
}

// begin looks at the response's headers and says whether it is to be edited.
func (r *Response) begin(status int) bool {
	h := r.w.Header()
	if !isDocument(h) {
		return false
	}
	noTransform := hasDirective(h, "no-transform")
	if r.edit.Private {
		makePrivate(h, noTransform)
	}
	if status != http.StatusOK || len(r.edit.Insert) == 0 && len(r.edit.Metas) == 0 {
		return false
	}
	r.flagsWanted = len(r.edit.Metas) > 0
	switch {
	case noTransform:
		r.result = NoTransform
	case isEncoded(h):
		r.result = Encoded
	default:
		return true
	}
	return false
}

// isDocument says whether a response is an HTML document that a browser shows,
// in an encoding whose tags can be read as ASCII. An attachment is a file to
// keep, and it is kept as it is.
func isDocument(h http.Header) bool {
	contentType, parameters, _ := strings.Cut(h.Get("Content-Type"), ";")
	disposition, _, _ := strings.Cut(h.Get("Content-Disposition"), ";")
	return strings.EqualFold(strings.TrimSpace(contentType), "text/html") &&
		!strings.EqualFold(strings.TrimSpace(disposition), "attachment") &&
		!isOtherCharset(parameters)
}

// otherCharsets lists what the Encoding standard calls UTF-16, ISO-2022-JP and
// replacement: everything that browsers know and that is not like ASCII.
var otherCharsets = map[string]bool{
	"csunicode": true, "iso-10646-ucs-2": true, "ucs-2": true, "unicode": true,
	"unicodefeff": true, "unicodefffe": true, "utf-16": true, "utf-16le": true, "utf-16be": true,
	"csiso2022jp": true, "iso-2022-jp": true, "csiso2022kr": true, "iso-2022-kr": true,
	"hz-gb-2312": true, "iso-2022-cn": true, "iso-2022-cn-ext": true, "replacement": true,
}

func isOtherCharset(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "charset") {
			return otherCharsets[strings.ToLower(strings.Trim(value, "\"' \t"))]
		}
	}
	return false
}

func isEncoded(h http.Header) bool {
	encoding := strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ","))
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// hasDirective says whether Cache-Control holds a directive without a value.
func hasDirective(h http.Header, directive string) bool {
	for _, line := range h.Values("Cache-Control") {
		for element := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(element), directive) {
				return true
			}
		}
	}
	return false
}

func makePrivate(h http.Header, noTransform bool) {
	control := "private, no-cache"
	if hasDirective(h, "no-store") {
		control += ", no-store"
	}
	if noTransform {
		control += ", no-transform"
	}
	h.Set("Cache-Control", control)
}

// Write sends p, or holds it as long as it is not known where to change the
// document.
func (r *Response) Write(p []byte) (int, error) {
	if r.state == waiting {
		r.WriteHeader(http.StatusOK)
	}
	if r.state == passing {
		return r.w.Write(p)
	}
	n := r.hold(p)
	if !r.ready() {
		return n, nil
	}
	if err := r.send(true); err != nil {
		return 0, err
	}
	if r.flushOwed {
		if err := r.FlushError(); err != nil {
			return n, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	rest, err := r.w.Write(p[n:])
	return n + rest, err
}

// hold takes as much of p as may be held and continues the search with it.
func (r *Response) hold(p []byte) int {
	n := min(len(p), maxHeld-len(*r.held))
	*r.held = append(*r.held, p[:n]...)
	if !r.known {
		r.known = r.search.feed(*r.held, false)
	}
	return n
}

// ready says whether to send what is held. What comes out does not depend on
// the pieces in which the document was written: only its first 64 KiB are
// looked at.
func (r *Response) ready() bool {
	held := len(*r.held)
	return held == maxHeld || r.known && (held >= firstWrite || !r.search.changes())
}

// send ends the holding: the headers and what was held go to the client,
// edited where the handlers have not failed. A document that was cut goes out
// as it came, with its own Content-Length, so that the client can tell.
func (r *Response) send(complete bool) error {
	r.state = passing
	if complete && !r.known {
		r.search.feed(*r.held, true)
	}
	r.search.stop()
	defer release(r.held)
	late := r.rewind()
	switch {
	case !complete:
		r.result = Cut
	case r.search.head > 0:
		r.result = Injected
	case len(r.edit.Insert) > 0:
		r.result = NoHead
	}
	if complete && r.search.changes() {
		before := len(*r.held)
		*r.held = r.search.apply(*r.held)
		r.edited = true
		r.flagsApplied = len(r.search.contents) > 0
		r.adaptHeaders(len(*r.held) - before)
	}
	// An encoder in front sends its headers with the first write only.
	defer maps.Copy(r.w.Header(), late)
	r.w.WriteHeader(http.StatusOK)
	if len(*r.held) == 0 {
		return nil
	}
	_, err := r.w.Write(*r.held)
	return err
}

// rewind takes what was set since the document has begun out of the header:
// that is for the trailers, and net/http would not send it any more either.
func (r *Response) rewind() (late http.Header) {
	h := r.w.Header()
	late = http.Header{}
	for name, values := range h {
		if !slices.Equal(values, r.begun[name]) {
			late[name] = values
			delete(h, name)
		}
	}
	maps.Copy(h, r.begun)
	return late
}

// adaptHeaders makes the headers those of a document that the edit has made so
// much longer. One that announced its length still does: nothing that follows
// is changed, and net/http would send it in chunks otherwise.
func (r *Response) adaptHeaders(longer int) {
	announced := r.w.Header().Get("Content-Length")
	r.remove(ofOriginal)
	if announced == "" {
		return
	}
	if length, err := strconv.Atoi(announced); err == nil {
		r.w.Header().Set("Content-Length", strconv.Itoa(length+longer))
	}
}

func (r *Response) remove(names []string) {
	h := r.w.Header()
	for _, name := range names {
		delete(h, name)
	}
}

// FlushError sends to the client what was written. As long as it is not known
// where to change the document, it is put off until that is known.
// http.ResponseController calls it for Flush.
func (r *Response) FlushError() error {
	if r.state == waiting {
		r.WriteHeader(http.StatusOK)
	}
	if r.state == holding {
		if !r.known {
			r.flushOwed = true
			return nil
		}
		if err := r.send(true); err != nil {
			return err
		}
	}
	r.flushOwed = false
	return http.NewResponseController(r.w).Flush()
}

// ReadFrom copies source to the client, for io.Copy. What is not held is
// copied by the writer behind, which can spare the copy altogether.
func (r *Response) ReadFrom(source io.Reader) (int64, error) {
	if r.state == waiting {
		r.WriteHeader(http.StatusOK)
	}
	var copied int64
	if r.state == holding {
		buffer := buffers.Get().(*[]byte)
		defer release(buffer)
		// A buffer from the pool may have grown. What is read beyond the head
		// is lost to the writer behind, so the chunks stay small.
		chunk := (*buffer)[:newBuffer]
		for r.state == holding {
			n, err := source.Read(chunk)
			written, writeErr := r.Write(chunk[:n])
			copied += int64(written)
			switch {
			case writeErr != nil:
				return copied, writeErr
			case errors.Is(err, io.EOF):
				return copied, nil
			case err != nil:
				return copied, err
			}
		}
	}
	rest, err := io.Copy(r.w, source)
	return copied + rest, err
}

// Close ends the document: what is still held is sent. With complete false
// the handlers behind have failed, or panicked, and what is held is sent as
// it came. The error is that of sending.
func (r *Response) Close(complete bool) (Result, error) {
	var err error
	if r.state == holding {
		err = r.send(complete)
		// Whoever failed may drop the connection now, and what was to be
		// flushed would be lost.
		if err == nil && r.flushOwed && !complete {
			err = r.FlushError()
		}
	}
	if r.edited {
		// The headers are sent, so these are trailers, which may hold a
		// digest too.
		r.remove(ofOriginal)
		r.remove(trailersOfOriginal)
	}
	return r.result, err
}

// FlagsMissed says, after Close, whether flags were to be set in the document
// and none are: every element is missing or cannot be read, or the document
// cannot be changed at all.
func (r *Response) FlagsMissed() bool { return r.flagsWanted && !r.flagsApplied }
