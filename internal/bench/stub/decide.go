package stub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	gocache "github.com/patrickmn/go-cache"
	"golang.org/x/sync/singleflight"
)

// decisions is the service that somebody would write to stand behind
// forward_auth: 204 lets a request pass, 403 blocks it. It is as good as it
// gets with the usual parts: verified tokens and preferences are cached, and
// who waits for the same account shares a lookup.
type decisions struct {
	url    string
	tokens *gocache.Cache // token → verifiedToken
	prefs  *gocache.Cache // uid → bool, opted out
	asked  singleflight.Group
	client *http.Client
	parser *jwt.Parser
}

type verifiedToken struct {
	uid     string
	expires time.Time
}

func newDecisions(profile string) *decisions {
	const life = time.Hour
	return &decisions{
		url:    "http://" + profile + "/v1/metrics_optout",
		tokens: gocache.New(life, 10*time.Minute),
		prefs:  gocache.New(life, 10*time.Minute),
		client: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(),
			jwt.WithIssuer("https://accounts.example.org"), jwt.WithAudience("content")),
	}
}

func (d *decisions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := http.StatusNoContent
	if d.optedOut(r) {
		status = http.StatusForbidden
	}
	w.WriteHeader(status)
}

func (d *decisions) optedOut(r *http.Request) bool {
	if session, err := r.Cookie("session"); err == nil {
		if uid := d.uid(session.Value); uid != "" {
			optedOut, err := d.preference(r.Context(), uid)
			return err == nil && optedOut
		}
	}
	signal, err := r.Cookie("metrics_optout")
	return err == nil && signal.Value == "1"
}

func (d *decisions) uid(raw string) string {
	if known, ok := d.tokens.Get(raw); ok && known.(verifiedToken).expires.After(time.Now()) {
		return known.(verifiedToken).uid
	}
	var claims jwt.RegisteredClaims
	if _, err := d.parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return []byte(Secret), nil }); err != nil {
		return ""
	}
	d.tokens.SetDefault(strings.Clone(raw), verifiedToken{claims.Subject, claims.ExpiresAt.Time})
	return claims.Subject
}

func (d *decisions) preference(ctx context.Context, uid string) (bool, error) {
	if known, ok := d.prefs.Get(uid); ok {
		return known.(bool), nil
	}
	learnt, err, _ := d.asked.Do(uid, func() (any, error) {
		request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, d.url, nil)
		if err != nil {
			return false, err
		}
		request.Header.Set("X-User-Id", uid)
		response, err := d.client.Do(request)
		if err != nil {
			return false, err
		}
		defer response.Body.Close()
		var answer struct {
			Optout *bool `json:"metrics_optout"`
		}
		if response.StatusCode != http.StatusOK {
			return false, errors.New(response.Status)
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			return false, err
		}
		optedOut := answer.Optout != nil && *answer.Optout
		d.prefs.SetDefault(uid, optedOut)
		return optedOut, nil
	})
	return learnt.(bool), err
}
