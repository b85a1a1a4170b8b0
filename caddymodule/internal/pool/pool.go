package pool

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

// Pool is a caddy.UsagePool of one type, whose keys are derived from
// settings. Whatever no configuration holds any more is closed.
type Pool[T closer] struct{ values *caddy.UsagePool }

type closer interface{ Close() }

// refresher is a value that holds what it has fetched, and fetches it anew when
// another configuration takes it over.
type refresher interface{ Refresh() }

// New makes an empty pool.
func New[T closer]() Pool[T] { return Pool[T]{caddy.NewUsagePool()} }

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

// Acquire returns the value that belongs to the settings, constructing it if
// no running configuration holds it. The settings include resolved keys and
// credentials: two sites share state only where they would have come to the
// same answers on their own. That makes the key a security boundary and a
// secret at once, hence the HMAC.
//
// What was acquired is added to held, and only that is ever released: Caddy
// calls Cleanup after a failed Provision too, and must not take the running
// configuration's state with it.
func (p Pool[T]) Acquire(held *Leases, settings any, construct func() (T, error)) (T, error) {
	text, err := json.Marshal(settings)
	if err != nil {
		var none T
		return none, fmt.Errorf("deriving the key of shared state: %w", err)
	}
	mac := hmac.New(sha256.New, processKey[:])
	mac.Write(text)
	key := string(mac.Sum(nil))

	value, loaded, err := p.values.LoadOrNew(key, func() (caddy.Destructor, error) {
		value, err := construct()
		return shared[T]{value}, err
	})
	if err != nil {
		var none T
		return none, err
	}
	*held = append(*held, Lease{p.values, key})
	taken := value.(shared[T]).value
	if fetched, ok := any(taken).(refresher); ok && loaded {
		fetched.Refresh()
	}
	return taken, nil
}

// Each calls f for every value that a configuration holds.
func (p Pool[T]) Each(f func(T)) {
	p.values.Range(func(_, value any) bool {
		f(value.(shared[T]).value)
		return true
	})
}

// Leases are the uses of shared values that one module instance has taken, in
// the order in which it took them.
type Leases []Lease

// Lease is the use of one shared value. Two of the same value are equal.
type Lease struct {
	values *caddy.UsagePool
	key    string
}

// References returns how many module instances hold the value, this one
// included.
func (l Lease) References() int {
	n, _ := l.values.References(l.key)
	return n
}

// Release gives back what was acquired, once. Values stay usable for the
// requests that a reload leaves in flight; see their Close methods.
func (l *Leases) Release() error {
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
