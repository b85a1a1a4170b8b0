package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// storeName is the preference store that a command works on.
type storeName string

// flag adds --store to a command.
func (s *storeName) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(s), "store", "",
		"the preference store: a SQLite file, a PostgreSQL connection string (postgres://…), or a placeholder such as {env.PROFILE_DSN} that holds one of them")
	_ = cmd.MarkFlagRequired("store")
}

// resolve replaces placeholders, so that no password has to stand in the list
// of processes, and says whether the store is a PostgreSQL database.
func (s storeName) resolve() (name string, postgres bool, err error) {
	name, err = placeholder.Resolve(string(s))
	if err != nil {
		return "", false, fmt.Errorf("--store: %w", err)
	}
	if name == "" {
		return "", false, errors.New("--store: is empty; write a file, a PostgreSQL URL, {env.NAME} or {file./path}")
	}
	postgres = prefstore.IsPostgres(name)
	if !postgres && strings.Contains(name, "://") { // whose password is not repeated
		return "", false, errors.New("--store: this is neither a path nor a PostgreSQL URL; write postgres://user:password@host:5432/database")
	}
	return name, postgres, nil
}

// open opens a store that exists already: a name with a typing mistake must
// not become an empty file that everything is read from.
func (s storeName) open(ctx context.Context) (prefstore.Store, error) {
	name, postgres, err := s.resolve()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(name); !postgres && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--store: there is no file %s; check its path, or write: caddy metrics-gate migrate --store %[1]s", name)
	}
	return openStore(ctx, name)
}

func openStore(ctx context.Context, name string) (prefstore.Store, error) {
	store, err := prefstore.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("--store: %w", err)
	}
	return store, nil
}

// writeFile writes a new file that nobody else may read. It takes the place of
// one that exists only by force. What could not be written whole is removed.
func writeFile(path string, force bool, write func(io.Writer) error) error {
	create := func() (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) }
	if force { // what is there stays until what takes its place is complete
		create = func() (*os.File, error) { return os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") }
	}
	file, err := create()
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; name another file, or add --force", path)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}
