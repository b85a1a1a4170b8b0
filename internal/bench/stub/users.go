// Package stub holds what the measurements put around a gate: users with their
// sessions, the application, the profile server, and the decision service that
// stands behind forward_auth. All of them are made up, and none is secret.
package stub

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Secret signs the sessions; every gate knows it.
const Secret = "bench-secret-0123456789abcdef0123456789abcdef"

// GateSecret signs the gate's own tokens: one that signs sessions may not.
const GateSecret = "gate-secret-0123456789abcdef0123456789abcdef"

// Answer is what the application says to a beacon, and what a gate says in its
// place.
const Answer = `{"success":true}`

// UID is the account of the user with the number, in the content server's form.
func UID(user int) string {
	sum := sha256.Sum256(strconv.AppendInt([]byte("user"), int64(user), 10))
	return hex.EncodeToString(sum[:16])
}

// Preference is what an account prefers: of ten, one has opted out, one has
// allowed, and eight have made no choice.
func Preference(uid string) string {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(uid))
	switch sum.Sum32() % 10 {
	case 0:
		return "true"
	case 1:
		return "false"
	}
	return "null"
}

// Session is a token that proves the account for a month.
func Session(uid string) string { return SessionBy(uid, Secret, InAMonth()) }

// InAMonth is when sessions expire.
func InAMonth() time.Time { return time.Now().Add(30 * 24 * time.Hour) }

// SessionBy is a token for the account that is signed with the secret and
// expires when said.
func SessionBy(uid, secret string, expires time.Time) string {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "https://accounts.example.org", "aud": "content", "sub": uid,
		"iat": time.Now().Unix(), "exp": expires.Unix(), "jti": uid[:16],
	}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // HMAC takes any key
	}
	return signed
}

// Beacon is 2 KB of telemetry of the kind that the content server gets, and
// names the account.
func Beacon(uid string) string {
	var b strings.Builder
	b.WriteString(`{"broker":"firefox","duration":84123,"flowBeginTime":1764000000000,"flowId":"` + strings.Repeat("9f", 32) +
		`","uid":"` + uid + `","screen":{"clientHeight":969,"clientWidth":1848,"devicePixelRatio":1,"height":1080,"width":1920},"events":[`)
	for i := 0; b.Len() < 2000; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		n := strconv.Itoa(i)
		b.WriteString(`{"offset":1` + n + `37,"type":"screen.signin.step-` + n + `"}`)
	}
	b.WriteString(`],"utm_source":"none"}`)
	return b.String()
}

// BatchEvents is how many events a Batch has.
const BatchEvents = 50

// Batch is events such as analytics.js sends together, of 600 bytes each. Each
// names the account; the whole is compressed by gzip.
func Batch(uid string) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, `{"batch":[`)
	for i := range BatchEvents {
		if i > 0 {
			_, _ = io.WriteString(w, ",")
		}
		fmt.Fprintf(w, `{"timestamp":"2026-11-28T03:04:%02d.%03dZ","integrations":{},"userId":"%s","anonymousId":"%s","event":"Step viewed","type":"track",`+
			`"properties":{"step":"step-%d","duration":%d},"context":{"page":{"path":"/step/%d","referrer":"https://content.example.org/","search":"",`+
			`"title":"Step %d of yours","url":"https://content.example.org/step/%d"},"userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",`+
			`"locale":"en-US","library":{"name":"analytics.js","version":"next-1.84.3"}},"messageId":"ajs-next-1764299045%03d-%s"}`,
			i, 19*i, uid, UID(-1), i, 137*i, i, i, i, 19*i, UID(i))
	}
	_, _ = io.WriteString(w, `]}`)
	_ = w.Close()
	return packed.Bytes()
}
