package profilemodule

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// Store is a preference store. Exactly one field is set.
type Store struct {
	// SQLite is the path of the database file. It is created where it does
	// not exist, and its folder too, readable for nobody else.
	SQLite string `json:"sqlite,omitempty" word:"store sqlite"`

	// Postgres is the URL or the key words of a PostgreSQL database, as libpq
	// takes them. Several servers may share one. Its tables are brought up to
	// date at start, or before by caddy metrics-gate migrate. While it is away
	// requests are answered with 503. Write the password as {env.NAME} or
	// {file./path}, or the whole of it.
	Postgres string `json:"postgres,omitempty" word:"store postgres"`
}

// validate makes sure that there is one store.
func (s *Store) validate() error {
	switch {
	case s == nil || *s == Store{}:
		return errors.New("none given; write store sqlite <file>, or store postgres <dsn>")
	case s.SQLite != "" && s.Postgres != "":
		return errors.New("two are given; write either sqlite or postgres")
	}
	return nil
}

// preferenceStores are shared across reloads, so that followers of one hear of
// changes that another made.
var preferenceStores = pool.New[prefstore.Store]()

// open opens the store, or takes the one that a running configuration uses. A
// database is connected to later.
func (s *Store) open(held *pool.Leases) (prefstore.Store, error) {
	word, target := "sqlite", s.SQLite
	if s.Postgres != "" {
		word, target = "postgres", s.Postgres
	}
	if word == "sqlite" && (prefstore.IsPostgres(target) || strings.Contains(target, "://")) {
		return nil, located.At(errors.New("this is not the path of a file; write store postgres <dsn> for a database"), "store sqlite")
	}
	store, err := preferenceStores.Acquire(held, []string{word, target}, func() (prefstore.Store, error) {
		if word == "postgres" {
			return prefstore.OpenPostgres(target, logStoreHealth)
		}
		_, missing := os.Stat(target)
		store, err := prefstore.OpenSQLite(target, logStoreHealth)
		if err == nil && errors.Is(missing, fs.ErrNotExist) {
			// It may be that a path has a typing mistake.
			caddy.Log().Named(moduleID).Info("a new preference store was made, in which nobody has opted out: there was no such file", zap.String("file", target))
		}
		return store, err
	})
	return store, located.At(err, "store "+word)
}

// logStoreHealth logs when a database is lost and when it is back. Stores
// outlive configurations, and their loggers.
func logStoreHealth(err error) {
	logger := caddy.Log().Named(moduleID)
	if errors.Is(err, prefstore.ErrNotNotified) {
		logger.Warn("the preference store learns of changes late", zap.Error(err))
		return
	}
	if err != nil {
		logger.Warn("the preference store is in trouble: while it does not answer, requests get 503 and followers hear of no changes", zap.Error(err))
		return
	}
	logger.Info("the preference store answers")
}

// warn says at start what the configuration leaves open.
func (s *Store) warn(logger *zap.Logger, where string) {
	if literalPassword(s.Postgres) {
		logger.Warn("the password stands in the configuration itself, where GET /config shows it; write {env.NAME} or {file./path}",
			zap.String("where", where))
	}
}

// dsnPassword finds the password of a URL or of key words, as libpq takes them.
var dsnPassword = regexp.MustCompile(`(?i)^postgres(?:ql)?://[^:@/]*:([^@/]+)@|\bpassword\s*=\s*([^&\s]+)`)

// literalPassword says whether a password stands in a DSN as such.
func literalPassword(dsn string) bool {
	found := dsnPassword.FindStringSubmatch(dsn)
	return found != nil && !placeholder.Is(strings.Trim(found[1]+found[2], "'"))
}
