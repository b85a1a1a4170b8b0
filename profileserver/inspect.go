package profileserver

import "context"

// Ping reports whether the preferences in a store can be read, which is what
// a heartbeat asks.
func Ping(ctx context.Context, store Store) error { return store.ping(ctx) }

// Level returns the level to which this version brings a store: the number of
// its migrations.
func Level(store Store) int {
	kind := "sqlite"
	if _, ok := store.(*Postgres); ok {
		kind = "postgres"
	}
	all, _ := pendingMigrations(kind, 0) // they are part of the program
	return len(all)
}
