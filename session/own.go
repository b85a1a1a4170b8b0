package session

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net/http"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

const (
	// OwnCookie is the cookie with the gate's own session. By its prefix no
	// browser takes it from a sibling subdomain, or without Secure.
	OwnCookie = "__Host-metrics_gate"
	// OwnNone is its value where the page has said that nobody is signed in.
	OwnNone = "0"
)

const (
	// provenFor is for how long after its proof an own session is verified. A
	// credential may have been revoked since.
	provenFor = 10 * time.Minute
	// ownLeeway is how far the clock of the instance that sealed may be ahead of
	// ours. What is ahead by more is expired: it can only block.
	ownLeeway = time.Minute
	// DefaultOwnLife is how long an own session names its account.
	DefaultOwnLife = 24 * time.Hour
	// MinOwnKeyBytes is the length of the shortest key that seals.
	MinOwnKeyBytes = 32
)

// Prover verifies what a page hands over.
type Prover interface {
	// Prove says what came of a proof, which is the text that would stand in the
	// header Authorization, whom it proves, and when the credential ends: zero
	// where that is not known.
	Prove(proof string, now time.Time) (subject Subject, ends time.Time, outcome Outcome)
}

// OwnConfig is what own sessions are made of. Instances with the same Keys and
// Block open each other's.
type OwnConfig struct {
	// Prover verifies the proofs. Required.
	Prover Prover

	// Keys are secrets of at least MinOwnKeyBytes. The first one seals, and all
	// of them open. At least one is required.
	Keys [][]byte

	// Block says by which session block of which configuration accounts are
	// proven: what was sealed for one opens for no other.
	Block string

	// Life is how long a session names its account; it is verified for 10
	// minutes of that. Default: DefaultOwnLife.
	Life time.Duration

	// CacheEntries bounds how many sessions that opened are remembered. Default:
	// 100000.
	CacheEntries int
}

// Own is the gate's own session, for applications that keep theirs where no
// request carries it. A page proves its account once; from then on a sealed
// cookie says whose request it is. It opens at every instance with the same
// keys, and only under the host that it was sealed for.
//
// It proves its account for 10 minutes. Then, until its life ends, it is
// Expired, and can only block: what was revoked must not allow or write for long.
// It never outlives the credential it came from.
type Own struct {
	config  OwnConfig
	digests *token.Digester
	hosts   maphash.Seed
	cache   tokenCache
}

// NewOwn checks the keys.
func NewOwn(config OwnConfig) (*Own, error) {
	if len(config.Keys) == 0 {
		return nil, errors.New("there is no key that seals it")
	}
	for _, key := range config.Keys {
		if len(key) < MinOwnKeyBytes {
			return nil, errors.New("a key has fewer than 32 bytes; write random ones (openssl rand -hex 32)")
		}
	}
	config.Life = cmp.Or(config.Life, DefaultOwnLife)
	return &Own{
		config: config, digests: token.NewDigester(), hosts: maphash.MakeSeed(),
		cache: newTokenCache(cmp.Or(config.CacheEntries, 100_000)),
	}, nil
}

// Len returns how many sessions are remembered that opened.
func (o *Own) Len() int { return o.cache.Len() }

// Life is how long a session names its account.
func (o *Own) Life() time.Duration { return o.config.Life }

// Prove verifies a proof. Where it is Verified, value is that of OwnCookie, and
// life is for how long.
func (o *Own) Prove(r *http.Request, proof string, now time.Time) (value string, life time.Duration, outcome Outcome) {
	if len(proof) > token.MaxTokenBytes {
		return "", 0, TooLong
	}
	subject, ends, outcome := o.config.Prover.Prove(proof, now)
	if outcome != Verified {
		return "", 0, outcome
	}
	life = o.config.Life
	if !ends.IsZero() {
		life = min(life, ends.Sub(now))
	}
	if life < time.Second { // past its end, and good only by what clocks may differ
		return "", 0, Expired
	}
	return o.seal(r, &sealed{
		uid: subject.UID, proven: now.Unix(), ends: now.Add(life).Unix(),
		hasClaim: subject.HasClaim, claim: subject.Claim, issued: subject.ClaimedAt.Unix(),
	}), life, Verified
}

// Credentials returns all values of the cookie that may be sessions.
func (o *Own) Credentials(r *http.Request) (first string, more []string) {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair cookie
			if pair, line = nextCookie(line); pair.name == OwnCookie && pair.value != OwnNone {
				first, more = another(first, more, pair.value)
			}
		}
	}
	return first, more
}

// Verify opens a session, unless the same one did a moment ago; then it does not
// allocate. One that does not open, or whose life has ended, is Absent.
func (o *Own) Verify(r *http.Request, raw string, now time.Time) (Subject, Outcome) {
	if len(raw) > maxSealed {
		return Subject{}, Absent
	}
	host, unix := hostOf(r), now.Unix()
	key := o.digests.Digest(raw)
	// What opens under one host must not be remembered for another.
	binary.LittleEndian.PutUint64(key[:], binary.LittleEndian.Uint64(key[:])^maphash.String(o.hosts, host))
	if known, ok := o.cache.get(&key, unix); ok {
		return known.subject("", now), Verified
	}
	s, ok := o.open(host, raw, now)
	switch {
	case !ok || unix >= min(s.ends, s.proven+seconds(o.config.Life)):
		return Subject{}, Absent
	case unix >= s.proven+seconds(provenFor) || s.proven > unix+seconds(ownLeeway):
		return Subject{UID: s.uid}, Expired
	}
	fresh := verified{
		uid: s.uid, until: min(s.ends, s.proven+seconds(provenFor)),
		issued: s.issued, hasClaim: s.hasClaim, claim: s.claim,
	}
	o.cache.put(&key, fresh)
	return fresh.subject("", now), Verified
}

// ReplaceOwn makes a value the only one of the cookie that a request carries;
// with "" it carries none.
func ReplaceOwn(h http.Header, value string) {
	var kept []string
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair cookie
			if pair, line = nextCookie(line); pair.name != OwnCookie {
				kept = append(kept, pair.name+"="+pair.value)
			}
		}
	}
	if value != "" {
		kept = append(kept, OwnCookie+"="+value)
	}
	if len(kept) == 0 {
		h.Del("Cookie")
		return
	}
	h["Cookie"] = []string{strings.Join(kept, "; ")}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// sealed is what a session says. Times are Unix seconds.
type sealed struct {
	uid          string
	proven, ends int64
	// issued, hasClaim and claim are as in verified.
	issued   int64
	hasClaim bool
	claim    policy.Preference
}

// A sealed session is, in base64url: the UTC day whose key sealed it, as days
// since 1970, a nonce, and the ciphertext of head and account with its tag.
const (
	dayBytes   = 4
	nonceBytes = 12
	tagBytes   = 16
	headBytes  = 8 + 8 + 8 + 1
	maxUID     = 255
	secondsDay = 24 * 60 * 60
)

// maxSealed bounds the text, before anything of it is read.
var maxSealed = base64.RawURLEncoding.EncodedLen(dayBytes + nonceBytes + headBytes + maxUID + tagBytes)

// encoding refuses what would be a second spelling of the same bytes.
var encoding = base64.RawURLEncoding.Strict()

func (o *Own) seal(r *http.Request, s *sealed) string {
	day := uint32(s.proven / secondsDay) //nolint:gosec // days since 1970
	out := make([]byte, dayBytes+nonceBytes, dayBytes+nonceBytes+headBytes+maxUID+tagBytes)
	binary.BigEndian.PutUint32(out, day)
	nonce := out[dayBytes:]
	_, _ = rand.Read(nonce) // never fails, see crypto/rand

	plain := make([]byte, 0, headBytes+len(s.uid))
	for _, at := range [...]int64{s.proven, s.ends, s.issued} {
		plain = binary.BigEndian.AppendUint64(plain, uint64(at)) //nolint:gosec // the same bits come back
	}
	claim := byte(0)
	if s.hasClaim {
		claim = 1 + byte(s.claim)
	}
	plain = append(append(plain, claim), s.uid...)
	return encoding.EncodeToString(dayKey(o.config.Keys[0], day).Seal(out, nonce, plain, o.bound(hostOf(r))))
}

// open opens a text under any of the keys.
func (o *Own) open(host, raw string, now time.Time) (sealed, bool) {
	text, err := encoding.DecodeString(raw)
	if err != nil || len(text) < dayBytes+nonceBytes+headBytes+tagBytes {
		return sealed{}, false
	}
	day := binary.BigEndian.Uint32(text)
	// No key is derived for days whose sessions have all ended, nor for those to come
	// but the next: a clock that is ahead may have sealed there, and what it sealed names.
	if age := now.Unix() - int64(day)*secondsDay; age < -secondsDay || age > secondsDay+seconds(o.config.Life) {
		return sealed{}, false
	}
	nonce, box := text[dayBytes:][:nonceBytes], text[dayBytes+nonceBytes:]
	bound := o.bound(host)
	for _, key := range o.config.Keys {
		plain, err := dayKey(key, day).Open(nil, nonce, box, bound)
		if err != nil {
			continue
		}
		s := sealed{
			proven:   int64(binary.BigEndian.Uint64(plain)),      //nolint:gosec // as in seal
			ends:     int64(binary.BigEndian.Uint64(plain[8:])),  //nolint:gosec // as in seal
			issued:   int64(binary.BigEndian.Uint64(plain[16:])), //nolint:gosec // as in seal
			hasClaim: plain[24] > 0,
			uid:      string(plain[headBytes:]),
		}
		if s.hasClaim {
			s.claim = policy.Preference(plain[24] - 1)
		}
		return s, true
	}
	return sealed{}, false
}

// dayKey is the key of one day, so that none seals more than a day's worth.
func dayKey(secret []byte, day uint32) cipher.AEAD {
	info := "metrics gate, own session, " + time.Unix(int64(day)*secondsDay, 0).UTC().Format(time.DateOnly)
	key, _ := hkdf.Key(sha256.New, secret, nil, info, 32) // fails for greater lengths only
	block, _ := aes.NewCipher(key)                        // fails for other lengths only
	aead, _ := cipher.NewGCM(block)                       // fails for other blocks only
	return aead
}

// bound is the additional data: where the session counts.
func (o *Own) bound(host string) []byte { return []byte(host + "\x00" + o.config.Block) }

// hostOf is the host that the client asked for, without port.
func hostOf(r *http.Request) string {
	host := r.Host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.ToLower(host)
}

var _ Source = (*Own)(nil)
var _ Prover = (*Bearer)(nil)
