package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestExample(t *testing.T) {
	t.Parallel()
	served := handler()
	ask := func(method, path, cookie string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Sec-Fetch-Dest", "document")
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		served.ServeHTTP(w, r)
		return w
	}
	for cookie, want := range map[string]string{"metrics_optout=true": "block", "": "collect"} {
		if w := ask(http.MethodPost, "/beacon", cookie); (w.Body.Len() == 0) != (want == "block") {
			t.Errorf("cookie %q: the beacon is answered with %d %s", cookie, w.Code, w.Body)
		}
		page := ask(http.MethodGet, "/", cookie).Body.String()
		if !strings.HasSuffix(page, "<body>/ "+want) || !strings.Contains(page, "<head><script src=") {
			t.Errorf("cookie %q: the page is %s", cookie, page)
		}
	}
	if w := ask(http.MethodGet, "/.well-known/metrics-gate/preference", ""); !strings.Contains(w.Body.String(), "You are measured.") {
		t.Errorf("the preference page is %s", w.Body)
	}
}
