package session_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/session"
)

const maxBody = 128 << 10

var (
	fxa     = &session.BodyName{Field: "uid", Pattern: regexp.MustCompile(`^[0-9a-f]{32}$`)}
	anyName = &session.BodyName{Field: "uid"}
)

const alice = "7d2f4c1ab09e4e53a6c8d1f20b3e9a64"

func post(body io.Reader, contentLength int, encodings ...string) *http.Request {
	return &http.Request{
		Method:        http.MethodPost,
		Header:        http.Header{"Content-Type": {"text/plain;charset=UTF-8"}, "Content-Encoding": encodings},
		Body:          io.NopCloser(body),
		ContentLength: int64(contentLength),
	}
}

// read reads the name in a body and makes sure that the next reader gets the
// same bytes.
func read(t interface {
	Helper()
	Errorf(string, ...any)
}, b *session.BodyName, body []byte, encodings ...string,
) (string, session.NameResult) {
	t.Helper()
	r := post(bytes.NewReader(body), len(body), encodings...)
	name, result := b.Read(r)
	if next, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(next, body) {
		t.Errorf("the next reader gets %d other bytes (%v) of %d", len(next), err, len(body))
	}
	if r.ContentLength != int64(len(body)) {
		t.Errorf("the length is now %d", r.ContentLength)
	}
	if named := result == session.Named; named != (name != "") {
		t.Errorf("result %v with the name %q", result, name)
	}
	return name, result
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
		file, name string
		result     session.NameResult
	}{
		{"sync_signup.json", "", session.NoName},
		{"signed_in.json", alice, session.Named},
		{"year_2015.json", "", session.NoName},
		{"metrics_errors.json", "", session.NoName},
	} {
		body := fixture(t, test.file)
		for _, contentType := range []string{"text/plain;charset=UTF-8", "application/json", ""} {
			r := post(bytes.NewReader(body), len(body))
			r.Header.Set("Content-Type", contentType)
			if name, result := fxa.Read(r); name != test.name || result != test.result {
				t.Errorf("%s as %q names %q, %v; want %q, %v", test.file, contentType, name, result, test.name, test.result)
			}
		}
		for encoding, encode := range encoders {
			for _, encodings := range [][]string{{encoding}, {strings.ToUpper(encoding)}, {" " + encoding}} {
				if name, result := read(t, fxa, encode(body), encodings...); name != test.name || result != test.result {
					t.Errorf("%s as %q names %q, %v; want %q, %v", test.file, encodings, name, result, test.name, test.result)
				}
			}
		}
	}
}

// TestJSONIsReadAsParseDoes has the answers of JSON.parse, which is what the
// application reads the body with. The gate is stricter in two things only: a
// name that is no Unicode, and nesting deeper than 10,000, are not learnt.
func TestJSONIsReadAsParseDoes(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]any{
		`{"uid":"a"}`:                           "a",
		" \t\r\n{ \"uid\" : \"a\" } \n":         "a",
		`{"uid":"a","uid":"b"}`:                 "b",
		`{"uid":1,"uid":"b"}`:                   "b",
		`{"uid":"a","uid":"none"}`:              session.NoName,
		`{"uid":"a","uid":1}`:                   session.NotLearnt,
		`{"\u0075\u0069\u0064":"a"}`:            "a",
		`{"uid":"a","u\u0069d":"b"}`:            "b",
		`{"u\u0069d":"a","uid":"b"}`:            "b",
		`{"uid":"\u0061\/\"\\\u00e9"}`:          `a/"\é`,
		`{"uid":"n\u006fne"}`:                   session.NoName,
		`{"uid":"漢字\u2028"}`:                    "漢字\u2028",
		`{"uid":"\ud83d\ude00"}`:                "😀",
		`{"UID":"a","Uid":"b"}`:                 session.NoName,
		`{"x":"uid","y":"a","uid ":"b"}`:        session.NoName,
		`{"x":{"uid":"a"},"y":[{"uid":"b"}]}`:   session.NoName,
		`{"x":{"uid":"a"},"uid":"b","y":[1,2]}`: "b",
		`{"uid":"b","x":{"uid":"a"}}`:           "b",
		`{"x":"\"uid\":\"a\"","y":"}{]["}`:      session.NoName,
		`{"x":"\\","uid":"a"}`:                  "a",
		`{"x":"\\\"","uid":"a"}`:                "a",
		`{"__proto__":{"uid":"a"}}`:             session.NoName,
		`{"x":1e999,"uid":"a"}`:                 "a",
		`{}`:                                    session.NoName,
		`{"":""}`:                               session.NoName,
		`"uid"`:                                 session.NoName,
		`[{"uid":"a"}]`:                         session.NoName,
		`["uid","a"]`:                           session.NoName,
		`null`:                                  session.NoName,
		`1`:                                     session.NoName,
		``:                                      session.NoName,
		` `:                                     session.NotLearnt,
		`uid=a`:                                 session.NotLearnt,
		`{"uid":"a"`:                            session.NotLearnt,
		`{"uid":"a"}}`:                          session.NotLearnt,
		`{"uid":"a"} {"uid":"none"}`:            session.NotLearnt,
		`{"uid":"a",}`:                          session.NotLearnt,
		`{'uid':'a'}`:                           session.NotLearnt,
		`{"uid":"a" /* none */}`:                session.NotLearnt,
		"{\"uid\":\"a\nb\"}":                    session.NotLearnt,
		"\ufeff{\"uid\":\"a\"}":                 session.NotLearnt,
		"{\x00\"\x00u\x00i\x00d\x00\"\x00:\x00": session.NotLearnt,
		`{"uid":null}`:                          session.NotLearnt,
		`{"uid":true}`:                          session.NotLearnt,
		`{"uid":["a"]}`:                         session.NotLearnt,
		`{"uid":{"uid":"a"}}`:                   session.NotLearnt,
		`{"uid":""}`:                            session.NotLearnt,
		`{"uid":"a\u0000"}`:                     session.NotLearnt,
		`{"uid":"a\u007f"}`:                     session.NotLearnt,
		`{"uid":"\ud800"}`:                      session.NotLearnt,
		"{\"uid\":\"a\xff\"}":                   session.NotLearnt,
		`{"uid":"` + strings.Repeat("u", 255) + `"}`:                                        strings.Repeat("u", 255),
		`{"uid":"` + strings.Repeat("u", 256) + `"}`:                                        session.NotLearnt,
		`{"uid":"a","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`: session.NotLearnt,
		strings.Repeat("[", 9000) + `{"uid":"a"}` + strings.Repeat("]", 9000):               session.NoName,
	} {
		name, result := read(t, anyName, []byte(body))
		var got any = result
		if result == session.Named {
			got = name
		}
		if got != want {
			t.Errorf("%.60q gives %v, want %v", body, got, want)
		}
	}
}

// TestCharsets: an application that decodes UTF-7 would find a name that is
// none in UTF-8, so what is not UTF-8 is not understood.
func TestCharsets(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]session.NameResult{
		"":                                   session.Named,
		"text/plain":                         session.Named,
		"text/plain;charset=UTF-8":           session.Named,
		`application/json; charset="utf8"`:   session.Named,
		"application/json; charset=us-ascii": session.Named,
		"application/json; charset=utf-7":    session.NotLearnt,
		"application/json; Charset=UTF-16":   session.NotLearnt,
		"application/json; charset=":         session.NotLearnt,
		"text/plain; charset=utf-7; charset*=utf-8''utf-8": session.NotLearnt,
		"text/plain; charset*=utf-8''utf-8":                session.NotLearnt,
		"text/plain; Charset*0=utf; charset*1=-7":          session.NotLearnt,
		"text/plain; charset=utf-8; charset=utf-7":         session.NotLearnt,
		"charset": session.NotLearnt,
		"application/json\napplication/json; charset=utf-7": session.NotLearnt, // two lines
	} {
		body := `{"uid":"` + alice + `"}`
		r := httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader(body))
		r.Header["Content-Type"] = strings.Split(contentType, "\n")
		if _, result := fxa.Read(r); result != want {
			t.Errorf("%q: %v, want %v", contentType, result, want)
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%q: the upstream reads %q, %v", contentType, left, err)
		}
	}
}

func TestNamesMatchThePattern(t *testing.T) {
	t.Parallel()
	for uid, want := range map[string]session.NameResult{
		alice:                  session.Named,
		"none":                 session.NoName,
		"None":                 session.NotLearnt,
		strings.ToUpper(alice): session.NotLearnt,
		alice[1:]:              session.NotLearnt,
		alice + "0":            session.NotLearnt,
		alice + `\n`:           session.NotLearnt,
		alice + " ":            session.NotLearnt,
	} {
		if _, result := read(t, fxa, []byte(`{"uid":"`+uid+`"}`)); result != want {
			t.Errorf("%q is %v, want %v", uid, result, want)
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
		{"compressed and not said so", packed, nil},
		{"gzip called deflate", packed, []string{"deflate"}},
		{"deflate called gzip", deflated, []string{"gzip"}},
		{"cut off", packed[:len(packed)-1], []string{"gzip"}},
		{"cut off", packed[:5], []string{"gzip"}},
		{"cut off", deflated[:len(deflated)-1], []string{"deflate"}},
		{"a header only", deflated[:2], []string{"deflate"}},
		{"a preset dictionary", []byte{0x78, 0xbb, 0, 0, 0, 0}, []string{"deflate"}},
		{"garbage behind", append(bytes.Clone(packed), "garbage"...), []string{"gzip"}},
		{"garbage behind", append(bytes.Clone(deflated), "garbage"...), []string{"deflate"}},
		{"two members make two documents", append(bytes.Clone(packed), packed...), []string{"gzip"}},
		{"wrong checksum", append(bytes.Clone(packed[:len(packed)-8]), make([]byte, 8)...), []string{"gzip"}},
	} {
		if _, result := read(t, anyName, test.body, test.encodings...); result != session.NotLearnt {
			t.Errorf("%s, %q: %v", test.name, test.encodings, result)
		}
	}
}

func TestNoBodyIsNoName(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]io.ReadCloser{
		"nil": nil, "http.NoBody": http.NoBody, "empty and chunked": io.NopCloser(strings.NewReader("")),
	} {
		r := &http.Request{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: body, ContentLength: -1}
		if _, result := anyName.Read(r); result != session.NoName {
			t.Errorf("%s: %v", name, result)
		}
	}
}

func TestBodiesAtTheLimit(t *testing.T) {
	t.Parallel()
	sized := func(n int) []byte { return []byte(`{"uid":"a"` + strings.Repeat(" ", n-len(`{"uid":"a"}`)) + `}`) }
	for _, declared := range []bool{true, false} {
		for size, want := range map[int]session.NameResult{
			maxBody - 1: session.Named, maxBody: session.Named, maxBody + 1: session.NotLearnt, 2 * maxBody: session.NotLearnt,
		} {
			for encoding, encode := range encoders {
				body := encode(sized(size))
				r := post(bytes.NewReader(body), -1, encoding)
				if declared {
					r.ContentLength = int64(len(body))
				}
				if _, result := anyName.Read(r); result != want {
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
	if _, result := anyName.Read(post(body, -1)); result != session.NotLearnt || body.read > maxBody+1 {
		t.Errorf("%v after %d bytes of a body without end", result, body.read)
	}
	body = &endless{}
	r := post(body, maxBody+1)
	if _, result := anyName.Read(r); result != session.NotLearnt || body.read > 0 {
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
	_, result := anyName.Read(r)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; result != session.NotLearnt || allocated > 1<<20 {
		t.Errorf("%v, and %d bytes are allocated", result, allocated)
	}
}

var errGone = errors.New("the client is gone")

func TestErrorsReachTheNextReader(t *testing.T) {
	t.Parallel()
	const start = `{"uid":"a"}`
	for _, err := range []error{errGone, io.ErrUnexpectedEOF} {
		r := post(io.MultiReader(strings.NewReader(start), iotest.ErrReader(err)), 100)
		if _, result := anyName.Read(r); result != session.NotLearnt {
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

// oracle reads the name with encoding/json, whose maps agree with JSON.parse
// in all that counts here.
func oracle(document []byte) (string, session.NameResult) {
	if len(document) == 0 {
		return "", session.NoName
	}
	var object map[string]json.RawMessage
	var name string
	var notObject *json.UnmarshalTypeError
	switch err := json.Unmarshal(document, &object); {
	case errors.As(err, &notObject):
		return "", session.NoName
	case err != nil:
		return "", session.NotLearnt
	}
	value, ok := object["uid"]
	switch {
	case !ok:
		return "", session.NoName
	case value[0] != '"' || json.Unmarshal(value, &name) != nil:
		return "", session.NotLearnt
	case name == "none":
		return "", session.NoName
	case len(name) > 255 || !readable.MatchString(name):
		return "", session.NotLearnt
	}
	return name, session.Named
}

var readable = regexp.MustCompile(`^[^\p{Cc}\x{fffd}]+$`)

// TestDocumentsAgreeWithTheOracle builds documents of the pieces that matter,
// valid ones for the most part, and has them arrive in all kinds of ways.
func TestDocumentsAgreeWithTheOracle(t *testing.T) {
	t.Parallel()
	text := rapid.SampledFrom([]string{
		`"uid"`, `"u\u0069d"`, `"\u0075\u0069\u0064"`, `"Uid"`, `"none"`, `"n\u006fne"`, `"` + alice + `"`, `""`,
		`"\\"`, `"\""`, `"\\\""`, `"{"`, `"]"`, `":"`, `"\ud800"`, `"\u0000"`, `"é"`, "\"\xff\"", `"` + strings.Repeat("é", 128) + `"`,
	})
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n", "\t\r"})
	scalar := rapid.OneOf(text, rapid.SampledFrom([]string{"null", "true", "0", "-1.5e+9", "1e999"}))
	var value func(depth int) *rapid.Generator[string]
	object := func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			pairs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
				return space.Draw(t, "") + text.Draw(t, "key") + space.Draw(t, "") + ":" + space.Draw(t, "") +
					value(depth-1).Draw(t, "value") + space.Draw(t, "")
			}), 0, 4).Draw(t, "pairs")
			return "{" + strings.Join(pairs, ",") + "}"
		})
	}
	value = func(depth int) *rapid.Generator[string] {
		if depth <= 0 {
			return scalar
		}
		list := rapid.Custom(func(t *rapid.T) string {
			return "[" + strings.Join(rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list"), ",") + "]"
		})
		return rapid.OneOf(scalar, object(depth), list)
	}
	arrivals := map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
		"in halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
	}
	rapid.Check(t, func(t *rapid.T) {
		document := space.Draw(t, "") + rapid.OneOf(object(3), value(2)).Draw(t, "document") +
			rapid.SampledFrom([]string{"", "", "", "", " ", "x", "{}"}).Draw(t, "behind")
		wantName, want := oracle([]byte(document))
		encoding := rapid.SampledFrom(slices.Sorted(maps.Keys(encoders))).Draw(t, "encoding")
		arrival := rapid.SampledFrom(slices.Sorted(maps.Keys(arrivals))).Draw(t, "arrival")
		body := encoders[encoding]([]byte(document))
		r := post(arrivals[arrival](bytes.NewReader(body)), -1, encoding)
		if name, result := anyName.Read(r); name != wantName || result != want {
			t.Fatalf("%q names %q, %v; want %q, %v", document, name, result, wantName, want)
		}
		if next, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(next, body) {
			t.Fatalf("the next reader gets %q, %v, not %q", next, err, body)
		}
	})
}

// FuzzBodyName holds the reader against the oracle for any body, and makes
// sure that no encoding and no garbage keeps the next reader from its bytes.
func FuzzBodyName(f *testing.F) {
	for _, file := range []string{"sync_signup.json", "signed_in.json", "year_2015.json", "metrics_errors.json"} {
		f.Add(fixture(f, file), "")
		f.Add(gzipped(fixture(f, file)), "gzip")
	}
	for _, body := range []string{
		`{"uid":"a","uid":"none"}`, `{"u\u0069d":"\ud800"}`, `{"x":{"uid":"a"}}`, `[{"uid":"a"}]`, `{"uid":1}`, "{\"uid\":\"\xff\"}",
		` {"x":"\\","uid":"a"} `, `{"uid":"a"}x`, "\ufeff{}", `"`, `{"uid"`, `{"uid":`,
	} {
		f.Add([]byte(body), "")
		f.Add(encoders["deflate"]([]byte(body)), "deflate")
		f.Add(encoders["deflate "]([]byte(body)), "deflate")
	}
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		name, result := read(t, anyName, body, encoding)
		if encoding != "" {
			return
		}
		if wantName, want := oracle(body); len(body) <= maxBody && (name != wantName || result != want) {
			t.Errorf("%q names %q, %v; want %q, %v", body, name, result, wantName, want)
		}
	})
}

func BenchmarkBodyName(b *testing.B) {
	body := fixture(b, "signed_in.json")
	for _, encoding := range []string{"identity", "gzip"} {
		b.Run(encoding, func(b *testing.B) {
			packed := encoders[encoding](body)
			source := bytes.NewReader(packed)
			r := post(source, len(packed), encoding)
			original := r.Body
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				source.Reset(packed)
				r.Body = original
				if _, result := fxa.Read(r); result != session.Named {
					b.Fatal(result)
				}
			}
		})
	}
	b.Run("oracle", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			oracle(body)
		}
	})
	// The most work that one body can ask for.
	for name, unit := range map[string]string{"escapes": `"\u0075":0,`, "brackets": `"":[],`, "quotes": `"\"":"",`} {
		b.Run("worst="+name, func(b *testing.B) {
			hostile := fmt.Appendf(nil, `{%s"uid":"none"}`, strings.Repeat(unit, (maxBody-32)/len(unit)))
			b.SetBytes(int64(len(hostile)))
			b.ReportAllocs()
			for b.Loop() {
				if _, result := anyName.Read(post(bytes.NewReader(hostile), len(hostile))); result != session.NoName {
					b.Fatal(result)
				}
			}
		})
	}
}
