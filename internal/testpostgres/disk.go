package testpostgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// FillDisk lets the file of a table grow no more, and none beyond its size, until
// MakeRoom: for who writes that is as if the disk were full. The table has to be
// larger than a file of the write-ahead log, or the server would go down instead.
func (c *Cluster) FillDisk(table string) {
	c.t.Helper()
	conn, err := pgx.Connect(context.Background(), c.DSN)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var size, log int64
	if err := conn.QueryRow(context.Background(), `SELECT pg_relation_size($1::regclass), pg_size_bytes(current_setting('wal_segment_size'))`, table).
		Scan(&size, &log); err != nil {
		c.t.Fatal(err)
	}
	if size <= log {
		c.t.Fatalf("%s has %d bytes; the log's files have %d", table, size, log)
	}
	// Half of a page fits in still: PostgreSQL takes a page of which only a part was
	// written for a disk that is full, and one that was not for a file too large.
	const halfAPage = 4 << 10
	c.limitFiles(strconv.FormatInt(size+halfAPage, 10))
}

// MakeRoom lets all files grow again.
func (c *Cluster) MakeRoom() { c.t.Helper(); c.limitFiles("unlimited") }

// limitFiles sets the size up to which the server may write files (RLIMIT_FSIZE),
// for each of its processes. New ones have it from the first.
func (c *Cluster) limitFiles(size string) {
	c.t.Helper()
	limit := func(pid string) error {
		out, err := command("prlimit", "--pid="+pid, "--fsize="+size+":").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	first := strconv.Itoa(c.process.Pid)
	if err := limit(first); err != nil {
		c.t.Fatal(err)
	}
	children, err := os.ReadFile(filepath.Join("/proc", first, "task", first, "children"))
	if err != nil {
		c.t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(children)) {
		if err := limit(pid); err != nil {
			if _, gone := os.Stat("/proc/" + pid); gone == nil {
				c.t.Fatal(err)
			}
		}
	}
}
