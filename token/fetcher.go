package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/metricsgate/metricsgate/internal/health"
)

const (
	fetchTimeout  = 3 * time.Second
	maxFetchBytes = 1 << 20
	fetchEvery    = 15 * time.Minute

	// After a failure the next attempt follows soon, so that an issuer who
	// comes back is noticed, and then ever later, so that it can come back.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second

	// Tokens that name an unknown key, or bear a signature that does not hold,
	// are free to make. They cause a fetch no more often than this, and hold a
	// request no longer.
	askEvery = 30 * time.Second
	maxWait  = 50 * time.Millisecond
)

// fetcher keeps a key set up to date, in one goroutine of its own.
//
// The storage that comes with jwkset is not used for this: nobody can wait
// for the end of its goroutine, it waits for the issuer before it returns,
// and its limit on a request's wait is one on the fetch as well, so that an
// issuer who takes longer than a request may wait is never heard.
type fetcher struct {
	*endpoint
	take    func(body []byte) error
	onError func(error)
	onFetch func(FetchOutcome)
	health  *health.Health

	mu      sync.Mutex
	ended   chan struct{} // closed at the end of the fetch that is asked for or under way; nil where none is
	fetched bool          // one has ended
	taken   time.Time     // the last set that was good
	last    FetchOutcome
	asked   chan struct{}
	limit   *rate.Limiter

	stop func()
	done chan struct{}
}

func newFetcher(address string, allowHTTP bool, client *http.Client, take func([]byte) error, onError func(error), onFetch func(FetchOutcome)) (*fetcher, error) {
	endpoint, err := newEndpoint(address, allowHTTP, client)
	if err != nil {
		return nil, err
	}
	if onError == nil {
		onError = func(error) {}
	}
	if onFetch == nil {
		onFetch = func(FetchOutcome) {}
	}
	return &fetcher{
		endpoint: endpoint,
		take:     take,
		onError:  onError,
		onFetch:  onFetch,
		health:   health.New(0, nil),
		ended:    make(chan struct{}), // the first fetch
		asked:    make(chan struct{}, 1),
		limit:    rate.NewLimiter(rate.Every(askEvery), 1),
		done:     make(chan struct{}),
	}, nil
}

// ownClient keeps no connection open: the next fetch is minutes away.
func ownClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

func (f *fetcher) start() {
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go f.run(ctx)
}

func (f *fetcher) close() {
	f.stop()
	<-f.done
}

func (f *fetcher) run(ctx context.Context) {
	defer close(f.done)
	var pause, retry time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-f.asked:
		}
		f.begin()
		outcome, err := f.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		f.end(outcome)
		f.onFetch(outcome)
		if err == nil {
			f.health.Answered()
			pause, retry = fetchEvery, 0
			continue
		}
		retry = min(max(2*retry, firstRetry), lastRetry)
		pause = retry
		f.health.Failed(err)
		f.onError(fmt.Errorf("fetching the key set from %s: %w", f.source, err))
	}
}

func (f *fetcher) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended == nil {
		f.ended = make(chan struct{})
	}
	select {
	case <-f.asked: // this fetch is the answer
	default:
	}
}

func (f *fetcher) end(outcome FetchOutcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.ended)
	f.ended = nil
	f.fetched = true
	if f.last = outcome; outcome == Fetched {
		f.taken = time.Now()
	}
}

// ask returns a channel that is closed at the end of the fetch under way.
// Where there is none it asks for one, and returns nil where it did so a
// short while ago.
func (f *fetcher) ask() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended == nil && f.limit.Allow() {
		f.order()
	}
	return f.ended
}

// order asks for a fetch, unless one is asked for already. It is called with mu
// held.
func (f *fetcher) order() {
	if f.ended == nil {
		f.ended = make(chan struct{})
	}
	select {
	case f.asked <- struct{}{}:
	default:
	}
}

// refresh asks for a fetch that begins from now on, once the first has ended.
func (f *fetcher) refresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fetched {
		f.order()
	}
}

// wait gives a fetch a moment to bring what is missing, and reports whether there
// is one.
func (f *fetcher) wait() bool {
	ended := f.ask()
	if ended == nil {
		return false
	}
	timeout := time.NewTimer(maxWait)
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
	case <-f.done:
	}
	return true
}

func (f *fetcher) fetch(ctx context.Context) (FetchOutcome, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return FetchUnreachable, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := f.send(request)
	if err != nil {
		return brokenOff(ctx), err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return FetchBadStatus, wrongStatus(response.StatusCode)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, response.Body, maxFetchBytes))
	if err != nil {
		outcome := brokenOff(ctx)
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			outcome = FetchMalformed
		}
		return outcome, fmt.Errorf("reading the answer, of at most 1 MiB: %w", err)
	}
	if err := f.take(body); err != nil {
		return FetchMalformed, err
	}
	return Fetched, nil
}

// brokenOff is why there was no complete answer.
func brokenOff(ctx context.Context) FetchOutcome {
	if ctx.Err() != nil {
		return FetchTimeout
	}
	return FetchUnreachable
}
