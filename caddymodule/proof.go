package caddymodule

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// SessionFxA has the pages of Firefox Accounts prove who is signed in. Their
// session is in the browser's storage, and no request carries it. The handshake's
// script derives from it what the auth server takes, and hands it over; the gate
// asks the auth server whose it is, and keeps the answer in its own session. It
// needs a handshake.
type SessionFxA struct {
	// URL is the auth server's address as its clients know it, such as
	// https://auth.example.org/v1. The gate asks <url>/session/status. Required.
	URL string `json:"url,omitempty"`

	// Hawk has the script hand over a signed Hawk header, for auth servers before
	// May 2026, in place of the bearer token that they take since. Default: false.
	Hawk bool `json:"hawk,omitempty"`

	// Dial is the auth server's address as the gate reaches it, where it cannot
	// reach URL; it is asked in the name of URL's host all the same. Default: URL.
	Dial string `json:"dial,omitempty"`

	// AllowHTTP has the gate ask other machines by http too, where nobody can read
	// or change what is on the way. Default: false, so that http is for this
	// machine only.
	AllowHTTP bool `json:"allow_http,omitempty"`

	// Timeout is how long the script's report waits for the auth server; nothing
	// else does. Default: 2s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// StorageItem is where a page keeps its token.
type StorageItem struct {
	// Key is that of the item. Required.
	Key string `json:"key,omitempty"`

	// Path leads to the token in an item that is JSON: names of members, and
	// places in lists, separated by dots, such as user.access_token. Default: the
	// item is the token.
	Path string `json:"path,omitempty"`
}

const (
	defaultProofTimeout = 2 * time.Second
	// proofMaxAge is how long the auth server's word is taken for the same proof:
	// for the pages that a browser opens at once.
	proofMaxAge = 10 * time.Second
	// proofEntries bounds how many of its words are remembered.
	proofEntries = 1000
)

// base is a URL without the slash at its end.
func base(address string) string { return strings.TrimRight(address, "/") }

func (s *SessionFxA) validate() error {
	for _, address := range []struct{ word, url string }{{"url", s.URL}, {"dial", cmp.Or(s.Dial, s.URL)}} {
		u, err := url.Parse(address.url)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return located.Errorf(address.word, "this is not the auth server's address; write one such as https://auth.example.org/v1")
		}
	}
	if s.Timeout < 0 {
		return located.Errorf("timeout", "is negative; leave it out for 2s")
	}
	return nil
}

// config says how the auth server is asked.
func (s *SessionFxA) config() (token.IntrospectionConfig, error) {
	if err := s.validate(); err != nil {
		return token.IntrospectionConfig{}, err
	}
	public, _ := url.Parse(s.URL) // validate has looked at it
	return token.IntrospectionConfig{
		URL:        base(cmp.Or(s.Dial, s.URL)) + "/session/status",
		Host:       public.Host,
		AllowHTTP:  s.AllowHTTP,
		Manner:     token.FxASession,
		Timeout:    cmp.Or(time.Duration(s.Timeout), defaultProofTimeout),
		MaxAge:     proofMaxAge,
		MaxEntries: proofEntries,
		OnError: func(err error) {
			caddy.Log().Named(gateID).Warn("the auth server cannot be asked whose a proof is: pages that hand one over prove nothing until that works again", zap.Error(err))
		},
	}, nil
}

// proof is where the session's pages keep what proves their account, and nil
// where requests carry it.
func (s *Session) proof() *browser.Proof {
	if s.FxA != nil {
		proof := &browser.Proof{FxA: true}
		if s.FxA.Hawk {
			proof.Hawk = base(s.FxA.URL)
		}
		return proof
	}
	c := s.credential()
	switch {
	case c == nil:
		return nil
	case c.LocalStorage != nil:
		return &browser.Proof{LocalStorage: c.LocalStorage.Key, Path: c.LocalStorage.Path}
	case c.SessionStorage != nil:
		return &browser.Proof{SessionStorage: c.SessionStorage.Key, Path: c.SessionStorage.Path}
	}
	return nil
}

// checkStorage refuses what leads nowhere.
func (c *Credential) checkStorage() error {
	if c.LocalStorage != nil && c.SessionStorage != nil {
		return located.Errorf("session_storage", "there is local_storage as well; leave one out")
	}
	for word, item := range map[string]*StorageItem{"local_storage": c.LocalStorage, "session_storage": c.SessionStorage} {
		if item != nil && item.Key == "" {
			return located.Errorf(word, "no key is set; write %s <key> [<json-path>]", word)
		}
	}
	return nil
}

// block says what has to be the same for a proof to prove the same: an own
// session that was sealed for one block opens for no other.
func (s *Session) block() string {
	proves := map[string]any{"kind": s.kind()}
	switch {
	case s.FxA != nil:
		proves["url"] = base(s.FxA.URL)
	case s.Introspect != nil:
		i := s.Introspect
		proves["url"], proves["issuer"], proves["audience"], proves["client"], proves["uid_claim"] = i.URL, i.Issuer, i.Audience, i.Client, i.UIDClaim
	case s.JWT != nil:
		j := s.JWT
		proves["url"], proves["issuer"], proves["audience"], proves["typ"] = j.JWKS, j.Issuer, j.Audience, j.Typ
		proves["keys"] = sha256.Sum256(fmt.Appendf(nil, "%q %q", j.Secret, j.Key))
		proves["uid_claim"], proves["optout_claim"] = j.UIDClaim, j.OptOutClaim
	}
	text, _ := json.Marshal(proves) // never fails for these types
	return string(text)
}

// provesByPage says whether the gate's pages prove accounts.
func (g *Gate) provesByPage() bool {
	for i := range g.Sessions {
		if g.Sessions[i].proof() != nil {
			return true
		}
	}
	return false
}

// own is the gate's own session for what that prover proves.
func (g *Gate) own(prover session.Prover, block string) (*session.Own, error) {
	config := session.OwnConfig{Prover: prover, Block: block, CacheEntries: g.Profile.maxEntries()}
	if g.Handshake != nil {
		config.Life = time.Duration(g.Handshake.SessionLife)
	}
	for _, key := range g.SessionKey {
		if len(key) < session.MinOwnKeyBytes {
			return nil, errors.New("a session_key has fewer than 32 bytes; write random ones (openssl rand -hex 32)")
		}
		config.Keys = append(config.Keys, []byte(key))
	}
	if len(config.Keys) == 0 && g.Profile.canWrite() {
		key, err := token.KeyBytes([]byte(g.Profile.Auth.Mint.Key))
		if err != nil {
			return nil, at(err, "profile", "auth mint", "key")
		}
		config.Keys = append(config.Keys, key)
	}
	if len(config.Keys) == 0 {
		return nil, errors.New("nothing seals the gate's own session, in which it keeps what pages prove; write session_key {file./path/to/a.secret}")
	}
	return session.NewOwn(config)
}

// validateProof refuses what only makes sense where pages prove accounts, and what
// makes none there.
func (g *Gate) validateProof() error {
	proves := g.provesByPage()
	switch {
	case !proves && len(g.SessionKey) > 0:
		return located.Errorf("session_key", "nothing is sealed, since no session has its credential in the browser's storage; leave it out, or write session fxa, local_storage or session_storage")
	case !proves && g.Handshake != nil && g.Handshake.SessionLife != 0:
		return located.Errorf("handshake › session_life", "the gate has no session of its own, since no session has its credential in the browser's storage; leave it out")
	case proves && g.Profile != nil && g.Profile.Auth.Forward:
		return located.Errorf("profile › auth forward", "the gate's own session holds no token that could be forwarded, so every account would be unknown; use auth mint")
	}
	return nil
}
