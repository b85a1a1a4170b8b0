package profilemodule

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/token"
)

const profileServerText = `profile_server {
	store sqlite %file
	tokens jwt {
		secret {file.../testdata/keys/shared.secret}
		issuer id
		audience profile
	}
	trusted_client relier
	operator_client operations
	statsd 127.0.0.1:1
	%more
}`

func tryProfileServer(tb testing.TB, file, more string) (*ProfileServer, error) {
	tb.Helper()
	server := new(ProfileServer)
	text := strings.NewReplacer("%file", file, "%more", more).Replace(profileServerText)
	if err := server.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		return nil, err
	}
	if err := server.Provision(adapttest.Context(tb)); err != nil {
		return nil, errors.Join(err, server.Cleanup()) // as Caddy does
	}
	tb.Cleanup(func() {
		if err := server.Cleanup(); err != nil {
			tb.Error(err)
		}
	})
	return server, nil
}

func newProfileServer(tb testing.TB, file, more string) *ProfileServer {
	tb.Helper()
	server, err := tryProfileServer(tb, file, more)
	if err != nil {
		tb.Fatal(err)
	}
	return server
}

// mintFor makes a token with which this client may do all, to ann's account.
func mintFor(tb testing.TB, client string) string {
	tb.Helper()
	secret, err := os.ReadFile("../testdata/keys/shared.secret")
	if err != nil {
		tb.Fatal(err)
	}
	minter, err := token.NewMinter(token.MinterConfig{
		Key: bytes.TrimSpace(secret), Issuer: "id", Audience: "profile", ClientID: client, Lifetime: time.Minute,
	})
	if err != nil {
		tb.Fatal(err)
	}
	minted, err := minter.Mint("ann", "profile:write", "", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return minted
}

// callProfileServer sends a request as this client, for the account ann.
func callProfileServer(tb testing.TB, server *ProfileServer, client, method, path, body string) (int, string) {
	tb.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+mintFor(tb, client))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil) // as Caddy hands it to a handler
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, `{"email":"ann@example.org"}`)
		return err
	})
	if err := server.ServeHTTP(w, r, next); err != nil {
		tb.Fatal(err)
	}
	return w.Code, w.Body.String()
}

func TestProfileServerStandsInFrontOfAnother(t *testing.T) {
	t.Parallel()
	server := newProfileServer(t, filepath.Join(t.TempDir(), "profile.db"), "unset 204")
	for _, step := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/metrics_optout", "", http.StatusNoContent, ""},
		{"GET", "/v1/profile", "", http.StatusOK, `{"email":"ann@example.org"}`},
		{"POST", "/v1/metrics_optout", `{"metrics_optout":true}`, http.StatusOK, `{}`},
		{"GET", "/v1/metrics_optout", "", http.StatusOK, `{"metrics_optout":true}`},
		{"GET", "/v1/profile", "", http.StatusOK, `{"email":"ann@example.org","metrics_optout":true}`},
		{"GET", "/v1/display_name", "", http.StatusOK, `{"email":"ann@example.org"}`},
		{"POST", "/v1/events", "", http.StatusOK, `{"email":"ann@example.org"}`},
	} {
		if code, body := callProfileServer(t, server, "relier", step.method, step.path, step.body); code != step.code || body != step.want {
			t.Errorf("%s %s is answered %d %s, want %d %s", step.method, step.path, code, body, step.code, step.want)
		}
	}
	if code, _ := callProfileServer(t, server, "stranger", "GET", "/v1/metrics_optout", ""); code != http.StatusForbidden {
		t.Errorf("a client that is not trusted gets %d", code)
	}
}

// TestFollowersAreLetGo: a reload must not leave a stream behind, which would
// tell on from a configuration that is gone.
func TestFollowersAreLetGo(t *testing.T) {
	t.Parallel()
	server := newProfileServer(t, filepath.Join(t.TempDir(), "profile.db"), "")
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = server.ServeHTTP(w, r, nil)
	}))
	defer site.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL+"/v1/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+mintFor(t, "operations"))
	response, err := site.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	stream := bufio.NewReader(response.Body)
	if line, err := stream.ReadString('\n'); response.StatusCode != http.StatusOK || !strings.HasPrefix(line, "retry: ") {
		t.Fatalf("%s, %q, %v", response.Status, line, err)
	}
	if err := server.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
}

// TestReloadKeepsTheStore holds what two configurations share.
func TestReloadKeepsTheStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "profile.db")
	before := newProfileServer(t, file, "")
	after := newProfileServer(t, file, "standalone\ncors https://www.example.org\nunset 204")
	if got := after.leases; len(got) != 4 || !slices.Equal(before.leases, got) {
		t.Errorf("a reload shares %d and %d values, want the verifier, its secret, the agent and the store", len(before.leases), len(got))
	}
	other := newProfileServer(t, file+"2", "")
	if slices.Equal(before.leases, other.leases) {
		t.Error("another file has the same store")
	}
	if _, err := tryProfileServer(t, file, "events {\njwks /no/such/file\naudience here\n}"); err == nil {
		t.Fatal("no error")
	}
	for _, lease := range before.leases {
		if n := lease.References(); n < 2 {
			t.Errorf("the running configurations' state is counted as %d", n)
		}
	}
	// The one that goes away leaves the other whole.
	if err := before.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if code, body := callProfileServer(t, after, "relier", "POST", "/v1/metrics_optout", `{"metrics_optout":false}`); code != http.StatusOK {
		t.Errorf("answered %d %s", code, body)
	}
}

// TestReloadFetchesKeySets: what an operator reloads for is often a key that has
// to go.
func TestReloadFetchesKeySets(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(key ed25519.PublicKey) string {
		return `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + base64.RawURLEncoding.EncodeToString(key) + `"}]}`
	}
	var set atomic.Value
	set.Store(publish(public))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, set.Load().(string))
	}))
	defer issuer.Close()
	load := func() profileserver.Verifier {
		t.Helper()
		var held pool.Leases
		t.Cleanup(func() { _ = held.Release() })
		verifier, err := (&Tokens{JWT: &JWT{JWKS: issuer.URL}}).verifier(&held)
		if err != nil {
			t.Fatal(err)
		}
		return verifier
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
	unsigned.Header["kid"] = "k"
	signed, err := unsigned.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	verifier := load()
	becomes := func(want error) {
		t.Helper()
		for began := time.Now(); ; runtime.Gosched() {
			_, err := verifier.Verify(signed, time.Now())
			if errors.Is(err, want) {
				return
			}
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%v, want %v", err, want)
			}
		}
	}
	becomes(nil)
	set.Store(publish(other))
	if load() != verifier {
		t.Error("a reload has another verifier")
	}
	becomes(token.ErrBadSignature)
}

// TestProfileServerRefusesJSON holds what the Caddyfile cannot say.
func TestProfileServerRefusesJSON(t *testing.T) {
	t.Parallel()
	jwt := &JWT{Key: []string{"{file.../testdata/keys/ed25519.pub}"}, Issuer: []string{"id"}, Audience: []string{"profile"}}
	good := func() *ProfileServer {
		return &ProfileServer{Store: &Store{SQLite: filepath.Join(t.TempDir(), "profile.db")}, Tokens: []Tokens{{JWT: jwt}}}
	}
	for want, spoil := range map[string]func(*ProfileServer){
		"":                                   func(*ProfileServer) {},
		"profile_server › store: none given": func(p *ProfileServer) { p.Store = nil },
		"profile_server › store: two are":    func(p *ProfileServer) { p.Store.Postgres = "postgres://db" },
		"profile_server › unset: \"404\" is": func(p *ProfileServer) { p.Unset = "404" },
		"profile_server › events: 0 of key":  func(p *ProfileServer) { p.Events = new(Events) },
		"profile_server › tokens jwt: write": func(p *ProfileServer) { p.Tokens = []Tokens{{}} },
		"profile_server › tokens introspect (block 2 of 2): write": func(p *ProfileServer) {
			p.Tokens = append(p.Tokens, Tokens{JWT: jwt, Introspect: &Introspect{URL: "https://oauth.example.org/v1/verify"}})
		},
		"profile_server › tokens jwt: no audience": func(p *ProfileServer) { p.Tokens = []Tokens{{JWT: &JWT{Key: jwt.Key}}} },
		"profile_server › tokens introspect: neither client nor": func(p *ProfileServer) {
			p.Tokens = []Tokens{{Introspect: &Introspect{URL: "https://oauth.example.org/v1/verify"}}}
		},
		"profile_server › tokens jwt (block 2 of 2): no issuer": func(p *ProfileServer) {
			p.Tokens = append(p.Tokens, Tokens{JWT: &JWT{Key: jwt.Key, Audience: jwt.Audience}})
		},
		"profile_server › events: no audience": func(p *ProfileServer) { p.Events = &Events{Key: jwt.Key} },
		"profile_server › cors: \"null\" does": func(p *ProfileServer) { p.CORS = []string{"null"} },
	} {
		server := good()
		spoil(server)
		err := server.Provision(adapttest.Context(t))
		if cleanup := server.Cleanup(); cleanup != nil {
			t.Error(cleanup)
		}
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestRefusedConfigurationLeavesNoFile: caddy validate of a file with a
// mistake must not begin a database.
func TestRefusedConfigurationLeavesNoFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "profile.db")
	if _, err := tryProfileServer(t, file, "events {\njwks /no/such/file\naudience here\n}"); err == nil {
		t.Fatal("no error")
	}
	if found, err := filepath.Glob(file + "*"); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// TestEventsAreTakenByEitherIssuer: Firefox Accounts documents its issuer with
// a slash at the end and signs without.
func TestEventsAreTakenByEitherIssuer(t *testing.T) {
	t.Parallel()
	key := "{file.../testdata/keys/ed25519.pub}"
	text, err := os.ReadFile("../testdata/keys/ed25519.key")
	if err != nil {
		t.Fatal(err)
	}
	private, err := jwt.ParseEdPrivateKeyFromPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, configured := range []string{"https://accounts.firefox.com", "https://accounts.firefox.com/"} {
		events, err := placeholder.Copy(&Events{Issuer: []string{configured}, Key: []string{key}, Audience: []string{"relier"}})
		if err != nil {
			t.Fatal(err)
		}
		var held pool.Leases
		verifier, err := events.verifier(&held)
		if err != nil {
			t.Fatal(err)
		}
		for issuer, want := range map[string]error{
			"https://accounts.firefox.com":     nil,
			"https://accounts.firefox.com/":    nil,
			"https://accounts.firefox.com.evi": token.ErrWrongIssuer,
		} {
			signed, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
				"iss": issuer, "aud": "relier", "iat": time.Now().Unix(), // and no exp
			}).SignedString(private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := verifier.Verify(signed, time.Now()); !errors.Is(err, want) {
				t.Errorf("configured %s, signed by %s: %v, want %v", configured, issuer, err, want)
			}
		}
		if err := held.Release(); err != nil {
			t.Error(err)
		}
	}
}

func TestProfileServerWarnsAtStart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres://gate:s3cr3t@db/x":       "the password stands in the configuration",
		"host=db password=s3cr3t":           "the password stands in the configuration",
		"host=db password = 's3cr3t'":       "the password stands in the configuration",
		"postgres://db/x?password=s3cr3t":   "the password stands in the configuration",
		"postgres://gate:{env.PW}@db/x":     "",
		"postgres://gate@db:5432/x":         "",
		"postgres://db:5432/x":              "",
		"postgres://gate:{file./run/pw}@db": "",
		"postgresql://:s3cr3t@db/x":         "the password stands in the configuration",
		"host=db password={env.PW}":         "",
		"host=db password='{env.PW}'":       "",
		"{env.PROFILE_DSN}":                 "",
		"postgres://db/x?passfile=/run/pw":  "",
		"postgres://gate@db/x?user=a:b@c/d": "",
	} {
		core, logs := observer.New(zap.WarnLevel)
		(&ProfileServer{Store: &Store{Postgres: text}, TrustedClients: []string{"relier"}}).warn(zap.New(core))
		var got string
		for _, entry := range logs.All() {
			got += entry.Message
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: warns %q, want %q", text, got, want)
		}
	}
	core, logs := observer.New(zap.WarnLevel)
	(&ProfileServer{Store: &Store{SQLite: "x"}}).warn(zap.New(core))
	if logs.FilterMessageSnippet("no client is trusted").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

// TestProfileServerCounts counts with labels of its own, since other tests of
// this process count as well.
func TestProfileServerCounts(t *testing.T) {
	t.Parallel()
	own := t.Name() + rand.Text()
	o := serverObserver(nil)
	o.Request(own, "GET", 200, time.Millisecond)
	o.Request(own, "GET", 503, time.Millisecond)
	o.Request(own, "other", 404, time.Millisecond)
	o.Request(own, "other", 404, time.Millisecond)
	o.Change("true", own)
	o.Event(own, "changed")
	for want, counters := range map[float64][]prometheus.Counter{
		1: {
			serverRequestsTotal.WithLabelValues(own, "GET", "200"), serverRequestsTotal.WithLabelValues(own, "GET", "503"),
			changesTotal.WithLabelValues("true", own), eventsTotal.WithLabelValues(own, "changed"),
		},
		2: {serverRequestsTotal.WithLabelValues(own, "other", "404")},
	} {
		for _, counter := range counters {
			if got := testutil.ToFloat64(counter); got != want {
				t.Errorf("%v counts %v, want %v", counter.Desc(), got, want)
			}
		}
	}
}

func TestProfileServerMetricsSurviveReloads(t *testing.T) {
	t.Parallel()
	newProfileServer(t, filepath.Join(t.TempDir(), "profile.db"), "") // so that there is a store
	for range 2 {
		registry := prometheus.NewPedanticRegistry()
		for range 2 { // two sites of one configuration
			if err := registerMetrics(registry); err != nil {
				t.Fatal(err)
			}
		}
		problems, err := testutil.GatherAndLint(registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("error %v, problems %v", err, problems)
		}
		if n, err := testutil.GatherAndCount(registry, "caddy_profile_server_store_up"); n != 1 || err != nil {
			t.Errorf("%d samples say whether the stores are up, error %v", n, err)
		}
	}
}
