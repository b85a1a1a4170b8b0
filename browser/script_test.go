package browser_test

import (
	"bytes"
	"compress/gzip"
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

func TestScriptIsSmall(t *testing.T) {
	t.Parallel()
	script := browser.NewScript(browser.ScriptConfig{Timeout: 2 * time.Second})
	text := body(t, serve(t, script, http.MethodGet, script.URL()))
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(writer, text)
	_ = writer.Close()
	if compressed.Len() >= 4<<10 {
		t.Errorf("%d bytes compressed, and it is to stay under 4 KB", compressed.Len())
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
