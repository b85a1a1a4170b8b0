package profileserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// A profile server on net/http alone. A client that it trusts records a user's
// choice, and reads it.
func Example() {
	folder, err := os.MkdirTemp("", "preferences")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	store, err := prefstore.Open(context.Background(), filepath.Join(folder, "profile.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	secret := []byte("a secret of at least 32 bytes, or a key in PEM")
	verifier, err := token.NewVerifier(token.Config{Secret: secret})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer verifier.Close()
	server := profileserver.New(profileserver.Config{
		Store:          store,
		Tokens:         []profileserver.Verifier{verifier},
		TrustedClients: []string{"settings-page"},
		Standalone:     true,
	})
	defer server.Close() // which ends the streams of changes
	web := httptest.NewServer(server)
	defer web.Close()

	minter, err := token.NewMinter(token.MinterConfig{Key: secret, ClientID: "settings-page", Lifetime: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	ask := func(method, scope, body string) {
		bearer, err := minter.Mint("ann", scope, "user", time.Now())
		if err != nil {
			fmt.Println(err)
			return
		}
		request, err := http.NewRequest(method, web.URL+"/v1/metrics_optout", strings.NewReader(body))
		if err != nil {
			fmt.Println(err)
			return
		}
		request.Header.Set("Authorization", "Bearer "+bearer)
		request.Header.Set("Content-Type", "application/json")
		response, err := web.Client().Do(request)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		fmt.Println(method, response.StatusCode, string(text), err)
	}
	ask("GET", "profile:metrics_optout", "")
	ask("POST", "profile:metrics_optout:write", `{"metrics_optout":true}`)
	ask("GET", "profile:metrics_optout", "")
	ask("POST", "profile:metrics_optout", `{"metrics_optout":false}`) // which may only read
	// Output:
	// GET 200 {"metrics_optout":null} <nil>
	// POST 200 {} <nil>
	// GET 200 {"metrics_optout":true} <nil>
	// POST 403 {"code":403,"errno":999,"error":"Forbidden","message":"Insufficient scope"} <nil>
}
