package profileclient_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
)

// A service of your own asks whether it may measure what a user does. The
// second answer comes from the cache.
func ExampleClient_Lookup() {
	profileServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked for", r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{"metrics_optout":true}`)
	}))
	defer profileServer.Close()

	client, err := profileclient.New(profileclient.Config{
		URL:     profileServer.URL + "/users/{uid}/privacy",
		Auth:    profileclient.Bearer("the token of your service"),
		Timeout: 5 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for range 2 {
		preference := client.Lookup(context.Background(), profileclient.Account{UID: "ann"}, time.Now())
		fmt.Println("opted out:", preference == policy.OptedOut)
	}
	// Output:
	// asked for /users/ann/privacy
	// opted out: true
	// opted out: true
}

// A settings page shows what an account holds and saves what its user chooses,
// unless that was changed elsewhere since the page was shown.
func ExampleClient_Choose() {
	held := `{"metrics_optout":null}`
	profileServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(held)))
		switch body, _ := io.ReadAll(r.Body); {
		case r.Method == http.MethodGet:
			w.Header().Set("ETag", tag)
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, held)
		case r.Header.Get("If-Match") != tag:
			w.WriteHeader(http.StatusPreconditionFailed)
		default:
			held = string(body)
		}
	}))
	defer profileServer.Close()

	client, err := profileclient.New(profileclient.Config{
		URL:     profileServer.URL + "/users/{uid}/privacy",
		Auth:    profileclient.Bearer("the token of your service"),
		Timeout: 5 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	ctx, ann := context.Background(), profileclient.Account{UID: "ann"}
	shown, err := client.Read(ctx, ann)
	fmt.Println(shown.Preference, err)

	fmt.Println(client.Choose(ctx, ann, policy.Allowed, shown.ETag))
	fmt.Println(client.Choose(ctx, ann, policy.OptedOut, shown.ETag)) // of a page that is old
	fmt.Println(client.Lookup(ctx, ann, time.Now()))
	// Output:
	// null <nil>
	// <nil>
	// the preference was changed in the meantime
	// false
}
