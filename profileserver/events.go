package profileserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// eventPrefix is what the names of Firefox Accounts' events begin with.
const eventPrefix = "https://schemas.accounts.firefox.com/event/"

// maxEventBody bounds the bodies that tokens come in.
const maxEventBody = 64 << 10

// wish is what an event wants to be done. Of several the greatest is done:
// they tell of one thing that happened (RFC 8417, section 2.2), and where they
// contradict each other the one that measures less is right.
type wish uint8

const (
	nothing wish = iota
	allow
	optOut
	forget
)

// takeEvents answers POST with the security event token (RFC 8417) that it
// brings: what happened to the account elsewhere, happens to it here. An event
// that changes nothing, be it of an unknown kind, of an unknown account or
// known already, is as good as any. Only what may be better later is answered
// so that it comes again.
func (s *Server) takeEvents(w http.ResponseWriter, r *http.Request) (refused *failure) {
	raw, accepted := eventToken(w, r)
	now := time.Now()
	claims, err := s.events.Verify(raw, now)
	if errors.Is(err, token.ErrUnavailable) {
		s.observer.Event("none", "failed")
		return keysAway
	}
	if err != nil {
		return s.refuseEvent(w, whyRefused(err))
	}
	event, ok := readEvents(claims)
	if !ok || event.made.After(now.Add(s.eventLeeway)) || event.made.Add(event.within).Before(now.Add(-prefstore.EventsFor)) {
		return s.refuseEvent(w, invalidRequest)
	}
	came, err := s.apply(r.Context(), event)
	outcome := "unchanged"
	switch {
	case err != nil:
		refused, outcome = s.failed(r, err), "failed"
	case came == prefstore.Changed:
		outcome = "changed"
	}
	for name, wanted := range event.wishes {
		if wanted == nothing {
			s.observer.Event(name, "ignored")
		} else {
			s.observer.Event(name, outcome)
		}
	}
	switch {
	case refused != nil:
		return refused
	case accepted == http.StatusOK:
		writeJSON(w, http.StatusOK, []byte(`{}`))
	default:
		w.WriteHeader(accepted) // and no body (RFC 8935, section 2.2)
	}
	return nil
}

// eventToken returns the token, and the status that says that it was taken: in
// the manner of RFC 8935 it is the body, in Firefox Accounts' the
// authorization.
func eventToken(w http.ResponseWriter, r *http.Request) (raw string, accepted int) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media != "application/secevent+jwt" {
		return bearer(r.Header), http.StatusOK
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEventBody))
	if err != nil {
		body = nil // which is no token
	}
	return strings.TrimSpace(string(body)), http.StatusAccepted
}

// securityEvent is what a token says.
type securityEvent struct {
	id     string // of all issuers'
	uid    string
	made   time.Time
	within time.Duration   // later than made, at most
	wishes map[string]wish // by the name that the observer is told
	wanted wish            // the greatest of them
}

// readEvents returns false where the claims are no security event, or one that
// is not as its kind has to be.
func readEvents(claims *token.Claims) (securityEvent, bool) {
	id, _ := claims.String("jti")
	value, _ := claims.Value("events")
	events, _ := value.(map[string]any)
	if id == "" || len(events) == 0 || claims.Issued.IsZero() { // RFC 8417, section 2.2
		return securityEvent{}, false
	}
	issuer, _ := claims.String("iss")
	e := securityEvent{id: fmt.Sprintf("%q %s", strings.TrimSuffix(issuer, "/"), id), wishes: map[string]wish{}}
	e.made, e.within = madeAt(claims)
	for uri, payload := range events {
		name, wanted, ok := readEvent(uri, payload)
		if !ok {
			return securityEvent{}, false
		}
		e.wishes[name] = max(wanted, e.wishes[name])
		e.wanted = max(wanted, e.wanted)
	}
	subject, _ := claims.String("sub")
	e.uid = uidOf(subject)
	return e, e.wanted == nothing || policy.IsUID(e.uid)
}

// fewestMilliseconds is in March 1973, before anybody could choose. As seconds,
// it is in the year 5138.
const fewestMilliseconds = 1e11

// madeAt reads iat, and how finely it counts: in seconds, as RFC 7519 has it,
// with a fraction or without, or, against it and without a doubt, in
// milliseconds.
func madeAt(claims *token.Claims) (made time.Time, within time.Duration) {
	value, _ := claims.Value("iat")
	switch at, _ := value.(float64); {
	case at >= fewestMilliseconds:
		return time.UnixMilli(int64(min(at, math.MaxInt64/2))), time.Millisecond
	case at == math.Trunc(at):
		return claims.Issued, time.Second
	default:
		return claims.Issued, time.Millisecond
	}
}

// readEvent says what an event wants, and by which name the observer knows it.
// The names are those of all times: the documents have never agreed with the
// servers.
func readEvent(uri string, payload any) (name string, wanted wish, ok bool) {
	kind, theirs := strings.CutPrefix(uri, eventPrefix)
	if !theirs {
		return "other", nothing, true
	}
	switch kind {
	case "metrics-opt-out":
		return kind, optOut, true
	case "metrics-opt-in":
		return kind, allow, true
	case "delete-user", "delete":
		return "delete-user", forget, true
	case "profile-change", "profileDataChange", "profileDataChanged":
		fields, _ := payload.(map[string]any)
		switch enabled := fields["metricsEnabled"].(type) {
		case nil: // the profile changed in another way
			return "profile-change", nothing, true
		case bool:
			if enabled {
				return "profile-change", allow, true
			}
			return "profile-change", optOut, true
		}
		return "", nothing, false
	}
	return "other", nothing, true
}

var uidAtHost = regexp.MustCompile(`^([0-9a-f]{32})@`)

// uidOf cuts off the host that Firefox Accounts' servers may add to an id.
func uidOf(subject string) string {
	if parts := uidAtHost.FindStringSubmatch(subject); parts != nil {
		return parts[1]
	}
	return subject
}

// apply does what the events want, in one change, so that a token that comes
// again changes nothing.
func (s *Server) apply(ctx context.Context, e securityEvent) (came prefstore.Result, err error) {
	value := "deleted"
	switch e.wanted {
	case nothing:
		return prefstore.Unchanged, nil
	case forget:
		came, err = s.store.Delete(ctx, e.uid, e.id)
	default:
		preference := policy.Allowed
		if e.wanted == optOut {
			preference = policy.OptedOut
		}
		value = preference.String()
		_, came, err = s.store.Set(ctx, e.uid, prefstore.Choice{Preference: preference, Source: optoutapi.SourceUser, Made: e.made, Within: e.within, Event: e.id})
	}
	if err != nil {
		return came, err
	}
	s.health.wrote()
	if came == prefstore.Changed {
		s.observer.Change(value, optoutapi.SourceUser)
	}
	return came, nil
}

// eventError is a refusal as RFC 8935, section 2.3, has it. Like a failure,
// none is made from a request.
type eventError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

var (
	invalidRequest = eventError{"invalid_request", "This is not a security event token (RFC 8417) that can be understood, or its time is not now."}
	notSigned      = eventError{"authentication_failed", "The signature of the token does not hold."}
	invalidKey     = eventError{"invalid_key", "The key that signed the token is not known here."}
	otherIssuer    = eventError{"invalid_issuer", "Tokens of this issuer are not taken here."}
	otherAudience  = eventError{"invalid_audience", "The token is for somebody else."}
)

func whyRefused(err error) eventError {
	switch {
	case errors.Is(err, token.ErrBadSignature):
		return notSigned
	case errors.Is(err, token.ErrUnknownKey):
		return invalidKey
	case errors.Is(err, token.ErrWrongIssuer):
		return otherIssuer
	case errors.Is(err, token.ErrWrongAudience):
		return otherAudience
	}
	return invalidRequest
}

func (s *Server) refuseEvent(w http.ResponseWriter, why eventError) *failure {
	s.observer.Event("none", "refused")
	body, _ := json.Marshal(why) // strings always have a JSON form
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Language", "en")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write(body) // whoever asked is gone: nobody is left to tell
	return nil
}
