package profileclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// Where a preference can come from, as far as the profile server says it.
const (
	// SourceUser is the user's own word.
	SourceUser = optoutapi.SourceUser
	// SourceBrowser is a browser's opt-out that was written back.
	SourceBrowser = optoutapi.SourceBrowser
	// SourceAdmin is an operator of the profile server.
	SourceAdmin = optoutapi.SourceAdmin
)

// Held is what the profile server holds of an account.
type Held struct {
	Preference policy.Preference

	// ETag is the server's version of it, for Choose. It is empty where the
	// server gives no strong one.
	ETag string

	// Source is where the preference came from, and Changed when. Both are
	// zero where the account never made a choice or the server does not say.
	Source  string
	Changed time.Time
}

// ErrConflict says that a choice was not saved because the profile holds
// another version than the one that the user saw.
var ErrConflict = errors.New("the preference was changed in the meantime")

// ErrNotSaved says that the profile server did not confirm a choice.
var ErrNotSaved = errors.New("the preference is not saved")

// Read asks the profile server what it holds of an account, which must be
// proven. It takes at most Config.Timeout, never answers from the cache, and
// leaves there what it learnt. One that is in flight for the account serves
// all who ask meanwhile, so it does not end when the first of them leaves.
func (c *Client) Read(ctx context.Context, a Account) (Held, error) {
	if !c.askable(a) {
		return Held{}, errors.New("there is no credential or no address with which to ask about this account")
	}
	if c.begin() {
		defer c.work.Done()
	}
	held, err, _ := c.reads.Do(a.UID, func() (any, error) {
		if !c.slots.take() {
			c.observer.Lookup(LookupBusy, 0)
			return Held{}, errors.New("profile server: too many lookups are in flight")
		}
		defer c.slots.give()
		return c.consult(context.WithoutCancel(ctx), a, c.proven, time.Now())
	})
	return held.(Held), err
}

// Choose saves what the user of an account, which must be proven, chose in so
// many words: null, false or true. With an etag it is saved only where that is
// still the server's version, which Read returned; otherwise the error is
// ErrConflict, unless the profile holds this very preference by now. Every
// other failure wraps ErrNotSaved, also that the API is only read. What is
// saved decides the next Lookup.
//
// It takes at most Config.Timeout, twice that after a conflict. It goes on
// when the caller leaves: the user has chosen.
func (c *Client) Choose(ctx context.Context, a Account, preference policy.Preference, etag string) error {
	if c.api == FxA {
		return fmt.Errorf("%w: the API of Firefox Accounts is only read", ErrNotSaved)
	}
	if !c.askable(a) {
		return fmt.Errorf("%w: there is no credential or no address for this account", ErrNotSaved)
	}
	if c.begin() {
		defer c.work.Done()
	}
	status, err := c.choose(context.WithoutCancel(ctx), a, preference, etag)
	if status == http.StatusOK {
		return nil
	}
	c.Invalidate(a.UID) // what is cached is old, or may be: a reply can get lost
	switch {
	case err != nil:
		return fmt.Errorf("%w: profile server: %w", ErrNotSaved, err)
	case status != http.StatusPreconditionFailed:
		return fmt.Errorf("%w: the profile server answers with status %d, not 200 or 204", ErrNotSaved, status)
	}
	if held, err := c.Read(ctx, a); err == nil && held.Preference == preference {
		return nil
	}
	return ErrConflict
}

func (c *Client) choose(ctx context.Context, a Account, preference policy.Preference, etag string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if !c.writes.wait(ctx) {
		return 0, errors.New("too many writes are in flight")
	}
	defer c.writes.give()
	request, err := c.saveRequest(ctx, a, choosing, preference, etag)
	if err != nil {
		return 0, err
	}
	return c.save(request, a.UID, preference)
}

// origin reads where a preference came from, and when. A server that does not
// say the former may mean the date of something else, such as the whole
// profile.
func origin(h http.Header) (source string, changed time.Time) {
	switch source = h.Get(optoutapi.SourceHeader); source {
	case SourceUser, SourceBrowser, SourceAdmin:
	default:
		return "", time.Time{}
	}
	if changed = exactly(h); changed.IsZero() {
		changed, _ = http.ParseTime(h.Get("Last-Modified"))
	}
	return source, changed
}

// exactly reads when a preference changed, to the millisecond, where the server
// says it.
func exactly(h http.Header) time.Time {
	changed, _ := time.Parse(time.RFC3339, h.Get(optoutapi.ChangedHeader))
	return changed
}
