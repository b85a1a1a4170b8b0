package browser_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
)

// The handshake's script becomes the first thing in an application's pages. The
// application knows nothing of it.
func ExampleNewResponse() {
	application := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprint(w, "<!doctype html><html><head><title>Sign in</title></head></html>")
	})
	script := browser.NewScript(browser.ScriptConfig{Timeout: 2 * time.Second})
	tag := script.Tag(browser.TagOptions{})

	mux := http.NewServeMux()
	mux.Handle(browser.Base, script)
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		browser.PrepareRequest(r.Header)
		page, complete := browser.NewResponse(w, browser.Edit{Insert: tag}), false
		defer func() { // also where the application panics
			result, _ := page.Close(complete)
			fmt.Println(result)
		}()
		application.ServeHTTP(page, r)
		complete = true
	})

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/signin", nil))
	fmt.Println(strings.Replace(w.Body.String(), string(tag), "<script …></script>", 1))

	w = httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, script.URL(), nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output:
	// injected
	// <!doctype html><html><head><script …></script><title>Sign in</title></head></html>
	// 200 text/javascript; charset=utf-8
}

// Somebody who is signed in and has opted out looks at the preference page, and
// then allows metrics.
func ExamplePreferencePage_Render() {
	page := browser.NewPreferencePage()
	w := httptest.NewRecorder()
	page.Render(w, http.StatusOK, browser.View{
		SiteName: "example.org", Locale: "en", SignedIn: true, CanChoose: true,
		Preference: policy.OptedOut, ETag: `"v1"`,
		Decision: policy.DefaultRules().Decide(policy.Verified, policy.OptedOut, policy.SignalNone),
	})
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "You are not measured"))

	form := httptest.NewRequest(http.MethodPost, browser.Base+"preference", strings.NewReader("choice=allow&etag=%22v1%22"))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	choice, etag, err := browser.ParseChoice(form)
	if err != nil {
		fmt.Println(err)
		return
	}
	preference, _ := choice.Preference()
	fmt.Println(choice, preference, "if it still is", etag)
	// Output:
	// 200 true
	// allow false if it still is "v1"
}
