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
func (s *storeName) flag(cmd *cobra.Command) { s.flagAs(cmd, "store", "the preference store") }

func (s *storeName) flagAs(cmd *cobra.Command, name, means string) {
	cmd.Flags().StringVar((*string)(s), name, "",
		means+": a SQLite file, a PostgreSQL connection string (postgres://…), or a placeholder such as {env.PROFILE_DSN} that holds one of them")
	_ = cmd.MarkFlagRequired(name)
}

// resolve replaces placeholders, so that no password has to stand in the list
// of processes, and says whether the store is a PostgreSQL database.
func (s storeName) resolve(flag string) (name string, postgres bool, err error) {
	name, err = placeholder.Resolve(string(s))
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", flag, err)
	}
	if name == "" {
		return "", false, errors.New(flag + ": is empty; write a file, a PostgreSQL URL, {env.NAME} or {file./path}")
	}
	postgres = prefstore.IsPostgres(name)
	if !postgres && strings.Contains(name, "://") { // whose password is not repeated
		return "", false, errors.New(flag + ": this is neither a path nor a PostgreSQL URL; write postgres://user:password@host:5432/database")
	}
	return name, postgres, nil
}

// open opens a store that exists already: a name with a typing mistake must
// not become an empty file that everything is read from.
func (s storeName) open(ctx context.Context) (prefstore.Store, error) {
	return s.openAs(ctx, "--store")
}

// openAs opens it where it is the value of another flag.
func (s storeName) openAs(ctx context.Context, flag string) (prefstore.Store, error) {
	name, postgres, err := s.resolve(flag)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(name); !postgres && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no file %s; check its path, or write: caddy metrics-gate migrate --store %[2]s", flag, name)
	}
	return openStore(ctx, flag, name)
}

func openStore(ctx context.Context, flag, name string) (prefstore.Store, error) {
	store, err := prefstore.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
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
