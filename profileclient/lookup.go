package profileclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/metricsgate/metricsgate/policy"
)

const (
	// maxBody bounds what is read of an answer. A preference takes a few
	// bytes; whole profiles fit.
	maxBody = 64 << 10
	// maxETag bounds what is remembered of a server's version.
	maxETag = 128
)

// ask waits for a lookup of an account. What is newer than seen counts as its
// result, too: the caller may have come while a lookup ended.
func (c *Client) ask(ctx context.Context, a Account, named bool, seen instant) policy.Preference {
	if !c.askable(a) {
		return policy.Unknown
	}
	select {
	case result := <-c.join(a, named, false, seen):
		return result.Val.(policy.Preference)
	case <-ctx.Done():
		if named && c.queue.has(a.UID) {
			return policy.Hidden
		}
		return policy.Unknown
	}
}

// prefetch starts a lookup and does not wait for it.
func (c *Client) prefetch(a Account, named bool, seen instant) {
	if c.closing.Err() == nil && c.askable(a) {
		c.join(a, named, true, seen)
	}
}

func (c *Client) askable(a Account) bool {
	_, addressable := c.address.of(a.UID)
	if !addressable || !c.auth.covers(a) {
		c.observer.Lookup(LookupNoCredential, 0)
		return false
	}
	return true
}

// join joins the lookup of the account that is in flight, or starts one. It
// runs on a context of its own: the others still wait when the caller that
// came first has gone away.
//
// Names have a group of their own in front, which holds a slot of theirs, and
// one of all, before it joins the lookup or starts it. So a proven account can
// share a lookup that a name has started, and never one that waits for a slot.
func (c *Client) join(a Account, named, background bool, seen instant) <-chan singleflight.Result {
	if !named {
		return c.lookups.DoChan(a.UID, func() (any, error) {
			if !c.slots.take() {
				c.observer.Lookup(LookupBusy, 0)
				return policy.Unknown, nil
			}
			defer c.slots.give()
			return c.run(a, c.proven, background, seen), nil
		})
	}
	return c.namedLookups.DoChan(a.UID, func() (any, error) {
		if !c.takeNamed(a.UID, background) {
			c.observer.Lookup(LookupBusy, 0)
			return policy.Hidden, nil
		}
		defer c.namedSlots.give()
		defer c.slots.give()
		preference, err, _ := c.lookups.Do(a.UID, func() (any, error) {
			return c.run(a, c.named, background, seen), nil
		})
		return preference, err
	})
}

// takeNamed takes a slot of the names' own and one of all. Unless nobody waits
// for it, it waits for them, as long as a lookup may take.
func (c *Client) takeNamed(uid string, background bool) bool {
	ctx, cancel := context.WithTimeout(c.closing, c.timeout)
	defer cancel()
	if background {
		cancel()
	} else {
		defer c.queue.board(uid)()
	}
	if !c.namedSlots.wait(ctx) {
		return false
	}
	if !c.slots.wait(ctx) {
		c.namedSlots.give()
		return false
	}
	return true
}

// run does what everybody who asks for the account waits for.
func (c *Client) run(a Account, into *cache, background bool, seen instant) policy.Preference {
	switch {
	case c.begin():
		defer c.work.Done()
	case background:
		return policy.Unknown // Close came first
	}
	start := time.Now()
	began := c.instant(start)
	known := c.known(Account{UID: a.UID}, start, into == c.named)
	if known.fetched > seen && c.fresh(known.entry, began) && known.marks&notFound == 0 {
		return known.preference
	}
	held, _ := c.consult(context.Background(), a, into, start)
	return held.Preference
}

// consult asks the profile server, for which the caller holds a slot, and
// remembers and reports what came of it.
func (c *Client) consult(ctx context.Context, a Account, into *cache, start time.Time) (Held, error) {
	defer c.flights.board(a.UID)()

	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	held, failed := c.fetch(ctx, a, start)
	if failed != nil && failed.notFound && c.notFoundIsUnset {
		// Remembered for names alone, who see it there: a proven account may wait
		// for the same answer.
		unset := c.answer(policy.Unset, c.instant(start))
		unset.marks = notFound
		c.named.put(a.UID, unset)
		if into == c.named {
			c.observer.Lookup(LookupOK, time.Since(start))
			c.health.Answered()
			return Held{}, nil
		}
	}
	if failed != nil {
		err := fmt.Errorf("profile server: %w", failed.cause)
		c.observer.Lookup(failed.outcome, time.Since(start))
		// A forwarded token that is refused says something about the account
		// and nothing about the server.
		if !c.auth.forward || failed.outcome != LookupUnauthorized {
			c.health.Failed(err)
		}
		return Held{}, err
	}
	c.observer.Lookup(LookupOK, time.Since(start))
	c.health.Answered()
	answer := c.answer(held.Preference, c.instant(start))
	if !held.Changed.IsZero() {
		answer.version = held.Changed.UnixMilli()
	}
	if held.Preference == policy.Unset && held.ETag != "" {
		answer.etag = c.etags.number(held.ETag)
	}
	into.put(a.UID, answer)
	return held, nil
}

// fetch asks the profile server and reads its answer.
func (c *Client) fetch(ctx context.Context, a Account, now time.Time) (Held, *failure) {
	request, err := c.request(ctx, http.MethodGet, a, reading, nil, now)
	if err != nil {
		return Held{}, &failure{outcome: LookupNoCredential, cause: err}
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return Held{}, broken(ctx, err, c.timeout)
	}
	defer discard(response)
	preference, failed := c.read(ctx, response)
	if failed != nil {
		return Held{}, failed
	}
	held := Held{Preference: preference, ETag: strongETag(response.Header)}
	held.Source, held.Changed = origin(response.Header)
	return held, nil
}

// request addresses the profile server about an account. It is sent by the
// transport itself and not by an http.Client, which would follow redirects
// and put the URL, and so the account, into its errors.
func (c *Client) request(ctx context.Context, method string, a Account, aim purpose, body io.Reader, now time.Time) (*http.Request, error) {
	credential, err := c.auth.credential(a, aim, now)
	if err != nil {
		return nil, err
	}
	url, _ := c.address.of(a.UID)
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, errors.New("there is no valid URL for this account") // err would name it
	}
	request.Header.Set("Authorization", "Bearer "+credential)
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "metrics-gate")
	return request, nil
}

// read tells the preference out of an answer, or why there is none in it.
func (c *Client) read(ctx context.Context, response *http.Response) (policy.Preference, *failure) {
	switch status := response.StatusCode; status {
	case http.StatusOK:
	case http.StatusNoContent:
		if c.api == FxA {
			return policy.Unknown, fail(LookupMalformed, "it answers with status 204, not with a profile; check the URL")
		}
		return policy.Unset, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return policy.Unknown, fail(LookupUnauthorized, fmt.Sprintf("it refuses the credential with status %d; "+
			"check the key, client id, issuer and audience, whom the server trusts, and the clocks of both machines", status))
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return policy.Unknown, fail(LookupRedirect, fmt.Sprintf("it redirects with status %d, which is not followed; "+
			"write the URL that answers itself", status))
	default:
		what := fmt.Sprintf("it answers with status %d, not 200 or 204", status)
		if status == http.StatusNotFound {
			what += "; check the URL" + c.address.completed
		}
		failed := fail(LookupBadStatus, what)
		failed.notFound = status == http.StatusNotFound
		return policy.Unknown, failed
	}
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return policy.Unknown, fail(LookupBadType, "its answer is not application/json; "+
			"check the URL: this may be the page of something else")
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case len(body) > maxBody:
		return policy.Unknown, fail(LookupTooLarge, "its answer has more than 64 KiB; check the URL")
	case err != nil:
		return policy.Unknown, broken(ctx, err, c.timeout)
	}
	preference, ok := c.decode(body)
	switch {
	case ok:
		return preference, nil
	case c.api == FxA:
		return policy.Unknown, fail(LookupMalformed, fmt.Sprintf("its answer is not a JSON object whose field %q is "+
			"false or true; check the URL, and whether the tokens have a scope of the profile", c.field))
	default:
		return policy.Unknown, fail(LookupMalformed, fmt.Sprintf("its answer is not a JSON object whose field %q is "+
			"null, false or true; check the name of the field", c.field))
	}
}

// decode finds the preference in a JSON object. Names are exact-case, which a
// struct of encoding/json would not be.
func (c *Client) decode(body []byte) (policy.Preference, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return policy.Unknown, false
	}
	if c.api == FxA {
		return metricsEnabled(string(fields[c.field]))
	}
	preference, ok := policy.ParsePreference(string(fields[c.field]))
	if !ok || preference == policy.Unknown {
		return policy.Unknown, false
	}
	return c.invert(preference), true
}

// metricsEnabled reads what Firefox Accounts shipped: a boolean that is true
// also where nobody ever chose, so that true is no choice to allow.
func metricsEnabled(field string) (policy.Preference, bool) {
	switch field {
	case "false":
		return policy.OptedOut, true
	case "true":
		return policy.Unset, true
	default:
		return policy.Unknown, false
	}
}

// invert makes a preference of what an inverted field says, and the other way
// round. Of other fields it is what they say.
func (c *Client) invert(p policy.Preference) policy.Preference {
	switch {
	case c.inverted && p == policy.Allowed:
		return policy.OptedOut
	case c.inverted && p == policy.OptedOut:
		return policy.Allowed
	}
	return p
}

// broken says why there was no complete answer, for which there was a limit.
// Only causes whose text is about the network are told: others may repeat the
// URL or what the server sent.
func broken(ctx context.Context, err error, limit time.Duration) *failure {
	if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || ok && timeout.Timeout() {
		return fail(LookupTimeout, fmt.Sprintf("it gives no complete answer within %v", limit))
	}
	if network, ok := errors.AsType[*net.OpError](err); ok {
		return &failure{outcome: LookupUnreachable, cause: fmt.Errorf("it cannot be reached: %w", network)}
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &failure{outcome: LookupUnreachable, cause: fmt.Errorf("it cannot be trusted: %w", certificate)}
	}
	return fail(LookupUnreachable, "the connection broke before a complete answer, or it does not speak HTTP there")
}

// discard gives the connection back, unless there is much left to read.
func discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, maxBody)
	_ = response.Body.Close()
}

// strongETag returns the version that a condition can be based on, or "".
// If-Match never matches a weak one (RFC 9110, section 13.1.1).
func strongETag(h http.Header) string {
	etag := h.Get("ETag")
	if len(etag) > maxETag || !strings.HasPrefix(etag, `"`) {
		return ""
	}
	return etag
}
