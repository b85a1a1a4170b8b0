// Package browser is the browser's side of Metrics Gate: the script that asks
// Firefox whether its user switched telemetry off, what puts it into HTML
// pages on their way, and the page on which people choose.
//
// It does not decide, ask about accounts, or keep a choice: it shows what it is
// told and reads what people send, and package gate does the rest. It knows
// HTTP and nothing of Caddy. This puts the script into the pages of an
// application; whoever serves script at its URL has to take the script's
// reports as well (docs/handshake-protocol.md):
//
//	script := browser.NewScript(browser.ScriptConfig{Timeout: 2 * time.Second})
//	…
//	browser.PrepareRequest(r.Header)
//	page := browser.NewResponse(w, browser.Edit{Insert: script.Tag(browser.TagOptions{})})
//	application.ServeHTTP(page, r)
//	result, err := page.Close(true)
package browser

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Base is the path that all addresses of the gate's own are below.
const Base = "/.well-known/metrics-gate/"

//go:embed handshake.js
var handshakeSource []byte

// proofSource is the part that only a Script with a Proof has.
//
//go:embed proof.js
var proofSource []byte

// commentLine is what a browser has no use for.
var commentLine = regexp.MustCompile(`(?m)^[ \t]*//.*\n`)

// ScriptConfig is what the handshake's script is told.
type ScriptConfig struct {
	// Timeout is how long it waits for the browser's answer.
	Timeout time.Duration
	// Timeouts are for pages whose query parameter context has that value.
	Timeouts map[string]time.Duration
	// Embedders are the origins, as ParseOrigin returns them, that are told
	// in a frame whether its user opted out.
	Embedders []string
	// Proof is where pages keep what proves their account; nil where the
	// handshake has no part in that.
	Proof *Proof
}

// Script is the handshake's script with its configuration inside, so that its
// hash, and with it its URL, changes with either.
type Script struct {
	text  []byte
	hash  string
	proof string // the attribute of every tag, or ""
	tag   []byte // without options
}

// NewScript makes a Script.
func NewScript(config ScriptConfig) *Script {
	settings := struct {
		Timeout   int64            `json:"timeout"`
		Timeouts  map[string]int64 `json:"timeouts"`
		Embedders []string         `json:"embedders"`
	}{config.Timeout.Milliseconds(), map[string]int64{}, append([]string{}, config.Embedders...)}
	for context, timeout := range config.Timeouts {
		settings.Timeouts[context] = timeout.Milliseconds()
	}
	literal, _ := json.Marshal(settings) // never fails for this type
	if config.Proof != nil {
		literal = append(append(literal, ", "...), proofSource...)
	}
	text := commentLine.ReplaceAll(bytes.Replace(handshakeSource, []byte("/* configuration */"), literal, 1), nil)
	sum := sha256.Sum256(text)
	s := &Script{text: text, hash: base64.RawURLEncoding.EncodeToString(sum[:12]), proof: config.Proof.attribute()}
	s.tag = s.newTag(TagOptions{})
	return s
}

// URL is the script's address, which changes when the script does.
func (s *Script) URL() string { return Base + "handshake.js?v=" + s.hash }

// TagOptions are what one page's tag tells the script.
type TagOptions struct {
	// Report has the script report although this browser has reported the same
	// before, and hand over a Proof although it did so less than five minutes
	// ago: the gate does not know of it, or an account has not learnt it.
	Report bool
	// Strip are query parameters to take out of the page's address before
	// the application's own scripts run.
	Strip []string
}

// Tag is the element that runs the script in a page. It is not to be changed.
func (s *Script) Tag(options TagOptions) []byte {
	if !options.Report && len(options.Strip) == 0 { // nearly always
		return s.tag
	}
	return s.newTag(options)
}

func (s *Script) newTag(options TagOptions) []byte {
	tag := `<script src="` + s.URL() + `"` + s.proof
	if options.Report {
		tag += " data-report"
	}
	if len(options.Strip) > 0 {
		tag += ` data-strip="` + html.EscapeString(strings.Join(options.Strip, " ")) + `"`
	}
	return []byte(tag + "></script>")
}

// ServeHTTP serves the script. What has its version in the URL never changes,
// so browsers keep it for ever; without one they ask again.
func (s *Script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cache := "no-cache"
	if r.URL.Query().Get("v") == s.hash {
		cache = "public, max-age=31536000, immutable"
	}
	serveAsset(w, r, "text/javascript; charset=utf-8", cache, s.hash, s.text)
}

// serveAsset answers GET and HEAD with a text that has a strong ETag.
func serveAsset(w http.ResponseWriter, r *http.Request, contentType, cache, etag string, text []byte) {
	header := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "write GET", http.StatusMethodNotAllowed)
		return
	}
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", cache)
	header.Set("ETag", `"`+etag+`"`)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
