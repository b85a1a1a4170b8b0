package prefstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// Row is an account's preference for import and export.
type Row struct {
	UID        string
	Preference policy.Preference
	// Changed is when the choice was made. Zero, on import: now.
	Changed time.Time
	// Source is SourceUser, SourceBrowser or SourceAdmin. Empty, on import:
	// SourceAdmin.
	Source string
}

// complete returns the row with its source in place, unless it holds no choice.
func (r Row) complete(number int64) (Row, error) {
	choice, err := Choice{Preference: r.Preference, Source: r.Source}.complete()
	if err != nil {
		return r, fmt.Errorf("row %d: %w", number, err)
	}
	r.Source = choice.Source
	return r, nil
}

// Imported counts the rows of an import.
type Imported struct {
	Read    int64 // rows read
	Changed int64 // of them, those that changed what was held
}

// importBatch is how many rows are stored at once: enough that the disk is not
// waited for with each, and few enough that writers in between hardly wait.
const importBatch = 1000

// replaces says whether of two rows of an account this one, the latter, counts:
// as the newer one, which without a time it is, or of one moment the one that
// measures less.
func (r Row) replaces(earlier Row) bool {
	switch {
	case r.Changed.IsZero():
		return true
	case earlier.Changed.IsZero():
		return false
	case r.Changed.Equal(earlier.Changed):
		return measured(r.Preference) <= measured(earlier.Preference)
	}
	return r.Changed.After(earlier.Changed)
}

// importRows gathers rows into batches and has each stored, with one row of each
// account.
func importRows(ctx context.Context, rows iter.Seq2[Row, error], store func(context.Context, []Row) (changed int64, err error), progress func(Imported)) (done Imported, err error) {
	batch := make([]Row, 0, importBatch)
	index := make(map[string]int, importBatch) // into batch, by account
	read := int64(0)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		changed, err := store(context.WithoutCancel(ctx), batch) // so that what is reported is all there is
		if err != nil {
			return err
		}
		done.Read, done.Changed = read, done.Changed+changed
		batch = batch[:0]
		clear(index)
		if progress != nil {
			progress(done)
		}
		return nil
	}
	for row, err := range rows {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			row, err = row.complete(read + 1)
		}
		if err != nil {
			err = errors.Join(err, flush())
			return done, err
		}
		read++
		if i, twice := index[row.UID]; !twice {
			index[row.UID] = len(batch)
			batch = append(batch, row)
		} else if row.replaces(batch[i]) {
			batch[i] = row
		}
		if len(batch) == importBatch {
			if err := flush(); err != nil {
				return done, err
			}
		}
	}
	err = flush()
	return done, err
}
