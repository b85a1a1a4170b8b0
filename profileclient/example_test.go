package profileclient_test

import (
	"context"
	"fmt"
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
