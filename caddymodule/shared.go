package caddymodule

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/profileserver"
	"github.com/metricsgate/metricsgate/session"
	"github.com/metricsgate/metricsgate/token"
)

// What outlives a configuration: a reload that changes nothing about them
// finds verified tokens and preferences as warm as it left them, and two
// sites with the same settings share one of each.
var (
	bearerSessions = newPool[*session.Bearer]()
	verifiers      = newPool[*token.Verifier]()
	profileClients = newPool[*profileclient.Client]()

	introspectors    = newPool[*token.Introspector]()
	preferenceStores = newPool[profileserver.Store]()
	changeCounters   = newPool[*changeCounter]()
)

// pool is a caddy.UsagePool of one type, whose keys are derived from
// settings.
type pool[T closer] struct{ values *caddy.UsagePool }

type closer interface{ Close() }

func newPool[T closer]() pool[T] { return pool[T]{caddy.NewUsagePool()} }

// shared makes a closer what a caddy.UsagePool destructs.
type shared[T closer] struct{ value T }

func (s shared[T]) Destruct() error {
	s.value.Close()
	return nil
}

// processKey makes the keys of the pools worthless outside of this process.
var processKey = func() (key [32]byte) {
	_, _ = rand.Read(key[:]) // never fails, see crypto/rand
	return key
}()

// acquire returns the value that belongs to the settings, constructing it if
// no running configuration holds it. The settings include resolved keys and
// credentials: two sites share state only where they would have come to the
// same answers on their own. That makes the key a security boundary and a
// secret at once, hence the HMAC.
//
// What was acquired is added to held, and only that is ever released: Caddy
// calls Cleanup after a failed Provision too, and must not take the running
// configuration's state with it.
func (p pool[T]) acquire(held *leases, settings any, construct func() (T, error)) (T, error) {
	text, err := json.Marshal(settings)
	if err != nil {
		var none T
		return none, fmt.Errorf("deriving the key of shared state: %w", err)
	}
	mac := hmac.New(sha256.New, processKey[:])
	mac.Write(text)
	key := string(mac.Sum(nil))

	value, _, err := p.values.LoadOrNew(key, func() (caddy.Destructor, error) {
		value, err := construct()
		return shared[T]{value}, err
	})
	if err != nil {
		var none T
		return none, err
	}
	*held = append(*held, lease{p.values, key})
	return value.(shared[T]).value, nil
}

// each calls f for every value that a configuration holds.
func (p pool[T]) each(f func(T)) {
	p.values.Range(func(_, value any) bool {
		f(value.(shared[T]).value)
		return true
	})
}

// leases are the uses of shared values that one module instance has taken.
type leases []lease

type lease struct {
	values *caddy.UsagePool
	key    string
}

// release gives back what was acquired, once. Values stay usable for the
// requests that a reload leaves in flight; see their Close methods.
func (l *leases) release() error {
	taken := *l
	*l = nil
	var failed error
	for _, lease := range taken {
		if _, err := lease.values.Delete(lease.key); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}
