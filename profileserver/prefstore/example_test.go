package prefstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// A program of your own brings the choices of another system into a store,
// records one more, and takes all of them out again.
func Example() {
	folder, err := os.MkdirTemp("", "preferences")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	ctx := context.Background()
	store, err := prefstore.Open(ctx, filepath.Join(folder, "profile.db")) // or postgres://…
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	const theirs = `uid,preference,changed,source
ann,false,2026-11-24T12:00:00Z,user
bea,true,2026-11-24T12:00:00Z,browser
`
	done, err := store.Import(ctx, prefstore.ReadCSV(strings.NewReader(theirs)), nil)
	fmt.Println(done.Read, "read,", done.Changed, "changed,", err)

	before, err := store.Get(ctx, "ann")
	fmt.Println(before.Preference, before.Source, before.Changed(), err)
	after, came, err := store.Set(ctx, "ann", prefstore.Choice{
		Preference: policy.OptedOut,
		Source:     prefstore.SourceUser,
		OnlyIf:     func(etag string) bool { return etag == before.ETag() },
	})
	fmt.Println(after.Preference, came == prefstore.Changed, err)

	for row, err := range store.Export(ctx) {
		fmt.Println(row.UID, row.Preference, row.Source, err)
	}
	// Output:
	// 2 read, 2 changed, <nil>
	// false user 2026-11-24 12:00:00 +0000 UTC <nil>
	// true true <nil>
	// ann true user <nil>
	// bea true browser <nil>
}

// WriteCSV writes what ReadCSV reads: the file of a backup, or of a move to
// another store.
func ExampleWriteCSV() {
	folder, err := os.MkdirTemp("", "preferences")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	ctx := context.Background()
	store, err := prefstore.Open(ctx, filepath.Join(folder, "profile.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	const saved = "uid,preference,changed,source\nann,true,2026-11-24T12:00:00.000Z,user\n"
	if _, err := store.Import(ctx, prefstore.ReadCSV(strings.NewReader(saved)), nil); err != nil {
		fmt.Println(err)
	}
	rows, err := prefstore.WriteCSV(os.Stdout, store.Export(ctx))
	fmt.Println(rows, err)
	// Output:
	// uid,preference,changed,source
	// ann,true,2026-11-24T12:00:00.000Z,user
	// 1 <nil>
}
