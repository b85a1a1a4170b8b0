package token_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/metricsgate/metricsgate/token"
)

// A service mints a token with which it asks for the preference of an account,
// and the profile server verifies it. The two share a secret.
func Example() {
	const profile, scope = "https://profile.example.org/v1", "profile:metrics_optout"
	shared := []byte("a secret of at least 32 random bytes")

	minter, err := token.NewMinter(token.MinterConfig{
		Key: shared, Issuer: "metrics-gate", Audience: profile, Lifetime: time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := token.NewVerifier(token.Config{
		Secret: shared, Issuers: []string{"metrics-gate"}, Audiences: []string{profile},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer verifier.Close()

	now := time.Now()
	raw, err := minter.Mint("ann", scope, "", now)
	if err != nil {
		fmt.Println(err)
		return
	}
	claims, err := verifier.Verify(raw, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	subject, _ := claims.String("sub")
	granted, _ := claims.String("scope")
	fmt.Println(subject, "may be asked about:", token.Implies(granted, scope))
	fmt.Println(subject, "may be written:", token.Implies(granted, scope+":write"))

	_, err = verifier.Verify(raw, now.Add(time.Hour))
	fmt.Println("an hour later:", err, errors.Is(err, token.ErrExpired))
	// Output:
	// ann may be asked about: true
	// ann may be written: false
	// an hour later: the token has expired true
}

// An opaque token says nothing by itself, so its issuer is asked, once.
func ExampleIntrospector() {
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked about", r.PostFormValue("token"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"active":true,"sub":"ann"}`)
	}))
	defer issuer.Close()

	introspector, err := token.NewIntrospector(token.IntrospectionConfig{
		URL: issuer.URL + "/introspect", BasicID: "our client id", BasicSecret: "its secret", Timeout: 5 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer introspector.Close()

	now := time.Now()
	for range 2 {
		claims, err := introspector.Verify("6d940dd41e636cc1", now)
		if err != nil {
			fmt.Println(err)
			return
		}
		subject, _ := claims.String("sub")
		fmt.Println(subject)
	}
	// Output:
	// asked about 6d940dd41e636cc1
	// ann
	// ann
}

// Scopes imply one another as those of Firefox Accounts do.
func ExampleImplies() {
	fmt.Println(token.Implies("openid profile", "profile:metrics_optout"))
	fmt.Println(token.Implies("openid profile", "profile:metrics_optout:write"))
	fmt.Println(token.Implies("profile:write", "profile:metrics_optout:write"))
	// Output:
	// true
	// false
	// true
}
