package session

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/metricsgate/metricsgate/policy"
)

// NameResult says whether a body names an account.
type NameResult uint8

const (
	// NotLearnt means that there may be a name and it could not be read. It
	// is the zero value, because it is never the same as NoName.
	NotLearnt NameResult = iota
	// NoName means that the body was read to its end and names nobody.
	NoName
	// Named means that the body names an account.
	Named
)

// BodyName reads the account that a JSON body names, whatever the body's
// Content-Type: beacons are text/plain. Nobody has proven such a name.
type BodyName struct {
	// Field is the top-level string field that holds the name.
	Field string
	// Pattern is what a name must match; nil allows any.
	Pattern *regexp.Regexp
}

// maxBodyBytes bounds what is read of a body, compressed and inflated. It is
// above the 100 KiB of body-parser, so that whatever the application would
// accept can be read here.
const maxBodyBytes = 128 << 10

// nobody is how FxA's clients say that no account is signed in.
const nobody = "none"

// Read returns the name in the body of r and leaves in r.Body what was there:
// the next reader gets the same bytes, and the same error where there was
// one. The field is read as JSON.parse would, so that the gate sees the name
// that the application sees: the last duplicate wins, letter case counts, and
// fields of nested objects do not.
//
// A body that announces more than 128 KiB is not read at all, so that a
// client that waits for "100 Continue" never sends it.
func (b *BodyName) Read(r *http.Request) (name string, result NameResult) {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return "", NoName
	case r.ContentLength > maxBodyBytes:
		return "", NotLearnt
	}
	raw, err := readBounded(r.Body, r.ContentLength)
	r.Body = &replay{head: raw, err: err, body: r.Body}
	switch {
	case !ended(raw, err):
		return "", NotLearnt
	case len(raw) == 0:
		return "", NoName
	}
	if !isUTF8(r.Header["Content-Type"]) {
		return "", NotLearnt
	}
	document, ok := inflate(raw, r.Header["Content-Encoding"])
	if !ok {
		return "", NotLearnt
	}
	value, isJSON := b.find(document)
	switch {
	case !isJSON:
		return "", NotLearnt
	case value == nil:
		return "", NoName
	case value.Kind() == jsontext.KindString:
		name = unquote(value)
	}
	switch {
	case name == nobody:
		return "", NoName
	case !policy.IsUID(name), b.Pattern != nil && !b.Pattern.MatchString(name):
		return "", NotLearnt
	}
	return name, Named
}

// beaconType is what navigator.sendBeacon makes of a string (Fetch standard,
// "extract a body"), and so the type of nearly every body here.
const beaconType = "text/plain;charset=UTF-8"

// isUTF8 says whether a body of these types, which should be one, is to be
// read as UTF-8. Applications decode others, UTF-7 among them, in which a name
// can be written unseen. A charset in the extended notation of RFC 2231
// (charset*=…) outweighs the plain one for mime, and not for applications, so
// that is read by nobody.
func isUTF8(contentTypes []string) bool {
	return !slices.ContainsFunc(contentTypes, func(contentType string) bool {
		if contentType == beaconType || !strings.Contains(strings.ToLower(contentType), "charset") {
			return false
		}
		if strings.Contains(contentType, "*") {
			return true // which is not UTF-8
		}
		_, parameters, err := mime.ParseMediaType(contentType)
		charset := strings.ToLower(parameters["charset"])
		return err != nil || charset != "utf-8" && charset != "utf8" && charset != "us-ascii"
	})
}

// likeParse reads JSON as JSON.parse does: a field may be there twice, and what
// is no Unicode does not matter.
var likeParse = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// find returns the last value of the field in a JSON document, or nil where
// the document is not an object or has no such field, and whether it is JSON
// at all. encoding/json takes twice as long only to say whether it is.
func (b *BodyName) find(document []byte) (value jsontext.Value, isJSON bool) {
	d := jsontext.NewDecoder(bytes.NewBuffer(document), likeParse...)
	if d.PeekKind() != jsontext.KindBeginObject {
		return nil, jsontext.Value(document).IsValid(likeParse...)
	}
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() != jsontext.KindEndObject {
		value, err = b.member(d, value)
	}
	if err == nil {
		_, err = d.ReadToken() // the object's end
	}
	if err == nil {
		_, err = d.ReadToken() // nothing may follow
	}
	return value, errors.Is(err, io.EOF)
}

// member reads the next member of an object, and returns its value if it is the
// field.
func (b *BodyName) member(d *jsontext.Decoder, otherwise jsontext.Value) (jsontext.Value, error) {
	name, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	isField := b.isField(name)
	value, err := d.ReadValue()
	if !isField {
		return otherwise, err
	}
	return value.Clone(), err // the decoder's own does not last
}

func (b *BodyName) isField(name jsontext.Value) bool {
	if bytes.IndexByte(name, '\\') < 0 {
		return string(name[1:len(name)-1]) == b.Field
	}
	return unquote(name) == b.Field
}

// unquote decodes a valid JSON string. What is no Unicode in it becomes the
// replacement character, which no account id may hold.
func unquote(text jsontext.Value) string {
	decoded, _ := jsontext.AppendUnquote(nil, text)
	return string(decoded)
}

// inflate undoes the Content-Encoding. It knows one layer of gzip or deflate,
// as body-parser does; anything else, and what inflates to more than is read
// of a body, is not understood. Bytes behind the compressed data are refused
// as well: another reader might take them for more of it.
func inflate(raw []byte, encodings []string) ([]byte, bool) {
	encoding := strings.ToLower(textproto.TrimString(strings.Join(encodings, ",")))
	if encoding == "" || encoding == "identity" {
		return raw, true
	}
	source := bytes.NewReader(raw)
	var inflater io.Reader
	var err error
	switch encoding {
	case "gzip", "x-gzip":
		inflater, err = gzip.NewReader(source)
	case "deflate":
		// RFC 9110, section 8.4.1.2: it means zlib, and some clients send the
		// raw data without that wrapper.
		if isZlib(raw) {
			inflater, err = zlib.NewReader(source)
		} else {
			inflater = flate.NewReader(source)
		}
	default:
		return nil, false
	}
	if err != nil {
		return nil, false
	}
	document, err := readBounded(inflater, 0)
	return document, ended(document, err) && source.Len() == 0
}

// isZlib checks the header of RFC 1950, section 2.2: the method and the
// checksum of the first two bytes.
func isZlib(raw []byte) bool {
	return len(raw) >= 2 && raw[0]&0x0f == 8 && (int(raw[0])<<8|int(raw[1]))%31 == 0
}

// readBounded reads until an error, which is io.EOF at the end, or until it
// has read more than maxBodyBytes, and then there is no error. The first
// buffer fits the expected size where that is known and modest; clients only
// announce it, so more memory is taken as more arrives.
func readBounded(body io.Reader, expected int64) ([]byte, error) {
	read := make([]byte, 0, min(max(expected, 512), 8<<10)+1)
	for len(read) <= maxBodyBytes {
		if len(read) == cap(read) {
			read = slices.Grow(read, len(read))
		}
		n, err := body.Read(read[len(read):min(cap(read), maxBodyBytes+1)])
		read = read[:len(read)+n]
		if err != nil {
			return read, err
		}
	}
	return read, nil
}

// ended says whether what readBounded returned is all there is.
func ended(read []byte, err error) bool {
	return errors.Is(err, io.EOF) && len(read) <= maxBodyBytes
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
