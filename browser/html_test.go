package browser_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/browser"
)

const (
	insertTag = `<script src="/.well-known/metrics-gate/handshake.js?v=1"></script>`
	flagsMeta = "fxa-feature-flags"
	held      = 64 << 10
)

var (
	insertEdit = browser.Edit{Insert: []byte(insertTag)}
	flagsEdit  = browser.Edit{Metas: []browser.MetaFlags{{Name: flagsMeta, Flags: map[string]json.RawMessage{
		"metricsSampleRate": json.RawMessage(`0`), "smsCountries": json.RawMessage(`{}`),
	}}}}
	bothEdit = browser.Edit{Insert: insertEdit.Insert, Metas: flagsEdit.Metas}
)

// rewritten is what became of one document.
type rewritten struct {
	body   string
	result browser.Result
	flags  bool
	header http.Header
}

// rewriteIn sends a document through a Response in the given pieces.
func rewriteIn(tb testing.TB, edit browser.Edit, pieces ...string) rewritten {
	tb.Helper()
	recorder := httptest.NewRecorder()
	response := browser.NewResponse(recorder, edit)
	response.Header().Set("Content-Type", "text/html; charset=utf-8")
	for _, piece := range pieces {
		if n, err := response.Write([]byte(piece)); n != len(piece) || err != nil {
			tb.Fatalf("Write = %d, %v; want %d", n, err, len(piece))
		}
	}
	result, err := response.Close(true)
	if err != nil {
		tb.Fatalf("Close: %v", err)
	}
	return rewritten{recorder.Body.String(), result, len(edit.Metas) > 0 && !response.FlagsMissed(), recorder.Result().Header}
}

// inPieces cuts a document into pieces of size bytes.
func inPieces(document string, size int) (pieces []string) {
	for piece := range slices.Chunk([]byte(document), size) {
		pieces = append(pieces, string(piece))
	}
	return pieces
}

// A caret marks where the tag belongs; a document without one has no such
// place.
func TestInsertionPoint(t *testing.T) {
	t.Parallel()
	for name, marked := range map[string]string{
		"plain":                       `<!DOCTYPE html><html lang="de"><head>^<title>x</title></head><body></body></html>`,
		"head only":                   `<head>^`,
		"upper case, attributes":      "<!doctype html>\r\n<HTML>\n<HEAD\tprofile='a>b' data-x=\"<head>\">^\n<META charset=utf-8>",
		"self-closing":                `<html><head/>^<title>x</title>`,
		"byte order mark":             "\ufeff<!DOCTYPE html><head>^</head>",
		"in a comment first":          `<!-- <head> --><!doctype html><!-- a > <head> --!><html><!--><head>^`,
		"in a declaration":            `<?xml version="1.0" <head?><!DOCTYPE html PUBLIC "-//W3C//DTD <head>` + `<head>^<title>`,
		"in an attribute":             `<html data-a="<head>" data-b='<head>'><head>^`,
		"stray end tags":              `</p></title></><!doctype html></div><html></span><head>^`,
		"html twice":                  `<html><html class="x"><head>^`,
		"script in the head":          `<head>^<script>"<head>"</script><head>`,
		"cut behind":                  `<head>^<scr`,
		"legacy encoding":             "<html><!-- \xe4\xf6 --><head>^<title>\xe4</title>",
		"text only":                   `Hello, world.`,
		"no head tag":                 `<!doctype html><title>x</title><p>x`,
		"other element":               `<html><header><head2>x`,
		"only in a comment":           `<html><!-- <head> --><body></body></html>`,
		"comment without an end":      `<html><!-- <head></head><body>`,
		"in a script":                 `<script>document.write("<head>")</script><head>`,
		"in a title":                  `<title><head></title><head>`,
		"in a textarea":               `<textarea><head></textarea>`,
		"in a style":                  `<style><head></style>`,
		"in a noscript":               `<noscript><head></noscript>`,
		"in a template":               `<template><head></head></template>`,
		"only in an attribute":        `<body data-x="<head>">`,
		"unfinished":                  `<html><head`,
		"unfinished, with an attr":    `<html><head class="x>`,
		"behind text":                 `Warning: x<html><head></head>`,
		"behind an implied head":      `<link rel=icon><head></head>`,
		"behind the end of the head":  `<html></head><head>`,
		"behind the body":             `<body><head></head>`,
		"behind br":                   `</br><head>`,
		"end tag only":                `<html></head><body>`,
		"UTF-16":                      "\xff\xfe<head>",
		"UTF-16, the other way round": "\xfe\xff<head>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, after, found := strings.Cut(marked, "^")
			document, want, result := before+after, before+after, browser.NoHead
			if found {
				want, result = before+insertTag+after, browser.Injected
			}
			for _, size := range []int{len(document) + 1, 1, 7} {
				got := rewriteIn(t, insertEdit, inPieces(document, size)...)
				if got.body != want {
					t.Errorf("in pieces of %d:\ngot  %q\nwant %q", size, got.body, want)
				}
				if got.result != result {
					t.Errorf("in pieces of %d: %v, want %v", size, got.result, result)
				}
			}
		})
	}
}

func TestOnlyTheFirst64KiBAreLookedAt(t *testing.T) {
	t.Parallel()
	const head = "<head>"
	for padding, want := range map[int]browser.Result{
		held - len(head) - 8:     browser.Injected,
		held - len(head) - 8 + 1: browser.NoHead,
		1 << 20:                  browser.NoHead,
	} {
		document := "<!--x" + strings.Repeat(">", padding) + "-->" + head + "<title>x</title>"
		for _, size := range []int{len(document), 1, 1000, held} {
			got := rewriteIn(t, insertEdit, inPieces(document, size)...)
			if got.result != want {
				t.Errorf("%d bytes in front, in pieces of %d: %v, want %v", padding, size, got.result, want)
			}
			if strings.Replace(got.body, insertTag, "", 1) != document {
				t.Errorf("%d bytes in front, in pieces of %d: other bytes have changed", padding, size)
			}
		}
	}
}

// A single comment that ends late is the worst case for a tokenizer that
// begins again with every piece: it would need a token's worth of memory for
// each of 64 Ki pieces.
func TestSingleBytesCostNoMoreThanTheirNumber(t *testing.T) {
	document := []byte("<!--x" + strings.Repeat(">", held))
	work := func() {
		response := browser.NewResponse(&sink{header: http.Header{"Content-Type": {"text/html"}}}, bothEdit)
		for i := range document {
			_, _ = response.Write(document[i : i+1])
		}
		_, _ = response.Close(true)
	}
	if allocs := testing.AllocsPerRun(3, work); allocs > 100 {
		t.Errorf("%v allocations for %d single bytes", allocs, len(document))
	}
}

// sink is a client who takes everything and keeps its size only.
type sink struct {
	header http.Header
	status int
	size   int
	first  int
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(status int) { s.status = status }

func (s *sink) Write(p []byte) (int, error) {
	if s.first == 0 {
		s.first = len(p)
	}
	s.size += len(p)
	return len(p), nil
}

func encodeURIComponent(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}

// The element between the carets is the one to change, if any is.
func TestFlags(t *testing.T) {
	t.Parallel()
	const (
		flags   = "%7B%22metricsSampleRate%22%3A1%7D"
		changed = `"%7B%22metricsSampleRate%22%3A0%2C%22smsCountries%22%3A%7B%7D%7D"`
	)
	type change struct{ from, to string }
	for name, test := range map[string]struct {
		document string
		change   change
	}{
		"double quotes": {
			`<head><meta name="fxa-feature-flags" content="` + flags + `" /><title>x</title></head>`,
			change{`"` + flags + `"`, changed},
		},
		"single quotes, other attributes, odd spelling": {
			"<HEAD><META\n data-x='<a href=\"content=x\">' CONTENT = '" + flags + "'id=i name='fxa-feature-flags'\tdata-y>",
			change{`'` + flags + `'`, changed},
		},
		"no quotes": {
			`<head><meta content=` + flags + ` name=fxa-feature-flags>`,
			change{flags, changed},
		},
		"slashes and equals signs": {
			`<head><meta/=content=x/ content2='y' name/name="z" name=fxa-feature-flags ==/content=` + flags + `>`,
			change{},
		},
		"an equals sign begins a name": {
			`<head><meta / =content=x name=fxa-feature-flags content=` + flags + `>`,
			change{flags, changed},
		},
		"the first of two attributes": {
			`<head><meta name=fxa-feature-flags content="` + flags + `" content="%7B%7D" name=other>`,
			change{`"` + flags + `"`, changed},
		},
		"the first of two elements": {
			`<head><meta name=other content="%7B%7D"><meta name=fxa-feature-flags content="%7B%7D">` +
				`<meta name=fxa-feature-flags content="` + flags + `">`,
			change{`fxa-feature-flags content="%7B%7D"`, `fxa-feature-flags content=` + changed},
		},
		"character references": {
			`<head><meta name="fxa&#45;feature-flags" content="&#123;&quot;smsCountries&quot;:1}">`,
			change{
				`"&#123;&quot;smsCountries&quot;:1}"`,
				`"` + encodeURIComponent(`{"metricsSampleRate":0,"smsCountries":{}}`) + `"`,
			},
		},
		"nested quotes": {
			`<head><meta name=fxa-feature-flags content='{"a":"\"><script>&#39;%27+"}'>`,
			change{
				`'{"a":"\"><script>&#39;%27+"}'`,
				`"` + encodeURIComponent(`{"a":"\"\u003e\u003cscript\u003e''+","metricsSampleRate":0,"smsCountries":{}}`) + `"`,
			},
		},
		"other values stay as they are": {
			`<head><meta name=fxa-feature-flags content="` +
				encodeURIComponent(`{"n": 1e400, "s": "ü\u00fc", "o": {"b": 1, "a": [null]}}`) + `">`,
			change{
				`"` + encodeURIComponent(`{"n": 1e400, "s": "ü\u00fc", "o": {"b": 1, "a": [null]}}`) + `"`,
				`"` + encodeURIComponent(`{"metricsSampleRate":0,"n":1e400,"o":{"b":1,"a":[null]},"s":"ü\u00fc","smsCountries":{}}`) + `"`,
			},
		},
		"behind an implied head": {
			`<!doctype html><title><meta name=fxa-feature-flags></title><meta name=fxa-feature-flags content="` + flags + `">`,
			change{`"` + flags + `"`, changed},
		},
		"behind a template": {
			`<head><template><template></template><meta name=fxa-feature-flags content="%7B%7D"></head><body></template>` +
				`<meta name=fxa-feature-flags content="` + flags + `">`,
			change{`"` + flags + `"`, changed},
		},
		"other name":           {`<head><meta name="FXA-feature-flags" content="` + flags + `">`, change{}},
		"no such element":      {`<head><meta charset=utf-8></head><body>`, change{}},
		"no content":           {`<head><meta name=fxa-feature-flags>`, change{}},
		"empty content":        {`<head><meta name=fxa-feature-flags content>`, change{}},
		"empty content, =":     {`<head><meta name=fxa-feature-flags content=>`, change{}},
		"broken by its quotes": {`<head><meta name=fxa-feature-flags content="{"a":1}">`, change{}},
		"broken escape":        {`<head><meta name=fxa-feature-flags content="%7B%7">`, change{}},
		"not UTF-8":            {`<head><meta name=fxa-feature-flags content="%7B%22a%22:%22%ff%22%7D">`, change{}},
		"an array":             {`<head><meta name=fxa-feature-flags content="[]">`, change{}},
		"null":                 {`<head><meta name=fxa-feature-flags content="null">`, change{}},
		"two objects":          {`<head><meta name=fxa-feature-flags content="{}{}">`, change{}},
		"too deep":             {`<head><meta name=fxa-feature-flags content='{"a":` + strings.Repeat("[", 20000) + `'>`, change{}},
		"in a comment":         {`<head><!-- <meta name=fxa-feature-flags content="` + flags + `"> --></head>`, change{}},
		"in a script":          {`<head><script>'<meta name=fxa-feature-flags content="` + flags + `">'</script></head>`, change{}},
		"behind the head":      {`<head></head><meta name=fxa-feature-flags content="` + flags + `">`, change{}},
		"in the body":          {`<head><body><meta name=fxa-feature-flags content="` + flags + `">`, change{}},
		"in SVG":               {`<head><svg><![CDATA[ > <meta name=fxa-feature-flags content="` + flags + `"> ]]></svg>`, change{}},
		"unfinished":           {`<head><meta name=fxa-feature-flags content="` + flags + `"`, change{}},
		"too far away": {
			`<head><script>` + strings.Repeat("x", held) + `</script><meta name=fxa-feature-flags content="` + flags + `">`,
			change{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := test.document
			if test.change.from != "" {
				want = strings.Replace(test.document, test.change.from, test.change.to, 1)
			}
			for _, size := range []int{len(test.document), 1} {
				got := rewriteIn(t, flagsEdit, inPieces(test.document, size)...)
				if got.body != want {
					t.Errorf("in pieces of %d:\ngot  %.300q\nwant %.300q", size, got.body, want)
				}
				if got.flags != (test.change.from != "") || got.result != browser.Untouched {
					t.Errorf("in pieces of %d: flags applied %v, %v", size, got.flags, got.result)
				}
				both := rewriteIn(t, bothEdit, inPieces(test.document, size)...)
				if withTag := strings.Replace(want, "<head>", "<head>"+insertTag, 1); strings.HasPrefix(want, "<head>") && both.body != withTag {
					t.Errorf("in pieces of %d, with a tag:\ngot  %.300q\nwant %.300q", size, both.body, withTag)
				}
			}
		})
	}
}

// The application reads the content with decodeURIComponent and JSON.parse.
func TestFlagsCanBeReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "before")
		set := rapid.MapOf(rapid.StringMatching(`[^.]*`), rapid.String()).Draw(t, "set") // a dot leads inwards
		quote := rapid.SampledFrom([]string{`"`, `'`}).Draw(t, "quote")

		object, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		content := string(object)
		if rapid.Bool().Draw(t, "URL-encoded") || strings.Contains(content, "%") {
			content = encodeURIComponent(content)
		}
		flags := map[string]json.RawMessage{}
		edit := browser.Edit{Metas: []browser.MetaFlags{{Name: "flags", Flags: flags}}}
		for key, value := range set {
			raw, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			flags[key] = raw
			before[key] = value
		}
		document := `<head><meta name=flags content=` + quote + html.EscapeString(content) + quote + `>`
		recorder := httptest.NewRecorder()
		response := browser.NewResponse(recorder, edit)
		response.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(response, document)
		_, _ = response.Close(true)
		if response.FlagsMissed() {
			t.Fatalf("not applied to %q", document)
		}
		decoded, err := url.PathUnescape(metaContents(t, recorder.Body.Bytes(), "flags")[0])
		if err != nil {
			t.Fatal(err)
		}
		var after map[string]string
		if err := json.Unmarshal([]byte(decoded), &after); err != nil {
			t.Fatal(err)
		}
		if len(after) != len(before) {
			t.Fatalf("got %q, want %q", after, before)
		}
		for key, value := range before {
			if after[key] != value {
				t.Fatalf("got %q, want %q", after, before)
			}
		}
	})
}

type fatal interface{ Fatal(...any) }

// metaContents parses a document as a browser does and returns the contents
// of its meta elements of that name.
func metaContents(t fatal, document []byte, name string) (contents []string) {
	root, err := html.Parse(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	for node := range root.Descendants() {
		if node.Type == html.ElementNode && node.Data == "meta" && attribute(node, "name") == name {
			contents = append(contents, attribute(node, "content"))
		}
	}
	return contents
}

func attribute(node *html.Node, key string) string {
	for _, attr := range node.Attr {
		if attr.Key == key {
			return attr.Val
		}
	}
	return ""
}

// blanked parses a document and writes it again, with the contents of the
// named meta elements removed.
func blanked(_ fatal, document []byte, name string) string {
	root, err := html.Parse(bytes.NewReader(document))
	if err != nil {
		// The parser refuses what is nested too deeply; there is nothing to
		// compare then.
		return ""
	}
	for node := range root.Descendants() {
		if node.Type == html.ElementNode && node.Data == "meta" && attribute(node, "name") == name {
			for i := range node.Attr {
				if node.Attr[i].Key == "content" {
					node.Attr[i].Val = ""
				}
			}
		}
	}
	var text strings.Builder
	if err := html.Render(&text, root); err != nil {
		return ""
	}
	return text.String()
}

// firstInHead parses a document and returns the source of the script that is
// the first element of its head.
func firstInHead(document []byte) string {
	// Browsers take the mark off before they parse.
	document = bytes.TrimPrefix(document, []byte("\ufeff"))
	root, err := html.Parse(bytes.NewReader(document))
	if err != nil {
		return ""
	}
	for node := range root.Descendants() {
		if node.Type == html.ElementNode && node.Data == "head" {
			if first := node.FirstChild; first != nil && first.Data == "script" {
				return attribute(first, "src")
			}
			return ""
		}
	}
	return ""
}

// What must hold for any document: with the tag taken out again it is the
// same, a parser finds the tag where it belongs, nothing changes but one
// content, and it does not matter in which pieces the document came.
func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		``,
		`<!DOCTYPE html><html><head><title>x</title></head><body></body></html>`,
		`<!--<head>--><html data-x="<head>"><head profile='>'><meta name=flags content="%7B%7D">`,
		`<head><meta content='{"a":1}'name=flags/=x content=y><template><meta name=flags></template>`,
		`<head><script><!--<script></script><meta name=flags content="{}"></script></head>`,
		`<head><svg><style><meta name=flags content="{}"></style><![CDATA[<meta name=flags content="{}">]]>`,
		`<title><head></title><head>`,
		"\ufeff</br><head/><meta/name=flags content={}\f>",
		`<!DOCTYPE html SYSTEM "<head>"><head>`,
		"<!doctype html>\n<html lang=\"en\" data-x=\">\" dir=ltr>\n<HEAD hidden prefix=\"<head>\">",
		`<head><noscript><meta name=flags content={}></noscript><meta name=flags content={}>`,
	} {
		f.Add([]byte(seed), uint8(1))
		f.Add([]byte(seed), uint8(5))
	}
	f.Fuzz(func(t *testing.T, document []byte, size uint8) {
		pieces := inPieces(string(document), int(size)+1)
		whole := rewriteIn(t, insertEdit, string(document))
		if cut := rewriteIn(t, insertEdit, pieces...); cut.body != whole.body || cut.result != whole.result && len(document) > 0 {
			t.Errorf("in pieces: %q, %v\nat once: %q, %v", cut.body, cut.result, whole.body, whole.result)
		}
		if whole.result == browser.Injected {
			at := strings.Index(whole.body, insertTag)
			if at < 0 || at > held || whole.body[:at]+whole.body[at+len(insertTag):] != string(document) {
				t.Errorf("not the document and the tag: %q", whole.body)
			}
			if got := firstInHead([]byte(whole.body)); !strings.HasPrefix(got, browser.Base) {
				t.Errorf("the tag is not what the head begins with: %q", whole.body)
			}
		} else if whole.body != string(document) {
			t.Errorf("%v, and changed: %q", whole.result, whole.body)
		}

		edit := browser.Edit{Metas: []browser.MetaFlags{{Name: "flags", Flags: map[string]json.RawMessage{"<'\">": json.RawMessage(`"'"`)}}}}
		flags := rewriteIn(t, edit, string(document))
		if cut := rewriteIn(t, edit, pieces...); cut.body != flags.body {
			t.Errorf("flags in pieces: %q\nat once: %q", cut.body, flags.body)
		}
		// With a document of the same head before, it does not matter how this one goes on.
		known := browser.Edit{Insert: insertEdit.Insert, Metas: edit.Metas}
		both := rewriteIn(t, known, string(document))
		known.Heads = new(browser.Heads)
		for _, earlier := range [][]byte{document, document, document[:len(document)/2], document[:len(document)/2], document} {
			rewriteIn(t, known, string(earlier))
		}
		if again := rewriteIn(t, known, pieces...); len(document) > 0 && !reflect.DeepEqual(again, both) {
			t.Errorf("after others of its head: %q, %v\nat first: %q, %v", again.body, again.result, both.body, both.result)
		}
		if !flags.flags && flags.body != string(document) {
			t.Errorf("flags not applied, and changed: %q", flags.body)
		}
		if before, after := blanked(t, document, "flags"), blanked(t, []byte(flags.body), "flags"); before != after {
			t.Errorf("more has changed than one content:\n%q\n%q", before, after)
		}
	})
}

// TestKnownHeads: what a document is changed to is the same with and without others
// before it, wherever they begin to differ.
func TestKnownHeads(t *testing.T) {
	t.Parallel()
	const head = `<!doctype html><html lang=en><head><title>x</title><meta name=flags content="%7B%22a%22%3A1%7D">`
	edit := browser.Edit{Insert: insertEdit.Insert, Metas: []browser.MetaFlags{{Name: "flags", Flags: map[string]json.RawMessage{"b": json.RawMessage(`2`)}}}}
	remembering := edit
	remembering.Heads = new(browser.Heads)
	documents := []string{head + "<body>", head + "<body>", head, head[:len(head)-1], head[:len(head)-1] + " />", "", "x", head + strings.Repeat("x", held)}
	for i := range head {
		documents = append(documents, head[:i], head[:i]+"x"+head[i:], head)
	}
	for i := range 20 {
		another := strings.Replace(head, "x", strconv.Itoa(i), 1)
		documents = append(documents, another, another, another, head)
	}
	documents = append(documents, strings.Replace(head, "x", strings.Repeat("x", 20<<10), 1), strings.Replace(head, "x", strings.Repeat("x", 20<<10), 1))
	for _, document := range documents {
		for _, size := range []int{1, 50, len(document) + 1} {
			want := rewriteIn(t, edit, inPieces(document, size)...)
			if got := rewriteIn(t, remembering, inPieces(document, size)...); !reflect.DeepEqual(got, want) {
				t.Errorf("%q in pieces of %d became %v, want %v", document[:min(len(document), 200)], size, got, want)
			}
		}
	}
}

// TestFlagsOfSeveralMetas: dotted keys reach into nested objects and leave their
// other members, later flags win, and an element that is not there costs the others
// nothing.
func TestFlagsOfSeveralMetas(t *testing.T) {
	t.Parallel()
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	edit := browser.Edit{Insert: []byte(insertTag), Metas: []browser.MetaFlags{
		{Name: "config", Flags: map[string]json.RawMessage{"glean.enabled": raw("false"), "sentry.dsn": raw(`""`), "a.b.c": raw("1")}},
		{Name: "absent", Flags: map[string]json.RawMessage{"x": raw("1")}},
		{Name: "flags", Flags: map[string]json.RawMessage{"rate": raw("0"), "sync": raw(`{"a":1}`), "sync.b": raw("2")}},
		{Name: "config", Flags: map[string]json.RawMessage{"glean.enabled": raw("true"), "own": raw("[]")}},
	}}
	document := func(config, flags string) string {
		meta := func(name, content string) string {
			return `<meta name="` + name + `" content="` + encodeURIComponent(content) + `">`
		}
		return "<html><head><title>x</title>" + meta("flags", flags) + meta("other", `{"rate":1}`) + meta("config", config) + meta("config", config) + "</head>"
	}
	for _, test := range []struct{ config, flags, wantConfig, wantFlags string }{
		{
			`{"glean":{"enabled":true,"channel":"x"},"sentry":{"dsn":"https://k@host/1","env":"prod"},"a":7,"z":{"y":1}}`, `{"rate":1,"sync":{"c":3}}`,
			`{"a":{"b":{"c":1}},"glean":{"channel":"x","enabled":true},"own":[],"sentry":{"dsn":"","env":"prod"},"z":{"y":1}}`, `{"rate":0,"sync":{"a":1,"b":2}}`,
		},
		{`{}`, `{}`, `{"a":{"b":{"c":1}},"glean":{"enabled":true},"own":[],"sentry":{"dsn":""}}`, `{"rate":0,"sync":{"a":1,"b":2}}`},
		{`no JSON`, `{"glean":null}`, `no JSON`, `{"glean":null,"rate":0,"sync":{"a":1,"b":2}}`},
	} {
		whole := document(test.config, test.flags)
		got := rewriteIn(t, edit, inPieces(whole, 1)...)
		decoded := func(name string) (all []string) {
			for _, content := range metaContents(t, []byte(got.body), name) {
				text, err := url.PathUnescape(content)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, text)
			}
			return all
		}
		if config := decoded("config"); config[0] != test.wantConfig || config[1] != test.config {
			t.Errorf("config %q, want %s, and the second as it was", config, test.wantConfig)
		}
		if flags := decoded("flags"); flags[0] != test.wantFlags || decoded("other")[0] != `{"rate":1}` {
			t.Errorf("flags %q, want %s", flags, test.wantFlags)
		}
		if !got.flags || got.result != browser.Injected || !strings.Contains(got.body, "<head>"+insertTag) {
			t.Errorf("%v, flags set: %t", got.result, got.flags)
		}
	}
}
