package prefstore

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// The size in mind is a million; filling a store with as many takes a minute.
var benchmarkRows = flag.Int("rows", 10_000, "how many accounts the stores of benchmarks hold")

// benchmarkUID is the i-th account: 32 hex digits in no order, as FxA's are.
func benchmarkUID(i int) string {
	r := rand.NewPCG(uint64(i), 0)
	return fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
}

// benchmarkStores runs a benchmark against each kind of store, filled.
func benchmarkStores(b *testing.B, run func(b *testing.B, store Store)) {
	for name, newPlace := range map[string]func(testing.TB) *place{"SQLite": sqlitePlace, "PostgreSQL": postgresPlace} {
		p := newPlace(b)
		store := p.open(b, 0)
		began := time.Now()
		done, err := store.Import(context.Background(), func(yield func(Row, error) bool) {
			for i := range *benchmarkRows {
				if !yield(Row{UID: benchmarkUID(i), Preference: policy.OptedOut, Source: SourceBrowser}, nil) {
					return
				}
			}
		}, nil)
		if err != nil {
			b.Fatal(err)
		}
		size := map[string]string{
			"sqlite": `SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`,
			"pgx":    `SELECT pg_database_size(current_database())`,
		}[p.driver]
		fmt.Fprintf(os.Stderr, "%s: %d rows, imported in %v, take %d MB\n", name, done.Changed, time.Since(began), p.number(b, size)/1e6)
		b.Run(name, func(b *testing.B) { run(b, store) })
	}
}

func BenchmarkStoreRead(b *testing.B) {
	benchmarkStores(b, func(b *testing.B, store Store) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if held, err := store.Get(context.Background(), benchmarkUID(rand.IntN(*benchmarkRows))); err != nil || held.Source == "" {
					b.Errorf("%v, %v", held, err)
				}
			}
		})
	})
}

// BenchmarkStoreWrite records an opt-out of a new account, safely on the disk.
func BenchmarkStoreWrite(b *testing.B) {
	var next atomic.Int64
	next.Store(int64(*benchmarkRows))
	benchmarkStores(b, func(b *testing.B, store Store) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, came, err := store.Set(context.Background(), benchmarkUID(int(next.Add(1))), Choice{Preference: policy.OptedOut, Source: SourceUser})
				if err != nil || came != Changed {
					b.Errorf("%v, %v", came, err)
				}
			}
		})
	})
}
