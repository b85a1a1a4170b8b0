package browser_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/browser"
)

// benchPage is a document of size bytes, with the flags in its head.
func benchPage(size int) []byte {
	page := `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Firefox Accounts</title>` +
		`<meta name="` + flagsMeta + `" content="%7B%22metricsSampleRate%22%3A1%7D">` +
		`<script src="/bundle/head.bundle.js"></script></head><body>`
	return append([]byte(page), bytes.Repeat([]byte("<p>0123456789</p>\n"), (size-len(page))/18)...)
}

// discard is a client who takes everything, as cheap as can be.
type discard struct{ header http.Header }

func (d discard) Header() http.Header { return d.header }

func (discard) WriteHeader(int) {}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkRewrite sends documents in the 32 KiB pieces of a reverse proxy:
// copied as they are, and rewritten; first means that no document with the same
// head came before. Compare the rates within one run.
func BenchmarkRewrite(b *testing.B) {
	for name, size := range map[string]int{"1MB": 1 << 20, "8kB": 8 << 10} {
		document := benchPage(size)
		for _, way := range []struct {
			name string
			edit *browser.Edit
		}{{"copy", nil}, {"first", &bothEdit}, {"insert", remembering(insertEdit)}, {"meta", remembering(flagsEdit)}, {"absent", remembering(absentEdit)}, {"both", remembering(bothEdit)}} {
			b.Run(strings.Join([]string{name, way.name}, "/"), func(b *testing.B) {
				header := http.Header{}
				chunk := make([]byte, 32<<10)
				b.SetBytes(int64(len(document)))
				b.ReportAllocs()
				for b.Loop() {
					header["Content-Type"] = htmlType
					source := io.LimitReader(bytes.NewReader(document), int64(len(document)))
					var w http.ResponseWriter = discard{header}
					if way.edit == nil {
						_, _ = io.CopyBuffer(struct{ io.Writer }{w}, source, chunk)
						continue
					}
					response := browser.NewResponse(w, *way.edit)
					_, _ = io.CopyBuffer(struct{ io.Writer }{response}, source, chunk)
					_, _ = response.Close(true)
				}
			})
		}
	}
}

// absentEdit finds nothing in these documents.
var absentEdit = browser.Edit{Metas: []browser.MetaFlags{{Name: "absent", Flags: flagsEdit.Metas[0].Flags}}}

func remembering(edit browser.Edit) *browser.Edit {
	edit.Heads = new(browser.Heads)
	return &edit
}

var htmlType = []string{"text/html; charset=utf-8"}

// BenchmarkRewriteSingleBytes is the worst upstream there can be, with the
// worst document.
func BenchmarkRewriteSingleBytes(b *testing.B) {
	document := []byte("<!--x" + strings.Repeat(">", held))
	b.SetBytes(int64(len(document)))
	b.ReportAllocs()
	for b.Loop() {
		response := browser.NewResponse(discard{http.Header{"Content-Type": htmlType}}, bothEdit)
		for i := range document {
			_, _ = response.Write(document[i : i+1])
		}
		_, _ = response.Close(true)
	}
}
