package session_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/metricsgate/metricsgate/session"
)

const maxBody = 256 << 10

var (
	fxa     = namesOf(session.NamesConfig{Body: []string{"uid"}, Match: `^[0-9a-f]{32}$`})
	anyName = namesOf(session.NamesConfig{Body: []string{"uid"}})
)

func namesOf(config session.NamesConfig) *session.Names {
	names, err := session.NewNames(config)
	if err != nil {
		panic(err)
	}
	return names
}

// What comes of a request, as one text: the names, or that there is none.
const (
	nobody    = "nobody"
	notLearnt = "not learnt"
)

func outcome(named []string, learnt bool) string {
	switch {
	case !learnt:
		return notLearnt
	case len(named) == 0:
		return nobody
	}
	return strings.Join(slices.Sorted(slices.Values(named)), " ")
}

const alice = "7d2f4c1ab09e4e53a6c8d1f20b3e9a64"

func post(body io.Reader, contentLength int, encodings ...string) *http.Request {
	return &http.Request{
		Method:        http.MethodPost,
		URL:           &url.URL{Path: "/metrics"},
		Header:        http.Header{"Content-Type": {"text/plain;charset=UTF-8"}, "Content-Encoding": encodings},
		Body:          io.NopCloser(body),
		ContentLength: int64(contentLength),
	}
}

// read reads the names in a body and makes sure that the next reader gets the
// same bytes.
func read(t interface {
	Helper()
	Errorf(string, ...any)
}, n *session.Names, body []byte, encodings ...string,
) string {
	t.Helper()
	r := post(bytes.NewReader(body), len(body), encodings...)
	read := outcome(n.Read(r))
	if next, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(next, body) {
		t.Errorf("the next reader gets %d other bytes (%v) of %d", len(next), err, len(body))
	}
	if r.ContentLength != int64(len(body)) {
		t.Errorf("the length is now %d", r.ContentLength)
	}
	return read
}

func fixture(t testing.TB, file string) []byte {
	t.Helper()
	body, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestBodiesThatBrowsersSend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file, want string
	}{
		{"sync_signup.json", nobody},
		{"signed_in.json", alice},
		{"year_2015.json", nobody},
		{"metrics_errors.json", nobody},
	} {
		body := fixture(t, test.file)
		for _, contentType := range []string{"text/plain;charset=UTF-8", "application/json", ""} {
			r := post(bytes.NewReader(body), len(body))
			r.Header.Set("Content-Type", contentType)
			if got := outcome(fxa.Read(r)); got != test.want {
				t.Errorf("%s as %q names %s, want %s", test.file, contentType, got, test.want)
			}
		}
		for encoding, encode := range encoders {
			for _, encodings := range [][]string{{encoding}, {strings.ToUpper(encoding)}, {" " + encoding}} {
				if got := read(t, fxa, encode(body), encodings...); got != test.want {
					t.Errorf("%s as %q names %s, want %s", test.file, encodings, got, test.want)
				}
			}
		}
	}
}

// TestCharsets: an application that decodes UTF-7 would find a name that is
// none in UTF-8, so what is not UTF-8 is not understood.
func TestCharsets(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]string{
		"":                                     alice,
		"text/plain":                           alice,
		"text/plain;charset=UTF-8":             alice,
		`application/json; charset="utf8"`:     alice,
		"application/json; charset=us-ascii":   alice,
		"application/json; charset=ISO-8859-1": alice,
		"application/json; charset=latin1":     alice,
		"application/json; charset=iso-8859-1\napplication/json; charset=utf-8": notLearnt,
		"application/json; charset=utf-7":                                       notLearnt,
		"application/json; Charset=UTF-16":                                      notLearnt,
		"application/json; charset=":                                            notLearnt,
		"text/plain; charset=utf-7; charset*=utf-8''utf-8":                      notLearnt,
		"text/plain; charset*=utf-8''utf-8":                                     notLearnt,
		"text/plain; Charset*0=utf; charset*1=-7":                               notLearnt,
		"text/plain; charset=utf-8; charset=utf-7":                              notLearnt,
		"charset": notLearnt,
		"application/json\napplication/json; charset=utf-7": notLearnt, // two lines
	} {
		body := `{"uid":"` + alice + `"}`
		r := httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader(body))
		r.Header["Content-Type"] = strings.Split(contentType, "\n")
		if result := outcome(fxa.Read(r)); result != want {
			t.Errorf("%q: %v, want %v", contentType, result, want)
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%q: the upstream reads %q, %v", contentType, left, err)
		}
	}
}

var encoders = map[string]func([]byte) []byte{
	"identity": func(text []byte) []byte { return text },
	"gzip":     gzipped,
	"x-gzip":   gzipped,
	"deflate": func(text []byte) []byte {
		var out bytes.Buffer
		w := zlib.NewWriter(&out)
		return written(w, &out, text)
	},
	"deflate ": func(text []byte) []byte { // without the wrapper
		var out bytes.Buffer
		w, err := flate.NewWriter(&out, flate.BestCompression)
		if err != nil {
			panic(err)
		}
		return written(w, &out, text)
	},
}

func gzipped(text []byte) []byte {
	var out bytes.Buffer
	return written(gzip.NewWriter(&out), &out, text)
}

func written(w io.WriteCloser, out *bytes.Buffer, text []byte) []byte {
	if _, err := w.Write(text); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func TestEncodingsThatAreNotUnderstood(t *testing.T) {
	t.Parallel()
	body := []byte(`{"uid":"none"}`)
	packed := gzipped(body)
	deflated := encoders["deflate"](body)
	for _, test := range []struct {
		name      string
		body      []byte
		encodings []string
	}{
		{"unknown", body, []string{"br"}},
		{"stacked", gzipped(packed), []string{"gzip, gzip"}},
		{"stacked on two lines", gzipped(packed), []string{"gzip", "gzip"}},
		{"identity on top", packed, []string{"gzip, identity"}},
		{"not compressed", body, []string{"gzip"}},
		{"not compressed", body, []string{"deflate"}},
		{"compressed and not said so, cut off", packed[:len(packed)-1], nil},
		{"compressed and not said so, with garbage behind", append(bytes.Clone(deflated), "garbage"...), nil},
		{"compressed twice and not said so", gzipped(packed), nil},
		{"gzip called deflate", packed, []string{"deflate"}},
		{"deflate called gzip", deflated, []string{"gzip"}},
		{"cut off", packed[:len(packed)-1], []string{"gzip"}},
		{"cut off", packed[:5], []string{"gzip"}},
		{"cut off", deflated[:len(deflated)-1], []string{"deflate"}},
		{"a header only", deflated[:2], []string{"deflate"}},
		{"a preset dictionary", []byte{0x78, 0xbb, 0, 0, 0, 0}, []string{"deflate"}},
		{"garbage behind", append(bytes.Clone(packed), "garbage"...), []string{"gzip"}},
		{"garbage behind", append(bytes.Clone(deflated), "garbage"...), []string{"deflate"}},
		{"wrong checksum", append(bytes.Clone(packed[:len(packed)-8]), make([]byte, 8)...), []string{"gzip"}},
	} {
		if result := read(t, anyName, test.body, test.encodings...); result != notLearnt {
			t.Errorf("%s, %q: %v", test.name, test.encodings, result)
		}
	}
}

// TestDamageIsSeen changes each bit of compressed bodies, cuts them everywhere and
// adds to them: what is learnt is what Go's own packages inflate, with one reader
// for each, but for flags of gzip that are reserved (RFC 1952, section 2.3.1.2).
func TestDamageIsSeen(t *testing.T) {
	t.Parallel()
	inflate := map[string]func(io.Reader) (io.ReadCloser, error){
		"gzip":     func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
		"deflate":  zlib.NewReader,
		"deflate ": func(r io.Reader) (io.ReadCloser, error) { return flate.NewReader(r), nil },
	}
	for encoding, inflate := range inflate {
		packed := encoders[encoding]([]byte(`{"uid":"a","events":[{"uid":"uid"},{"uid":"aaaaaaaaaaaaaaaa"}]}`))
		damaged := [][]byte{packed, slices.Concat(packed, packed), slices.Concat(packed, []byte{0})}
		for i := range packed {
			damaged = append(damaged, packed[:i])
			for bit := range 8 {
				changed := bytes.Clone(packed)
				changed[i] ^= 1 << bit
				damaged = append(damaged, changed)
			}
		}
		for _, body := range damaged {
			if encoding == "deflate " && len(body) > 1 && body[0]&0x0f == 8 && (int(body[0])<<8|int(body[1]))%31 == 0 {
				continue // has become zlib
			}
			source, want := bytes.NewReader(body), notLearnt
			if reader, err := inflate(source); err == nil {
				if document, err := io.ReadAll(reader); err == nil && source.Len() == 0 && len(document) > 0 {
					want = oracle(document, []string{"uid"})
				}
			}
			switch {
			case len(body) == 0:
				want = nobody
			case encoding == "gzip" && len(body) > 3 && body[3]>>5 != 0:
				want = notLearnt
			}
			if got := read(t, anyName, body, strings.TrimSpace(encoding)); got != want {
				t.Errorf("%s: %x names %s, want %s", encoding, body, got, want)
			}
		}
	}
}

func TestNoBodyIsNoName(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]io.ReadCloser{
		"nil": nil, "http.NoBody": http.NoBody, "empty and chunked": io.NopCloser(strings.NewReader("")),
	} {
		r := &http.Request{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: body, ContentLength: -1}
		if result := outcome(anyName.Read(r)); result != nobody {
			t.Errorf("%s: %v", name, result)
		}
	}
}

func TestBodiesAtTheLimit(t *testing.T) {
	t.Parallel()
	sized := func(n int) []byte { return []byte(`{"uid":"a"` + strings.Repeat(" ", n-len(`{"uid":"a"}`)) + `}`) }
	for _, declared := range []bool{true, false} {
		for size, want := range map[int]string{
			maxBody - 1: "a", maxBody: "a", maxBody + 1: notLearnt, 2 * maxBody: notLearnt,
		} {
			for encoding, encode := range encoders {
				body := encode(sized(size))
				r := post(bytes.NewReader(body), -1, encoding)
				if declared {
					r.ContentLength = int64(len(body))
				}
				if result := outcome(anyName.Read(r)); result != want {
					t.Errorf("%d bytes as %s, declared %v: %v, want %v", size, encoding, declared, result, want)
				}
				if next, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(next, body) {
					t.Errorf("%d bytes as %s, declared %v: the next reader gets %d (%v)", size, encoding, declared, len(next), err)
				}
			}
		}
	}
}

// endless is a body of zeros that counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(into []byte) (int, error) {
	clear(into)
	e.read += len(into)
	return len(into), nil
}

func TestNoMoreIsReadThanTheLimit(t *testing.T) {
	t.Parallel()
	body := &endless{}
	if result := outcome(anyName.Read(post(body, -1))); result != notLearnt || body.read > maxBody+1 {
		t.Errorf("%v after %d bytes of a body without end", result, body.read)
	}
	body = &endless{}
	r := post(body, maxBody+1)
	if result := outcome(anyName.Read(r)); result != notLearnt || body.read > 0 {
		t.Errorf("%v after %d bytes of a body that announces too many", result, body.read)
	}
}

// TestBombsAreNotInflated counts what is allocated and is therefore not run
// beside other tests.
func TestBombsAreNotInflated(t *testing.T) {
	bomb := gzipped(make([]byte, 16<<20))
	if len(bomb) > maxBody {
		t.Fatalf("a bomb of %d bytes is not even read", len(bomb))
	}
	r := post(bytes.NewReader(bomb), len(bomb), "gzip")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	result := outcome(anyName.Read(r))
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; result != notLearnt || allocated > 1<<20 {
		t.Errorf("%v, and %d bytes are allocated", result, allocated)
	}
}

var errGone = errors.New("the client is gone")

func TestErrorsReachTheNextReader(t *testing.T) {
	t.Parallel()
	const start = `{"uid":"a"}`
	for _, err := range []error{errGone, io.ErrUnexpectedEOF} {
		r := post(io.MultiReader(strings.NewReader(start), iotest.ErrReader(err)), 100)
		if result := outcome(anyName.Read(r)); result != notLearnt {
			t.Errorf("%v: %v", err, result)
		}
		next, got := io.ReadAll(r.Body)
		if string(next) != start || !errors.Is(got, err) {
			t.Errorf("%v: the next reader gets %q, %v", err, next, got)
		}
		if _, again := r.Body.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Errorf("%v: and then %v", err, again)
		}
	}
}

type closer struct {
	io.Reader
	closed int
}

func (c *closer) Close() error { c.closed++; return errGone }

func TestClosingReachesTheBody(t *testing.T) {
	t.Parallel()
	body := &closer{Reader: strings.NewReader(`{}`)}
	r := post(nil, 2)
	r.Body = body
	anyName.Read(r)
	if body.closed != 0 {
		t.Error("reading the name closes the body")
	}
	if err := r.Body.Close(); !errors.Is(err, errGone) || body.closed != 1 {
		t.Errorf("closed %d times, with %v", body.closed, err)
	}
}
