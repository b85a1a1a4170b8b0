package tests

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

func gzipped(s string) string {
	return compressed(s, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zlibbed(s string) string {
	return compressed(s, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}

func deflated(s string) string {
	return compressed(s, func(w io.Writer) io.WriteCloser { return testcaddy.Must(flate.NewWriter(w, flate.BestSpeed)) })
}

func compressed(s string, into func(io.Writer) io.WriteCloser) string {
	var out bytes.Buffer
	w := into(&out)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return out.String()
}

// isProblem holds an answer against RFC 9457: what may be absent may be absent,
// and what it says of its status is so.
func isProblem(t testing.TB, a answer) {
	t.Helper()
	var problem struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
	}
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil || problem.Title == "" ||
		(problem.Status != 0 && problem.Status != a.status) {
		t.Errorf("%q is no problem detail of RFC 9457", a.body)
	}
}
