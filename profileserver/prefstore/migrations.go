package prefstore

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed migrations
var migrations embed.FS

// migration is one step that brings a store up to date.
type migration struct {
	name  string
	level int // that it brings the store to
	text  string
}

// pendingMigrations returns those of a kind of store that one at this level
// has not seen, in the order of their names.
func pendingMigrations(kind string, level int) (pending []migration, err error) {
	files, err := fs.Glob(migrations, "migrations/"+kind+"/*.sql")
	if err != nil {
		return nil, err
	}
	if level > len(files) {
		return nil, fmt.Errorf("it was written by a newer version (level %d, this one knows %d)", level, len(files))
	}
	for i, file := range files[level:] {
		text, err := migrations.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pending = append(pending, migration{file, level + i + 1, string(text)})
	}
	return pending, nil
}

// level is how many migrations there are for a kind of store.
func level(kind string) int {
	all, _ := pendingMigrations(kind, 0) // they are part of the program
	return len(all)
}
