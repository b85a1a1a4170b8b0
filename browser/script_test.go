package browser_test

import (
	"bytes"
	"compress/gzip"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/browser"
)

func serve(t *testing.T, handler http.Handler, method, target string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What is served to those who have no use for a proof is no larger for it.
func TestScriptIsSmall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		proof *browser.Proof
		limit int
	}{
		"without a proof": {nil, 2350},
		"with a proof":    {&browser.Proof{FxA: true, Hawk: "https://auth.example.org/v1"}, 5000},
	} {
		script := browser.NewScript(browser.ScriptConfig{Timeout: 2 * time.Second, Proof: c.proof})
		text := body(t, serve(t, script, http.MethodGet, script.URL()))
		var compressed bytes.Buffer
		writer := gzip.NewWriter(&compressed)
		_, _ = io.WriteString(writer, text)
		_ = writer.Close()
		t.Logf("%s: %d bytes compressed", name, compressed.Len())
		if compressed.Len() > c.limit {
			t.Errorf("%s: %d bytes compressed, and it is to stay within %d", name, compressed.Len(), c.limit)
		}
		if found := strings.Contains(text, "data-proof"); found != (c.proof != nil) {
			t.Errorf("%s: the script looks for a proof: %v", name, found)
		}
		if strings.Contains(text, "\n//") || strings.Contains(text, " // \n") || strings.Contains(text, "/* configuration */") {
			t.Errorf("%s: there are comments left, or no configuration:\n%s", name, text)
		}
	}
}

func TestScriptIsCached(t *testing.T) {
	t.Parallel()
	script := browser.NewScript(browser.ScriptConfig{Timeout: 2 * time.Second})
	versioned := serve(t, script, http.MethodGet, script.URL())
	etag := versioned.Header.Get("ETag")
	if len(etag) < 10 || !strings.HasPrefix(etag, `"`) {
		t.Errorf("the ETag %s is not strong", etag)
	}
	for _, c := range []struct {
		name, method, target, header string
		status                       int
		cache                        string
	}{
		{"its version", http.MethodGet, script.URL(), "", 200, "public, max-age=31536000, immutable"},
		{"HEAD", http.MethodHead, script.URL(), "", 200, "public, max-age=31536000, immutable"},
		{"no version", http.MethodGet, browser.Base + "handshake.js", "", 200, "no-cache"},
		{"an old version", http.MethodGet, browser.Base + "handshake.js?v=old", "", 200, "no-cache"},
		{"still fresh", http.MethodGet, browser.Base + "handshake.js", "If-None-Match: " + etag, 304, "no-cache"},
		{"POST", http.MethodPost, script.URL(), "", 405, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var headers []string
			if c.header != "" {
				headers = append(headers, c.header)
			}
			response := serve(t, script, c.method, c.target, headers...)
			if response.StatusCode != c.status || response.Header.Get("Cache-Control") != c.cache {
				t.Errorf("%s, Cache-Control %q", response.Status, response.Header.Get("Cache-Control"))
			}
		})
	}
}

func TestScriptVersionFollowsConfiguration(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, config := range map[string]browser.ScriptConfig{
		"default":  {Timeout: 2 * time.Second},
		"timeout":  {Timeout: time.Second},
		"context":  {Timeout: 2 * time.Second, Timeouts: map[string]time.Duration{"fx_desktop_v3": 5 * time.Second}},
		"embedder": {Timeout: 2 * time.Second, Embedders: []string{"https://www.example.org"}},
		"proof":    {Timeout: 2 * time.Second, Proof: &browser.Proof{FxA: true}},
	} {
		script := browser.NewScript(config)
		if other := seen[script.URL()]; other != "" {
			t.Errorf("%s and %s have the same URL", name, other)
		}
		seen[script.URL()] = name
		if again := browser.NewScript(config); again.URL() != script.URL() {
			t.Errorf("%s has another URL the second time", name)
		}
	}
	script := browser.NewScript(browser.ScriptConfig{
		Timeouts:  map[string]time.Duration{"</script>": 5 * time.Second},
		Embedders: []string{"https://www.example.org"},
	})
	text := body(t, serve(t, script, http.MethodGet, script.URL()))
	if strings.Contains(text, "</script>") || !strings.Contains(text, `"embedders":["https://www.example.org"]`) || !strings.Contains(text, `:5000`) {
		t.Errorf("the configuration is not in the script:\n%s", text)
	}
}

func TestTag(t *testing.T) {
	t.Parallel()
	script := browser.NewScript(browser.ScriptConfig{})
	for want, options := range map[string]browser.TagOptions{
		`<script src="` + script.URL() + `"></script>`:                            {},
		`<script src="` + script.URL() + `" data-report></script>`:                {Report: true},
		`<script src="` + script.URL() + `" data-strip="a &#34;b&#34;"></script>`: {Strip: []string{"a", `"b"`}},
	} {
		if got := string(script.Tag(options)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Where there is a proof, every page's tag says so, however little else it says.
func TestTagWithProof(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		proof browser.Proof
		want  string // between the quotation marks, as the script reads it
	}{
		{browser.Proof{FxA: true}, `{"fxa":true}`},
		{browser.Proof{FxA: true, Hawk: "https://auth.example.org/v1"}, `{"fxa":true,"hawk":"https://auth.example.org/v1"}`},
		{browser.Proof{LocalStorage: "token"}, `{"local_storage":"token"}`},
		{browser.Proof{SessionStorage: "a&b", Path: "user.token"}, `{"session_storage":"a\u0026b","path":"user.token"}`},
		{browser.Proof{LocalStorage: `"><script>'`}, `{"local_storage":"\"\u003e\u003cscript\u003e'"}`},
	} {
		script := browser.NewScript(browser.ScriptConfig{Proof: &c.proof})
		before := `<script src="` + script.URL() + `" data-proof="`
		for options, after := range map[*browser.TagOptions]string{
			{}:                                   `"></script>`,
			{Report: true, Strip: []string{"a"}}: `" data-report data-strip="a"></script>`,
		} {
			tag := string(script.Tag(*options))
			value, ok := strings.CutPrefix(tag, before)
			value, complete := strings.CutSuffix(value, after)
			if !ok || !complete || html.UnescapeString(value) != c.want || strings.ContainsAny(value, `"<>`) {
				t.Errorf("%s, want %s in data-proof", tag, c.want)
			}
		}
	}
}

func TestParseOrigin(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://www.example.org":       "https://www.example.org",
		"https://www.example.org/":      "https://www.example.org",
		"HTTPS://WWW.Example.org:443":   "https://www.example.org",
		"http://localhost:80":           "http://localhost",
		"http://localhost:8080":         "http://localhost:8080",
		"http://[::1]:8080":             "http://[::1]:8080",
		"https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
		"https://*.example.org":         "",
		"*":                             "",
		"www.example.org":               "",
		"https://":                      "",
		"https://bücher.example":        "",
		"https://a.example/path":        "",
		"https://a.example?x":           "",
		"https://a.example#x":           "",
		"https://user@a.example":        "",
		"https://a.example b":           "",
		"https://a'b.example":           "",
		"ftp://a.example":               "",
		"null":                          "",
		"":                              "",
	} {
		got, err := browser.ParseOrigin(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "write an origin such as https://") {
			t.Errorf("%q: %q does not say what to write", text, err)
		}
	}
}
