package session

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
)

// readBody returns the body of a request, without what it is encoded in and as
// UTF-8, and whether it could be read to its end within the limit. In r.Body it
// leaves what was there. What it returns may be in the unpacker's memory.
func readBody(r *http.Request, limit int, unpack *unpacker) (document []byte, kind contentType, ok bool) {
	switch {
	case r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodConnect: // which has a tunnel there
		return nil, 0, true
	case r.ContentLength > int64(limit):
		return nil, 0, false
	}
	// Clients only announce how long a body is, so more memory is taken as more of
	// it arrives.
	raw, err := readBounded(make([]byte, 0, min(max(r.ContentLength, 512), 16<<10)+1), r.Body, limit)
	r.Body = &replay{head: raw, err: err, body: r.Body}
	switch {
	case !ended(raw, err, limit):
		return nil, 0, false
	case len(raw) == 0:
		return nil, 0, true
	}
	kind, charset := typeOf(r.Header["Content-Type"])
	if charset == unknownCharset {
		return nil, 0, false
	}
	document, ok = unpack.inflate(raw, r.Header["Content-Encoding"], limit)
	if charset == latin1 {
		document = toUTF8(document)
	}
	document = bytes.TrimPrefix(document, byteOrderMark)
	return document, kind, ok && len(document) > 0
}

var byteOrderMark = []byte("\ufeff")

// beaconType is what navigator.sendBeacon makes of a string (Fetch standard,
// "extract a body"), and so the type of nearly every body here.
const beaconType = "text/plain;charset=UTF-8"

// contentType is what a body says it is, as far as that matters for names.
type contentType uint8

const (
	urlEncoded contentType = iota + 1
	multipart
)

// charset is what the bytes of a body stand for.
type charset uint8

const (
	// unknownCharset is read by nobody here. Applications decode others, UTF-7
	// among them, in which a name can be written unseen.
	unknownCharset charset = iota
	utf8Charset
	latin1
)

// typeOf reads the types of a body, which should be one. A charset in the
// extended notation of RFC 2231 (charset*=…) outweighs the plain one for mime,
// and not for applications, so that is unknown.
func typeOf(contentTypes []string) (kind contentType, bytes charset) {
	bytes = utf8Charset
	for i, text := range contentTypes {
		if text == beaconType {
			continue
		}
		lower := strings.ToLower(text)
		switch {
		case strings.HasPrefix(lower, "application/x-www-form-urlencoded"):
			kind = urlEncoded
		case strings.HasPrefix(lower, "multipart/"):
			kind = multipart
		}
		if !strings.Contains(lower, "charset") {
			continue
		}
		_, parameters, err := mime.ParseMediaType(lower)
		switch name := parameters["charset"]; {
		case err != nil || strings.Contains(lower, "*"):
			return kind, unknownCharset
		case name == "utf-8" || name == "utf8" || name == "us-ascii":
		case (name == "iso-8859-1" || name == "latin1") && len(contentTypes) == 1 && i == 0:
			bytes = latin1
		default:
			return kind, unknownCharset
		}
	}
	return kind, bytes
}

// toUTF8 decodes Latin-1, where that makes a difference.
func toUTF8(text []byte) []byte {
	if !bytes.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return text
	}
	decoded := make([]byte, 0, 2*len(text))
	for _, c := range text {
		decoded = utf8.AppendRune(decoded, rune(c))
	}
	return decoded
}

// unpacker is what inflating needs, to be used again: it takes longer to make than
// to use.
type unpacker struct {
	source   bytes.Reader
	gzip     gzip.Reader
	document []byte
}

var unpackers = sync.Pool{New: func() any { return &unpacker{document: make([]byte, 0, 32<<10)} }}

// maxUnpacked bounds what is kept of memory that a large body has made larger.
const maxUnpacked = 128 << 10

// done hands the memory to the next one.
func (u *unpacker) done() {
	u.source.Reset(nil) // is somebody's
	if cap(u.document) <= maxUnpacked {
		unpackers.Put(u)
	}
}

// inflate undoes the Content-Encoding, or what SDKs compress without saying so.
// It knows one layer of gzip or deflate, as body-parser does; anything else, and
// what inflates to more than is read of a body, is not understood. Bytes behind
// the compressed data are refused as well: another reader might take them for
// more of it.
func (u *unpacker) inflate(raw []byte, encodings []string, limit int) ([]byte, bool) {
	encoding := strings.ToLower(textproto.TrimString(strings.Join(encodings, ",")))
	if encoding == "" || encoding == "identity" {
		if encoding = encodingOf(raw); encoding == "" {
			return raw, true
		}
	}
	u.source.Reset(raw)
	var inflater io.Reader = &u.gzip
	var err error
	switch encoding {
	case "gzip", "x-gzip":
		err = u.gzip.Reset(&u.source)
	case "deflate":
		// RFC 9110, section 8.4.1.2: it means zlib, and some clients send the
		// raw data without that wrapper.
		if isZlib(raw) {
			inflater, err = zlib.NewReader(&u.source)
		} else {
			inflater = flate.NewReader(&u.source)
		}
	default:
		return nil, false
	}
	if err != nil {
		return nil, false
	}
	u.document, err = readBounded(u.document[:0], inflater, limit)
	return u.document, ended(u.document, err, limit) && u.source.Len() == 0
}

// encodingOf tells compressed data by its first bytes, as no text begins: of
// zlib those of the window that every encoder takes unless told otherwise.
func encodingOf(raw []byte) string {
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b, 8}):
		return "gzip"
	case len(raw) > 1 && raw[0] == 0x78 && isZlib(raw):
		return "deflate"
	default:
		return ""
	}
}

// isZlib checks the header of RFC 1950, section 2.2: the method and the
// checksum of the first two bytes.
func isZlib(raw []byte) bool {
	return len(raw) >= 2 && raw[0]&0x0f == 8 && (int(raw[0])<<8|int(raw[1]))%31 == 0
}

// readBounded reads until an error, which is io.EOF at the end, or until it
// has read more than the limit, and then there is no error. It begins in the
// memory that it is given.
func readBounded(read []byte, body io.Reader, limit int) ([]byte, error) {
	for len(read) <= limit {
		if len(read) == cap(read) {
			read = slices.Grow(read, min(len(read)+1, limit+1-len(read)))
		}
		n, err := body.Read(read[len(read):min(cap(read), limit+1)])
		read = read[:len(read)+n]
		if err != nil {
			return read, err
		}
	}
	return read, nil
}

// ended says whether what readBounded returned is all there is.
func ended(read []byte, err error, limit int) bool {
	return errors.Is(err, io.EOF) && len(read) <= limit
}

// replay is a body whose beginning was read already. Its buffer is not
// pooled: an HTTP transport may still read a body after the handler that
// passed it on has returned.
type replay struct {
	head []byte
	err  error // what reading head ended with; nil: body goes on
	body io.ReadCloser
}

// Read returns what was read already, and then what follows it.
func (p *replay) Read(into []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(into, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	if p.err != nil {
		return 0, p.err
	}
	return p.body.Read(into)
}

// Close closes the body that was read.
func (p *replay) Close() error { return p.body.Close() }
