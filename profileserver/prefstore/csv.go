package prefstore

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// lastTime is the last millisecond that optoutapi.TimeLayout can tell.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)

// fewestMilliseconds is in March 1973, before anybody could choose. As seconds,
// it is in the year 5138.
const fewestMilliseconds = 100_000_000_000

// A column is read from a value of the file, and written to it.
type column struct {
	name  string
	read  func(*Row, string) error
	write func(Row) string
}

var columns = []column{
	{"uid", readUID, func(r Row) string { return harmless(r.UID) }},
	{"preference", readPreference, func(r Row) string { return r.Preference.String() }},
	{"changed", readChanged, func(r Row) string { return r.Changed.UTC().Format(optoutapi.TimeLayout) }},
	{"source", readSource, func(r Row) string { return r.Source }},
}

// formulaSigns begin what a spreadsheet takes for a formula and runs, also as the
// wide ones of East Asian keyboards.
const formulaSigns = "=+-@＝＋－＠"

// isFormula says whether a spreadsheet would run a value but for the apostrophes
// before it, of which the first has it taken for text.
func isFormula(value string) bool {
	first, _ := utf8.DecodeRuneInString(strings.TrimLeft(value, "'"))
	return strings.ContainsRune(formulaSigns, first)
}

// harmless returns a value with one more apostrophe where a spreadsheet would run
// it; whole takes it away again. So none is lost that was there.
func harmless(value string) string {
	if isFormula(value) {
		return "'" + value
	}
	return value
}

func whole(value string) string {
	if isFormula(value) {
		return strings.TrimPrefix(value, "'")
	}
	return value
}

func readUID(row *Row, value string) error {
	switch row.UID = whole(value); {
	case !policy.IsUID(row.UID):
		return errors.New("write the account's id, which is 1 to 255 bytes of UTF-8 without control characters")
	case strings.TrimSpace(row.UID) != row.UID:
		// Nobody has such an id, so nobody would be opted out by it.
		return errors.New("this begins or ends with a blank; write the account's id alone")
	}
	return nil
}

func readPreference(row *Row, value string) error {
	switch strings.ToLower(value) { // spreadsheets write TRUE
	case "null":
		row.Preference = policy.Unset
	case "false":
		row.Preference = policy.Allowed
	case "true":
		row.Preference = policy.OptedOut
	case "":
		// Most often that is a value that somebody did not have, and as null it
		// would take an opt-out back.
		return errors.New("there is nothing; write null where the account took its choice back or made none (in PostgreSQL, COPY … WITH (FORMAT csv, HEADER, NULL 'null')), or leave the row out where nobody knows")
	default:
		return errors.New("write true for opted out, false for explicitly allowed, or null where no choice was made")
	}
	return nil
}

func readChanged(row *Row, value string) (err error) {
	if value == "" {
		return nil
	}
	if ms, notNumber := strconv.ParseInt(value, 10, 64); notNumber == nil {
		if ms > 0 && ms < fewestMilliseconds {
			return errors.New("this reads as seconds since 1970; write the milliseconds, or a time such as 2026-11-24T12:00:00Z")
		}
		row.Changed = time.UnixMilli(ms).UTC()
	} else {
		row.Changed, err = time.Parse(time.RFC3339, value)
	}
	if err != nil || row.Changed.UnixMilli() < 0 || row.Changed.After(lastTime) {
		return errors.New("write a time since 1970 such as 2026-11-24T12:00:00Z, or its milliseconds since 1970, or nothing where it is not known")
	}
	return nil
}

func readSource(row *Row, value string) error {
	switch row.Source = value; value {
	case "", SourceUser, SourceBrowser, SourceAdmin:
		return nil
	default:
		return errors.New("write user, browser or admin, or nothing for admin")
	}
}

// WriteCSV writes rows in the form that ReadCSV reads, and returns how many. A
// uid that a spreadsheet would run as a formula is written with an apostrophe
// before it.
func WriteCSV(w io.Writer, rows iter.Seq2[Row, error]) (written int64, err error) {
	writer := csv.NewWriter(w)
	record := make([]string, len(columns))
	for i, c := range columns {
		record[i] = c.name
	}
	if err := writer.Write(record); err != nil {
		return 0, err
	}
	for row, err := range rows {
		if err != nil {
			return written, err
		}
		for i, c := range columns {
			record[i] = c.write(row)
		}
		if err := writer.Write(record); err != nil {
			return written, err
		}
		written++
	}
	writer.Flush()
	return written, writer.Error()
}

// maxRecord bounds what is read for one row, in bytes: a quotation mark that
// is never closed would have the rest of the file read as one value.
const maxRecord = 64 << 10

// foreign is what a file begins with that is no CSV, and what to do about it.
var foreign = []struct{ begins, advice string }{
	{"\x1f\x8b", "this is compressed by gzip; unpack it, as zcat does"},
	{"PK\x03\x04", "this is a workbook, or another zip archive; have the spreadsheet save it as CSV, in UTF-8 and with commas"},
	{"\xff\xfe", "this is UTF-16; save it in UTF-8"},
	{"\xfe\xff", "this is UTF-16; save it in UTF-8"},
}

// ReadCSV reads rows from CSV (RFC 4180). Its header line names the columns,
// in any order: uid and preference (true, false or null), and, where they are
// known, changed (RFC 3339, or milliseconds since 1970) and source (user,
// browser or admin). An empty preference is refused, since null takes a choice back. It ends with the first error, which names
// the line and the column, and nobody's uid.
func ReadCSV(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		buffered := bufio.NewReader(r)
		beginning, _ := buffered.Peek(4) // what fails here, fails again below
		for _, f := range foreign {
			if bytes.HasPrefix(beginning, []byte(f.begins)) {
				yield(Row{}, errors.New(f.advice))
				return
			}
		}
		limited := &io.LimitedReader{R: buffered}
		reader := csv.NewReader(limited)
		reader.ReuseRecord = true
		next := func() ([]string, error) {
			limited.N = maxRecord
			values, err := reader.Read()
			broken := (*csv.ParseError)(nil)
			switch {
			case limited.N == 0:
				return nil, fmt.Errorf("a row has more than %d bytes; close its quotation marks", maxRecord)
			case errors.As(err, &broken):
				return nil, fmt.Errorf("line %d: %w; write one value for each column, put values with a comma or a quotation mark into quotation marks, and double the quotation marks in them", broken.Line, broken.Err)
			}
			return values, err
		}
		header, err := next()
		if err != nil && !errors.Is(err, io.EOF) {
			yield(Row{}, err)
			return
		}
		order, err := columnsOf(header)
		if err != nil {
			yield(Row{}, fmt.Errorf("line 1: %w", err))
			return
		}
		for {
			values, err := next()
			if errors.Is(err, io.EOF) {
				return
			}
			var row Row
			for i := 0; i < len(values) && err == nil; i++ {
				if err = order[i].read(&row, values[i]); err != nil {
					line, _ := reader.FieldPos(i)
					err = fmt.Errorf("line %d, column %s: %w", line, order[i].name, err)
				}
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// columnsOf returns the columns that a header names.
func columnsOf(header []string) (order []column, err error) {
	const advice = "write a header line such as uid,preference,changed,source, of which uid and preference are required"
	for i, name := range header {
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff") // as spreadsheets begin a file
		}
		at := slices.IndexFunc(columns, func(c column) bool { return c.name == name })
		if at < 0 || slices.ContainsFunc(order, func(c column) bool { return c.name == name }) {
			// Where the header is missing, this is a uid, so it is not repeated.
			reason := "has none of the names uid, preference, changed and source, or has one a second time"
			if len(header) == 1 && strings.ContainsAny(name, ";\t|") {
				reason = "is the only one, and looks divided by something else than commas: have the spreadsheet save it with commas"
			}
			return nil, fmt.Errorf("column %d %s; %s", i+1, reason, advice)
		}
		order = append(order, columns[at])
	}
	for _, required := range columns[:2] {
		if !slices.ContainsFunc(order, func(c column) bool { return c.name == required.name }) {
			return nil, fmt.Errorf("there is no column %s; %s", required.name, advice)
		}
	}
	return order, nil
}
