package survey

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Request is what was recorded of a request, as far as it matters here.
type Request struct {
	Method     string
	Host, Port string // empty where the recording does not say
	Path       string // as it was sent, without the query
	Query      string // as it was sent; its names are looked at, and nothing is kept
	Status     int

	// Sent and Received are the bytes of both bodies, -1 where that is not known.
	Sent, Received int64

	// Header is the request's, as far as the recording says.
	Header http.Header

	// Ping says that the browser called it a ping: sendBeacon or <a ping>.
	Ping bool

	// Elsewhere says that it went to another host than the page's.
	Elsewhere bool
}

// ErrFormat means that a file is none that can be read.
var ErrFormat = errors.New("this is neither Caddy's JSON log, the combined format of nginx and Apache, nor a HAR file")

// Counts are how many lines or entries of a file were read, and how many not. Others
// are lines that could be read and hold no request.
type Counts struct{ Requests, Unread, Others int }

// Read calls each for every request in a recording, in whichever of the formats
// it is, also compressed by gzip. The Request is only valid during the call. A
// line that holds no request, such as another of Caddy's messages, is passed
// over; one that cannot be read is counted. Where not one line could be read,
// the error is ErrFormat.
func Read(from io.Reader, each func(*Request)) (Counts, error) {
	r := bufio.NewReaderSize(from, 1<<16)
	if magic, err := r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			return Counts{}, fmt.Errorf("unpacking: %w", err)
		}
		r = bufio.NewReaderSize(unpacked, 1<<16)
	}
	start, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return Counts{}, err
	}
	if bytes.HasPrefix(start, []byte("\xef\xbb\xbf")) { // a BOM, as some tools write it
		_, _ = r.Discard(3)
		start = start[3:]
	}
	if harStart.Match(start) {
		return readHAR(r, each)
	}
	return readLines(r, each)
}

var harStart = regexp.MustCompile(`^\s*\{\s*"log"\s*:\s*\{`)

func readLines(r *bufio.Reader, each func(*Request)) (counts Counts, err error) {
	sample, _ := r.Peek(r.Size()) // as much as there is
	headers := headersOf(sample)
	for {
		line, err := r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) { // no request line is that long
			_, err = r.ReadSlice('\n')
			line = []byte("too long")
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var request Request
			switch read, ok := parseLine(line, &request); {
			case !ok:
				counts.Unread++
			case read:
				counts.Requests++
				if request.Received > 0 {
					request.Received = max(0, request.Received-headers)
				}
				each(&request)
			default:
				counts.Others++
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return counts, err
		case counts.Requests+counts.Others == 0 && counts.Unread > 0:
			return counts, ErrFormat
		default:
			return counts, nil
		}
	}
}

// parseLine says whether a line holds a request, and whether it could be read.
func parseLine(line []byte, request *Request) (isRequest, ok bool) {
	if line[0] == '{' {
		return parseCaddy(line, request)
	}
	return parseCombined(line, request)
}

// caddyLine is an entry of Caddy's access log.
type caddyLine struct {
	Request *struct {
		Method  string      `json:"method"`
		Host    string      `json:"host"`
		URI     string      `json:"uri"`
		Headers http.Header `json:"headers"`
		TLS     *struct{}   `json:"tls"`
	} `json:"request"`
	BytesRead *int64 `json:"bytes_read"`
	Size      *int64 `json:"size"`
	Status    int    `json:"status"`
}

func parseCaddy(line []byte, request *Request) (isRequest, ok bool) {
	var entry caddyLine
	if err := json.Unmarshal(line, &entry); err != nil {
		return false, false
	}
	// Errors of handlers are logged with their request as well, and without a
	// status.
	if entry.Request == nil || entry.Request.URI == "" || entry.Status == 0 {
		return false, true
	}
	*request = Request{
		Method: entry.Request.Method, Status: entry.Status, Header: entry.Request.Headers,
		Sent: orUnknown(entry.BytesRead), Received: orUnknown(entry.Size), Ping: entry.Request.Headers.Get("Ping-To") != "",
	}
	request.Host, request.Port = hostPort(entry.Request.Host)
	if request.Port == "" && entry.Request.TLS != nil {
		request.Port = "443"
	}
	request.setTarget(entry.Request.URI)
	return true, true
}

func orUnknown(n *int64) int64 {
	if n == nil {
		return -1
	}
	return *n
}

// combined is the common log format, with or without what the combined one adds,
// and with or without a virtual host in front. nginx writes a quote as \x22,
// Apache as \".
var combined = regexp.MustCompile(`^(?:([^ :]+):([0-9]+) )?.*?\[[^\]]+\] "([A-Za-z]+) ([^" ]+)(?: HTTP/[0-9.]+)?" ([0-9]{3}) ([0-9]+|-)` +
	`(?: "(?:[^"\\]|\\.)*" "((?:[^"\\]|\\.)*)")?`)

// notHTTP is what servers log of somebody who speaks no HTTP.
var notHTTP = regexp.MustCompile(`\[[^\]]+\] "(?:[^"\\]|\\.)*" [0-9]{3} (?:[0-9]+|-)`)

func parseCombined(line []byte, request *Request) (isRequest, ok bool) {
	parts := combined.FindSubmatch(line)
	if parts == nil {
		return false, notHTTP.Match(line)
	}
	status, _ := strconv.Atoi(string(parts[5]))
	*request = Request{Method: string(parts[3]), Status: status, Sent: -1, Header: http.Header{"User-Agent": {string(parts[7])}}}
	request.Host, request.Port = strings.ToLower(string(parts[1])), string(parts[2])
	request.Received, _ = strconv.ParseInt(string(parts[6]), 10, 64) // a dash is none
	request.setTarget(string(parts[4]))
	return true, true
}

// headersOf is how many bytes of an answer are its headers, in a combined log
// that counts them, as that of Debian's Apache does (%O). Then none is small.
func headersOf(sample []byte) int64 {
	const enough, small, large, differ = 20, 90, 600, 150
	answers, least := 0, int64(large)
	for line := range bytes.Lines(sample) {
		var request Request
		if isRequest, _ := parseCombined(line, &request); isRequest && line[0] != '{' {
			answers++
			least = min(least, request.Received)
		}
	}
	if answers < enough || least < small || least == large {
		return 0
	}
	return least + differ // those that have a body have headers more
}

// setTarget takes a request target apart.
func (r *Request) setTarget(target string) {
	path, query, _ := strings.Cut(target, "?")
	if i := strings.Index(path, "://"); i > 0 { // as proxies are sent it
		_, path, _ = strings.Cut(path[i+3:], "/")
		path = "/" + path
	}
	r.Path, r.Query = path, query
}

// hostPort takes a Host header apart.
func hostPort(header string) (host, port string) {
	if u, err := url.Parse("//" + header); err == nil {
		return strings.ToLower(u.Hostname()), u.Port()
	}
	return "", ""
}

// harEntry is an entry of a HAR file. What begins with an underscore is
// Chromium's own.
type harEntry struct {
	Request struct {
		Method   string `json:"method"`
		URL      string `json:"url"`
		Headers  []harHeader
		BodySize *int64 `json:"bodySize"`
	} `json:"request"`
	Response struct {
		Status  int `json:"status"`
		Content struct {
			Size *int64 `json:"size"`
		} `json:"content"`
	} `json:"response"`
	ResourceType string `json:"_resourceType"`
}

type harHeader struct{ Name, Value string }

// maxEntry bounds an entry of a HAR file, which holds whole bodies.
const maxEntry = 64 << 20

// bounded ends after so many bytes.
type bounded struct {
	io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("a part of it is larger than 64 MiB")
	}
	n, err := b.Reader.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// readHAR reads entry by entry: recordings with bodies are large.
func readHAR(r io.Reader, each func(*Request)) (counts Counts, err error) {
	limit := &bounded{r, maxEntry}
	decoder := json.NewDecoder(limit)
	if err := enter(decoder, "log"); err != nil {
		return counts, err
	}
	if err := enter(decoder, "entries"); err != nil {
		return counts, err
	}
	page := ""
	for decoder.More() {
		limit.left = maxEntry
		var entry harEntry
		var mistyped *json.UnmarshalTypeError
		if err := decoder.Decode(&entry); errors.As(err, &mistyped) {
			counts.Unread++
			continue
		} else if err != nil {
			return counts, broken(err)
		}
		target, err := url.Parse(entry.Request.URL)
		switch {
		case err != nil:
			counts.Unread++
			continue
		case target.Host == "": // data: and the like
			continue
		}
		counts.Requests++
		request := entry.request(target)
		origin := target.Host
		if page == "" || request.Header.Get("Sec-Fetch-Dest") == "document" || entry.ResourceType == "document" && request.Header.Get("Sec-Fetch-Dest") == "" {
			page = origin
		}
		request.Elsewhere = origin != page
		each(request)
	}
	// More says no at the end of what there is as well.
	if _, err := decoder.Token(); err != nil {
		return counts, broken(err)
	}
	return counts, nil
}

// broken is why a HAR file cannot be read on, without what stands there.
func broken(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("it is no JSON from byte %d on", syntax.Offset)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

func (e *harEntry) request(target *url.URL) *Request {
	request := &Request{
		Method: e.Request.Method, Host: strings.ToLower(target.Hostname()), Port: target.Port(), Path: target.EscapedPath(), Query: target.RawQuery,
		Status: e.Response.Status, Sent: orUnknown(e.Request.BodySize), Received: orUnknown(e.Response.Content.Size), Header: http.Header{},
		Ping: e.ResourceType == "ping" || e.ResourceType == "beacon",
	}
	if request.Port == "" {
		request.Port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	for _, header := range e.Request.Headers {
		request.Header.Add(header.Name, header.Value)
	}
	return request
}

// enter goes into the member of the object that comes next.
func enter(decoder *json.Decoder, name string) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("%w: a HAR file has log.entries", ErrFormat)
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return broken(err)
		}
		if token == name {
			if name == "entries" {
				if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
					return fmt.Errorf("%w: log.entries is no array", ErrFormat)
				}
			}
			return nil
		}
		var other json.RawMessage
		if err := decoder.Decode(&other); err != nil {
			return broken(err)
		}
	}
	return fmt.Errorf("%w: there is no %s in it", ErrFormat, name)
}
