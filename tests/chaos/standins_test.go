package chaos

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// arrival is a request that reached an application.
type arrival struct {
	mark     uint64 // which it is; 0: none of the load's
	process  int    // of the edge that passed it
	decision string
	target   string // method and address
	body     []byte
}

// application stands in for a content server. It answers the same to everybody.
type application struct {
	server  *httptest.Server
	arrived func(*arrival)
}

func newApplication(t *testing.T) *application {
	a := &application{}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

func (a *application) addr() string { return a.server.Listener.Addr().String() }

const markHeader = "X-Mark"

const document = `<!doctype html><html><head><title>Settings</title></head><body><p>Your settings.</p></body></html>`

// asset is what is neither gated nor a page.
var asset = bytes.Repeat([]byte("0123456789abcdef"), 2<<10)

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut off, and so it has not arrived
	}
	request := &arrival{decision: r.Header.Get("Metrics-Gate-Decision"), target: r.Method + " " + r.URL.RequestURI(), body: body}
	request.mark, _ = strconv.ParseUint(r.Header.Get(markHeader), 10, 64)
	request.process, _ = strconv.Atoi(r.Header.Get("X-Process"))
	a.arrived(request)
	header := w.Header()
	header.Set("X-Powered-By", "content-server")
	switch {
	case strings.HasPrefix(r.URL.Path, "/settings"):
		header.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, document)
	case r.URL.Path == "/logo.svg":
		header.Set("Content-Type", "image/svg+xml")
		header.Set("ETag", `"logo"`)
		_, _ = w.Write(asset)
	case r.URL.Path == "/account":
		header.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(body)
	default:
		header.Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, collectedReply)
	}
}

// collectedReply is what the application says of gated requests.
const collectedReply = `{"collected":true}`

// keySet stands in for who signs sessions. Its key changes, and then has another
// name, or the same.
type keySet struct {
	server *httptest.Server

	mu        sync.Mutex
	key       signingKey
	withdrawn signingKey // the one before
	rotations int
}

// signingKey is a key and its name.
type signingKey struct {
	kid     int
	private *ecdsa.PrivateKey
}

func (k signingKey) name() string { return fmt.Sprint("key", k.kid) }

// sign makes a session of an account.
func (k signingKey) sign(uid string, expired bool) string {
	claims := testcaddy.Claims(uid, map[string]any{"exp": 4_000_000_000})
	if expired {
		claims = testcaddy.Claims(uid, testcaddy.Expired)
	}
	return testcaddy.Sign(jwt.SigningMethodES256, k.private, map[string]any{"kid": k.name()}, claims)
}

func newKeySet(t *testing.T) *keySet {
	k := &keySet{}
	k.rotate(true)
	k.server = httptest.NewServer(k)
	t.Cleanup(k.server.Close)
	return k
}

func (k *keySet) addr() string { return k.server.Listener.Addr().String() }

func (k *keySet) rotate(renamed bool) {
	private := testcaddy.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.withdrawn = k.key
	k.key.private = private
	k.rotations++
	if renamed {
		k.key.kid++
	}
}

// signing is the key that signs now, the one before, and how often it has changed
// so far.
func (k *keySet) signing() (key, withdrawn signingKey, rotations int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key, k.withdrawn, k.rotations
}

// count is how often the key has changed so far.
func (k *keySet) count() int64 {
	_, _, rotations := k.signing()
	return int64(rotations)
}

func (k *keySet) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	key, _, _ := k.signing()
	point := testcaddy.Must(key.private.PublicKey.Bytes())[1:] // behind the form's byte
	coordinate := func(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.name(), "x": coordinate(point[:32]), "y": coordinate(point[32:]),
	}}})
}
