package session_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// An application keeps a signed token in a cookie. Here it mints one itself.
func ExampleSources_Find() {
	secret := []byte("a secret of at least 32 random bytes")
	minter, err := token.NewMinter(token.MinterConfig{Key: secret, Lifetime: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := token.NewVerifier(token.Config{Secret: secret})
	if err != nil {
		fmt.Println(err)
		return
	}
	bearer := session.NewBearer(verifier, session.BearerConfig{Cookie: "session"})
	defer bearer.Close() // and the verifier
	sources := session.Sources{bearer}

	now := time.Now()
	good, err := minter.Mint("ann", "", "", now)
	if err != nil {
		fmt.Println(err)
		return
	}
	old, err := minter.Mint("ann", "", "", now.Add(-2*time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, cookie := range []string{"session=" + good, "session=" + old, "session=forged", "lang=en"} {
		r := httptest.NewRequest(http.MethodPost, "/beacon", nil)
		r.Header.Set("Cookie", cookie)
		found := sources.Find(r, now, func(_ int, _ string, outcome session.Outcome) { fmt.Print(outcome, ": ") })
		fmt.Printf("%v, proves %q, names %q\n", found.Session, found.Subject.UID, found.Named)
	}
	// Output:
	// verified: verified, proves "ann", names []
	// expired: expired, proves "", names ["ann"]
	// malformed: unverifiable, proves "", names []
	// absent: none, proves "", names []
}

// What a browser says of its user stands in a cookie, in a header of ours, and,
// if that is to count, in Global Privacy Control, which speaks of this site and
// so belongs into nobody's profile.
func ExampleSignals_Read() {
	signals := session.Signals{Cookies: []string{"metrics_optout"}, Headers: []string{"Metrics-Optout"}, GPC: true}
	for _, h := range []http.Header{
		{"Cookie": {"lang=en; metrics_optout=1"}},
		{"Metrics-Optout": {"false"}},
		{"Sec-Gpc": {"1"}},
		{},
	} {
		fmt.Println(signals.Read(h))
	}
	// Output:
	// opted_out
	// no_objection
	// unrecorded
	// none
}
