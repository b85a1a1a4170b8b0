package prefstore

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/policy"
)

// childStore names the store in which this binary, run once more by a test,
// contends for an account as a second process.
const childStore = "PREFSTORE_TEST_STORE"

// children are what such a process does, by the variable that names its store.
var children = map[string]func(Store) (int, error){childStore: contend}

func TestMain(m *testing.M) {
	for name, task := range children {
		if path := os.Getenv(name); path != "" {
			number, err := inStore(path, task)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Print(number)
			return
		}
	}
	goleak.VerifyTestMain(m)
}

func inStore(path string, task func(Store) (int, error)) (int, error) {
	store, err := OpenSQLite(path, nil)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	return task(store)
}

// contend changes one account fifty times, each time only if it still holds
// what was just read, and returns how often it did.
func contend(store Store) (won int, err error) {
	ctx := context.Background()
	for range 50 {
		before, err := store.Get(ctx, "contended")
		if err != nil {
			return won, err
		}
		to := policy.OptedOut
		if before.Preference == policy.OptedOut {
			to = policy.Allowed
		}
		_, came, err := store.Set(ctx, "contended", Choice{Preference: to, Source: SourceUser, OnlyIf: func(tag string) bool {
			return tag == before.ETag()
		}})
		if err != nil {
			return won, err
		}
		if came == Changed {
			won++
		}
	}
	return won, nil
}
