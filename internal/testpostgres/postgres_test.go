package testpostgres_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

func execute(t *testing.T, dsn, query string) error {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, query)
	return err
}

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	a, b := testpostgres.Database(t), testpostgres.Database(t)
	for _, dsn := range []string{a, b} {
		if err := execute(t, dsn, `CREATE TABLE t (x int)`); err != nil {
			t.Error(err)
		}
	}
}

func TestClusterIsThereAgainAfterACrash(t *testing.T) {
	t.Parallel()
	c := testpostgres.Start(t)
	if err := execute(t, c.DSN, `CREATE TABLE t (x int)`); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){c.Stop, c.Kill} {
		end()
		if err := execute(t, c.DSN, `SELECT * FROM t`); err == nil {
			t.Error("a server that ended answers")
		}
		c.Restart()
		if err := execute(t, c.DSN, `SELECT * FROM t`); err != nil {
			t.Error(err)
		}
	}
}

func TestPoolerThatEndsIsStartedAgain(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Database(t)
	b := testpostgres.Pooler(t, dsn, "transaction")
	for range 2 {
		b.Crash()
		for deadline := time.Now().Add(time.Minute); ; {
			err := execute(t, b.DSN, `SELECT 1`)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	b.Stop()
	if err := execute(t, b.DSN, `SELECT 1`); err == nil {
		t.Error("one that was stopped answers")
	}
}

func TestADiskThatIsFull(t *testing.T) {
	t.Parallel()
	c := testpostgres.Start(t)
	const fill = `INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)`
	for _, query := range []string{`CREATE TABLE t (x text)`, fill} {
		if err := execute(t, c.DSN, query); err != nil {
			t.Fatal(err)
		}
	}
	c.FillDisk("t")
	if err := execute(t, c.DSN, fill); err == nil || !strings.Contains(err.Error(), "could not extend file") {
		t.Errorf("written where there is no space: %v", err)
	}
	if err := execute(t, c.DSN, `SELECT count(*) FROM t`); err != nil {
		t.Error(err)
	}
	c.MakeRoom()
	if err := execute(t, c.DSN, fill); err != nil {
		t.Error(err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	var folders []string
	t.Run("use", func(t *testing.T) {
		for _, dsn := range []string{testpostgres.Database(t), testpostgres.Start(t).DSN} {
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			folders = append(folders, config.Host)
		}
	})
	for _, folder := range folders {
		if _, err := os.Stat(folder); !os.IsNotExist(err) {
			t.Errorf("%s: %v", filepath.Base(folder), err)
		}
	}
}
