package profileserver

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/policy"
)

// childStore names the store that this binary, run once more by a test, is to
// write to as a second process.
const childStore = "PROFILESERVER_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childStore); path != "" {
		store, err := OpenSQLite(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		won, err := contend(store)
		store.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(won)
		return
	}
	goleak.VerifyTestMain(m)
}

// contend changes one account fifty times, each time only if it still holds
// what was just read, and returns how often it did.
func contend(store *SQLite) (won int, err error) {
	ctx := context.Background()
	for range 50 {
		before, err := store.get(ctx, "contended")
		if err != nil {
			return won, err
		}
		to := policy.OptedOut
		if before.preference == policy.OptedOut {
			to = policy.Allowed
		}
		held, err := store.set(ctx, "contended", change{to, "user", time.UnixMilli(1)}, func(tag string) bool {
			return tag == before.etag()
		})
		if err != nil {
			return won, err
		}
		if held {
			won++
		}
	}
	return won, nil
}
