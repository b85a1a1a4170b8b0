package browser_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/browser"
)

const (
	page     = `<!DOCTYPE html><html><head><title>x</title></head><body>x</body></html>`
	injected = `<!DOCTYPE html><html><head>` + insertTag + `<title>x</title></head><body>x</body></html>`
)

// describing are headers that describe the bytes of page.
var describing = http.Header{
	"Content-Type":   {"text/html"},
	"Content-Length": {strconv.Itoa(len(page))},
	"Etag":           {`"1"`},
	"Last-Modified":  {"Mon, 24 Nov 2025 10:00:00 GMT"},
	"Accept-Ranges":  {"bytes"},
	"Digest":         {"sha-256=x"},
	"Content-Digest": {"sha-256=:x:"},
	"Repr-Digest":    {"sha-256=:x:"},
	"Content-Md5":    {"x"},
	"Vary":           {"Cookie"},
	"Set-Cookie":     {"a=b"},
}

// answer sends page with these headers and status through a Response.
func answer(edit browser.Edit, status int, headers http.Header, complete bool) (*http.Response, browser.Result, error) {
	recorder := httptest.NewRecorder()
	response := browser.NewResponse(recorder, edit)
	maps.Copy(response.Header(), headers)
	response.WriteHeader(status)
	_, _ = io.WriteString(response, page)
	result, err := response.Close(complete)
	return recorder.Result(), result, err
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// with returns describing with one more header.
func with(name, value string) http.Header {
	h := describing.Clone()
	h.Set(name, value)
	return h
}

func TestWhatIsRewritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status  int
		headers http.Header
		result  browser.Result
	}{
		"a document":                   {200, describing, browser.Injected},
		"odd spelling":                 {200, with("Content-Type", ` Text/HTML ;charset="utf-8"`), browser.Injected},
		"another ASCII-like charset":   {200, with("Content-Type", `text/html; charset=shift_jis`), browser.Injected},
		"identity encoding":            {200, with("Content-Encoding", "identity"), browser.Injected},
		"shown although it has a name": {200, with("Content-Disposition", `inline; filename="attachment"`), browser.Injected},
		"other directives":             {200, with("Cache-Control", `no-cache, x="no-transform-at-all"`), browser.Injected},
		"JSON":                         {200, with("Content-Type", "application/json"), browser.Untouched},
		"XHTML":                        {200, with("Content-Type", "application/xhtml+xml"), browser.Untouched},
		"text/html-like":               {200, with("Content-Type", "text/htmlx"), browser.Untouched},
		"events":                       {200, with("Content-Type", "text/event-stream"), browser.Untouched},
		"no type":                      {200, with("Content-Type", ""), browser.Untouched},
		"UTF-16":                       {200, with("Content-Type", `text/html; x=y; Charset="UTF-16LE"`), browser.Untouched},
		"a download":                   {200, with("Content-Disposition", `Attachment; filename=x.html`), browser.Untouched},
		"not found":                    {404, describing, browser.Untouched},
		"part of a document":           {206, describing, browser.Untouched},
		"an error":                     {500, describing, browser.Untouched},
		"gzip":                         {200, with("Content-Encoding", "gzip"), browser.Encoded},
		"an unknown encoding":          {200, with("Content-Encoding", "x-secret"), browser.Encoded},
		"no-transform":                 {200, with("Cache-Control", `max-age=0, No-Transform`), browser.NoTransform},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, result, err := answer(insertEdit, test.status, test.headers, true)
			if result != test.result || err != nil || response.StatusCode != test.status {
				t.Errorf("%d, %v, %v; want %d, %v", response.StatusCode, result, err, test.status, test.result)
			}
			want := page
			if test.result == browser.Injected {
				want = injected
			}
			if got := bodyOf(t, response); got != want {
				t.Errorf("got %q", got)
			}
			for name, values := range test.headers {
				kept := response.Header.Get(name) == values[0]
				gone := test.result == browser.Injected && strings.Contains(
					"Content-Length Etag Last-Modified Accept-Ranges Digest Content-Digest Repr-Digest Content-Md5", name)
				if kept == gone {
					t.Errorf("%s: %q", name, response.Header.Values(name))
				}
			}
			if got := response.Header.Get("Content-Length"); got != "" && got != strconv.Itoa(len(want)) {
				t.Errorf("Content-Length is %s for %d bytes", got, len(want))
			}
		})
	}
}

// What is not edited keeps what the upstream said of it.
func TestHeadersStayWhereNothingChanges(t *testing.T) {
	t.Parallel()
	other := flagsEdit
	other.Metas = []browser.MetaFlags{{Name: "other", Flags: flagsEdit.Metas[0].Flags}}
	for name, test := range map[string]struct {
		edit     browser.Edit
		complete bool
		result   browser.Result
	}{
		"nothing to change":   {browser.Edit{}, true, browser.Untouched},
		"flags not there":     {other, true, browser.Untouched},
		"the document is cut": {insertEdit, false, browser.Cut},
	} {
		response, result, err := answer(test.edit, http.StatusOK, describing, test.complete)
		if body := bodyOf(t, response); body != page || result != test.result || err != nil {
			t.Errorf("%s: %q, %v, %v", name, body, result, err)
		}
		for header, values := range describing {
			if got := response.Header.Get(header); got != values[0] {
				t.Errorf("%s: %s is %q", name, header, got)
			}
		}
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status    int
		mediaType string
		before    string
		after     string
	}{
		{200, "text/html", "", "private, no-cache"},
		{200, "text/html", "public, max-age=300", "private, no-cache"},
		{404, "text/html", "public, max-age=300", "private, no-cache"},
		{200, "text/html", "No-Store, max-age=1", "private, no-cache, no-store"},
		{200, "text/html", "public, no-transform", "private, no-cache, no-transform"},
		{200, "text/css", "public, max-age=300", "public, max-age=300"},
	} {
		headers := http.Header{"Content-Type": {test.mediaType}, "Cache-Control": {test.before}}
		response, _, _ := answer(browser.Edit{Private: true}, test.status, headers, true)
		if got := response.Header.Get("Cache-Control"); got != test.after {
			t.Errorf("%d %s %q: %q, want %q", test.status, test.mediaType, test.before, got, test.after)
		}
		if bodyOf(t, response) != page {
			t.Errorf("%d %s %q: the document has changed", test.status, test.mediaType, test.before)
		}
	}
}

func TestPrepareRequest(t *testing.T) {
	t.Parallel()
	h := http.Header{
		"Accept-Encoding": {"gzip", "br"}, "If-None-Match": {`"1"`}, "If-Modified-Since": {"x"},
		"If-Range": {"x"}, "Range": {"bytes=0-1"}, "Accept": {"text/html"}, "Cookie": {"a=b"},
	}
	browser.PrepareRequest(h)
	if got := fmt.Sprint(h); got != "map[Accept:[text/html] Accept-Encoding:[identity] Cookie:[a=b]]" {
		t.Error(got)
	}
}

func TestResultsHaveNames(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, browser.ResultCount)
	for result := range browser.ResultCount {
		names = append(names, result.String())
	}
	if got := strings.Join(names, " "); got != "untouched injected no_head encoded no_transform cut" {
		t.Error(got)
	}
}

// A handler that answers nothing leaves the answer to whoever comes next.
func TestNothingIsWrittenWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for _, complete := range []bool{true, false} {
		client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
		response := browser.NewResponse(client, insertEdit)
		if result, err := response.Close(complete); result != browser.Untouched || err != nil || client.status != 0 {
			t.Errorf("complete %v: %v, %v, status %d", complete, result, err, client.status)
		}
	}
}

func TestAnAnswerWithoutBodyKeepsItsStatus(t *testing.T) {
	t.Parallel()
	client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
	response := browser.NewResponse(client, insertEdit)
	response.WriteHeader(http.StatusOK)
	response.WriteHeader(http.StatusTeapot)
	if client.status != 0 {
		t.Errorf("status %d was sent before the document", client.status)
	}
	if result, err := response.Close(true); result != browser.NoHead || err != nil || client.status != http.StatusOK || client.size != 0 {
		t.Errorf("%v, %v, status %d, %d bytes", result, err, client.status, client.size)
	}
}

// An encoder in front sees by the first write that compressing pays, unless
// the handler wanted less to be sent.
func TestTheFirstWriteIsNotSmall(t *testing.T) {
	t.Parallel()
	document := page + strings.Repeat("x", 10_000)
	client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
	response := browser.NewResponse(client, insertEdit)
	for _, piece := range inPieces(document, 1) {
		_, _ = io.WriteString(response, piece)
	}
	_, _ = response.Close(true)
	if client.first < 4<<10 || client.size != len(document)+len(insertTag) {
		t.Errorf("%d bytes in the first write, %d in all", client.first, client.size)
	}
}

// However much an upstream sends, and however it sends it, no more than 64 KiB
// wait for a place to insert.
func TestHeldBytesAreBounded(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 1000, 1 << 20} {
		client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
		response := browser.NewResponse(client, bothEdit)
		written := 0
		for _, piece := range inPieces("<head>"+strings.Repeat(" ", 1<<20), size) {
			n, _ := io.WriteString(response, piece)
			written += n
			if waiting := written - client.size; waiting > held {
				t.Fatalf("in pieces of %d: %d bytes wait", size, waiting)
			}
		}
		if result, _ := response.Close(true); result != browser.Injected {
			t.Errorf("in pieces of %d: %v", size, result)
		}
	}
}

func TestALargeDocumentTakesConstantMemory(t *testing.T) {
	const size = 50 << 20
	chunk := bytes.Repeat([]byte("<p>0123456789</p>"), 2000)
	stream := func(send func(response *browser.Response)) (allocated uint64) {
		client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
		response := browser.NewResponse(client, bothEdit)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = io.WriteString(response, "<head>")
		send(response)
		result, _ := response.Close(true)
		runtime.ReadMemStats(&after)
		if client.size < size || result != browser.Injected {
			t.Fatalf("%d bytes, %v", client.size, result)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, send := range map[string]func(*browser.Response){
		"Write": func(response *browser.Response) {
			for sent := 0; sent < size; sent += len(chunk) {
				_, _ = response.Write(chunk)
			}
		},
		"ReadFrom": func(response *browser.Response) {
			_, _ = io.Copy(response, io.LimitReader(endless{}, size))
		},
	} {
		// Everything that was ever allocated counts, so this bounds what is
		// in use at any time.
		if allocated := stream(send); allocated > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, allocated)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// failing is a client who has gone.
type failing struct{ http.ResponseWriter }

var errGone = errors.New("gone")

func (failing) Write([]byte) (int, error) { return 0, errGone }

func TestErrorsOfTheClientReachTheHandler(t *testing.T) {
	t.Parallel()
	start := func() *browser.Response {
		recorder := httptest.NewRecorder()
		recorder.Header().Set("Content-Type", "text/html")
		return browser.NewResponse(failing{recorder}, insertEdit)
	}
	large := strings.Repeat(page, 2000)
	if n, err := io.WriteString(start(), large); n != 0 || !errors.Is(err, errGone) {
		t.Errorf("Write: %d, %v", n, err)
	}
	if n, err := start().ReadFrom(strings.NewReader(large)); n != 0 || !errors.Is(err, errGone) {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	small := start()
	_, _ = io.WriteString(small, page)
	if _, err := small.Close(true); !errors.Is(err, errGone) {
		t.Errorf("Close: %v", err)
	}
	broken := start()
	if n, err := broken.ReadFrom(io.MultiReader(strings.NewReader("<head>"), failingReader{})); n != 6 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadFrom a broken source: %d, %v", n, err)
	}
	_, _ = broken.Close(false)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The search is a coroutine, and none may be left behind.
func TestCloseEndsTheSearch(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, document := range []string{"<html>", page, "<head>" + strings.Repeat("x", held), ""} {
		for _, complete := range []bool{true, false} {
			response := browser.NewResponse(&sink{header: http.Header{"Content-Type": {"text/html"}}}, bothEdit)
			response.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(response, document)
			_, _ = response.Close(complete)
			_, _ = response.Close(complete)
		}
	}
}

// site serves one handler over HTTP/1, behind a Response as the gate uses it.
// What became of each request comes out of results.
type site struct {
	*httptest.Server
	results chan browser.Result
}

func newSite(t *testing.T, edit browser.Edit, handler http.HandlerFunc) site {
	t.Helper()
	results := make(chan browser.Result, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response := browser.NewResponse(w, edit)
		complete := false
		defer func() {
			result, _ := response.Close(complete)
			results <- result
		}()
		handler(response, r)
		complete = true
	}))
	t.Cleanup(server.Close)
	return site{server, results}
}

func (s site) get(t *testing.T) *http.Response {
	t.Helper()
	response, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func (s site) wantInjected(t *testing.T) {
	t.Helper()
	if body := bodyOf(t, s.get(t)); body != injected {
		t.Errorf("got %q", body)
	}
	if result := <-s.results; result != browser.Injected {
		t.Errorf("%v", result)
	}
}

// io.Copy and http.ServeContent prefer ReadFrom to Write, and the real writer
// behind has one that would bypass the edit.
func TestReadFromIsRewritten(t *testing.T) {
	t.Parallel()
	newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.Copy(w, io.LimitReader(strings.NewReader(page), 1<<20))
	}).wantInjected(t)
	newSite(t, insertEdit, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "index.html", time.Now(), strings.NewReader(page))
	}).wantInjected(t)
}

// fromReader is a client whose ReadFrom is seen.
type fromReader struct {
	sink
	copied int64
}

func (f *fromReader) ReadFrom(source io.Reader) (n int64, err error) {
	n, err = io.Copy(io.Discard, source)
	f.copied += n
	return n, err
}

// Where nothing is left to edit, the copy is the business of the writer
// behind, which may have the kernel do it.
func TestReadFromHandsTheRestOn(t *testing.T) {
	t.Parallel()
	const rest = 1 << 20
	for mediaType, most := range map[string]int64{"text/html": 64 << 10, "image/png": 0} {
		client := &fromReader{sink: sink{header: http.Header{"Content-Type": {mediaType}}}}
		response := browser.NewResponse(client, insertEdit)
		n, err := response.ReadFrom(struct{ io.Reader }{io.MultiReader(strings.NewReader(page), io.LimitReader(endless{}, rest))})
		if n != int64(len(page)+rest) || err != nil {
			t.Errorf("%s: %d, %v", mediaType, n, err)
		}
		if by := n - client.copied; by > most {
			t.Errorf("%s: %d bytes were not copied by the writer behind", mediaType, by)
		}
		_, _ = response.Close(true)
	}
}

// A flush sends an edited beginning as soon as it is known, and nothing
// before.
func TestFlush(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	server := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		flusher := http.NewResponseController(w)
		for _, piece := range []string{"<html>", "<head", ">"} {
			_, _ = io.WriteString(w, piece)
			if err := flusher.Flush(); err != nil {
				t.Error(err)
			}
		}
		<-goOn
		_, _ = io.WriteString(w, "<title>")
		_ = flusher.Flush()
		<-goOn
	})
	response := server.get(t)
	for _, want := range []string{"<html><head>" + insertTag, "<title>"} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		goOn <- struct{}{}
	}
	if rest := bodyOf(t, response); rest != "" {
		t.Errorf("and then %q", rest)
	}
}

// A flush that had to wait is made up for, also where the handler does not
// flush again.
func TestAFlushThatWaitedIsMadeUpFor(t *testing.T) {
	t.Parallel()
	for name, piece := range map[string]string{"not there": "<p>", "64 KiB": "<!--" + strings.Repeat(" ", held)} {
		goOn := make(chan struct{})
		server := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, piece)
			<-goOn
		})
		got := make([]byte, len("<html><p>"))
		if _, err := io.ReadFull(server.get(t).Body, got); err != nil || !strings.HasPrefix("<html>"+piece, string(got)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		close(goOn)
	}
}

// As with any writer, a flush before anything else begins the answer.
func TestAFlushBeforeTheAnswerBeginsIt(t *testing.T) {
	t.Parallel()
	for mediaType, status := range map[string]int{"text/html": 0, "text/event-stream": 200} {
		recorder := httptest.NewRecorder()
		recorder.Header().Set("Content-Type", mediaType)
		recorder.Code = 0
		response := browser.NewResponse(recorder, insertEdit)
		_ = response.FlushError()
		if recorder.Code != status || recorder.Flushed != (status != 0) {
			t.Errorf("%s: status %d, flushed %v", mediaType, recorder.Code, recorder.Flushed)
		}
		_, _ = io.WriteString(response, page)
		_, _ = response.Close(true)
	}
}

func TestInformationalResponsesPass(t *testing.T) {
	t.Parallel()
	server := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</x.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusOK)
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, page)
	})
	hints := 0
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints++
		if code != http.StatusEarlyHints || header.Get("Link") == "" {
			t.Errorf("%d %v", code, header)
		}
		return nil
	}}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if body := bodyOf(t, response); body != injected || hints != 1 {
		t.Errorf("%q after %d hints", body, hints)
	}
}

// Trailers reach the client, without those that describe other bytes.
func TestTrailers(t *testing.T) {
	t.Parallel()
	for _, document := range []string{page, page + strings.Repeat("x", held)} {
		response := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Trailer", "Server-Timing, Repr-Digest")
			_, _ = io.WriteString(w, document)
			w.Header().Set("Server-Timing", "x")
			w.Header().Set("Repr-Digest", "x")
			w.Header().Set(http.TrailerPrefix+"Content-Digest", "x")
		}).get(t)
		if response.Header.Get("Server-Timing") != "" {
			t.Error("a trailer came as a header")
		}
		_ = bodyOf(t, response)
		if response.Trailer.Get("Server-Timing") != "x" || response.Trailer.Get("Repr-Digest") != "" || response.Trailer.Get("Content-Digest") != "" {
			t.Errorf("%d bytes: %v", len(document), response.Trailer)
		}
	}
}

// A cut document looks cut, also to the client.
func TestACutDocument(t *testing.T) {
	t.Parallel()
	for name, flush := range map[string]bool{"flushed": true, "announced": false} {
		server := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			if !flush {
				w.Header().Set("Content-Length", "100000")
			}
			_, _ = io.WriteString(w, "<html><!-- <head>")
			if !flush {
				return
			}
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		response := server.get(t)
		body, err := io.ReadAll(response.Body)
		if string(body) != "<html><!-- <head>" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %q, %v", name, body, err)
		}
		want := browser.NoHead
		if flush {
			want = browser.Cut
		}
		if result := <-server.results; result != want {
			t.Errorf("%s: %v, want %v", name, result, want)
		}
	}
}

// What was inserted before the document was cut stays inserted.
func TestADocumentThatIsCutLater(t *testing.T) {
	t.Parallel()
	client := &sink{header: http.Header{"Content-Type": {"text/html"}}}
	response := browser.NewResponse(client, insertEdit)
	_, _ = io.WriteString(response, "<head>"+strings.Repeat("x", held))
	if result, err := response.Close(false); result != browser.Injected || err != nil {
		t.Errorf("%v, %v", result, err)
	}
}

// The wrapper sits inside a reverse proxy, which flushes, from a timer too,
// hijacks and copies by Write.
func TestBehindAReverseProxy(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Content-Type", "text/html")
			for _, piece := range inPieces(page, 9) {
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
			}
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusSwitchingProtocols)
		connection, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer connection.Close()
		line, _ := buffered.ReadString('\n')
		_, _ = io.WriteString(connection, line)
	}))
	t.Cleanup(upstream.Close)
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, interval := range []time.Duration{0, -1, time.Millisecond} {
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.FlushInterval = interval
		server := newSite(t, insertEdit, proxy.ServeHTTP)
		server.wantInjected(t)

		connection, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(connection, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		reader := bufio.NewReader(connection)
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", response, err)
		}
		_, _ = io.WriteString(connection, "<head>\n")
		_, _ = io.WriteString(connection, "<head>\n")
		if line, err := reader.ReadString('\n'); line != "<head>\n" || err != nil {
			t.Errorf("echo: %q, %v", line, err)
		}
		_ = connection.Close() // the proxy waits for both sides
		if result := <-server.results; result != browser.Untouched {
			t.Errorf("%v", result)
		}
	}
}

func TestDeadlinesReachTheConnection(t *testing.T) {
	t.Parallel()
	server := newSite(t, insertEdit, func(w http.ResponseWriter, _ *http.Request) {
		controller := http.NewResponseController(w)
		if err := errors.Join(controller.SetReadDeadline(time.Time{}), controller.SetWriteDeadline(time.Time{}), controller.EnableFullDuplex()); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
	})
	server.wantInjected(t)
}

// Flags that are missed are known to be, with a tag to insert and without.
func TestMissedFlags(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status   int
		headers  http.Header
		complete bool
		missed   bool
	}{
		"no such element": {200, describing, true, true},
		"cut":             {200, describing, false, true},
		"encoded":         {200, with("Content-Encoding", "br"), true, true},
		"no-transform":    {200, with("Cache-Control", "no-transform"), true, true},
		"not found":       {404, describing, true, false},
		"no document":     {200, with("Content-Type", "image/png"), true, false},
	} {
		for _, edit := range []browser.Edit{flagsEdit, bothEdit, insertEdit} {
			response := browser.NewResponse(&sink{header: test.headers.Clone()}, edit)
			response.WriteHeader(test.status)
			_, _ = io.WriteString(response, page)
			_, _ = response.Close(test.complete)
			if want := test.missed && len(edit.Metas) > 0; response.FlagsMissed() != want {
				t.Errorf("%s: missed %v, want %v", name, response.FlagsMissed(), want)
			}
		}
	}
	if got := rewriteIn(t, flagsEdit, `<meta name=fxa-feature-flags content={}>`); !got.flags {
		t.Error("flags that can be set are missed")
	}
}

// lazy sends its headers with the first write, as Caddy's encode does.
type lazy struct {
	sink
	sent http.Header
}

func (l *lazy) Write(p []byte) (int, error) {
	if l.sent == nil {
		l.sent = l.header.Clone()
	}
	return l.sink.Write(p)
}

func TestTrailersAreNoHeadersForAnEncoder(t *testing.T) {
	t.Parallel()
	client := &lazy{sink: sink{header: http.Header{"Content-Type": {"text/html"}, "Trailer": {"Server-Timing"}}}}
	response := browser.NewResponse(client, insertEdit)
	_, _ = io.WriteString(response, page)
	response.Header().Set("Server-Timing", "x")
	_, _ = response.Close(true)
	if client.sent["Server-Timing"] != nil || client.header["Server-Timing"] == nil {
		t.Errorf("sent %v, then %v", client.sent, client.header)
	}
}
