package prefstore

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/policy"
)

// collect returns rows, and the error that ended them.
func collect(r io.Reader) (rows []Row, err error) {
	for row, err := range ReadCSV(r) {
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func TestReadCSV(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, text string
		want       []Row
	}{
		{"all columns", "uid,preference,changed,source\na,true,2026-11-24T12:00:00.000Z,browser\nb,false,2026-11-24T13:00:00+01:00,user\nc,null,1795521600000,admin\n", []Row{
			{"a", policy.OptedOut, noon, SourceBrowser}, {"b", policy.Allowed, noon, SourceUser}, {"c", policy.Unset, noon, SourceAdmin},
		}},
		{"in another order", "preference,source,uid\ntrue,,a\n", []Row{{UID: "a", Preference: policy.OptedOut}}},
		{"what may be empty", "uid,preference,changed,source\na,null,,\n", []Row{{UID: "a", Preference: policy.Unset}}},
		{"as spreadsheets write it", "uid,preference\na,TRUE\nb,False\n", []Row{{UID: "a", Preference: policy.OptedOut}, {UID: "b", Preference: policy.Allowed}}},
		{"the two that are required", "uid,preference\na,true\n", []Row{{UID: "a", Preference: policy.OptedOut}}},
		{"from a spreadsheet", "\ufeffuid,preference\r\n\"a,\"\"b\"\"\",true\r\n\r\n", []Row{{UID: `a,"b"`, Preference: policy.OptedOut}}},
		{"without a last line end", "uid,preference\na,true", []Row{{UID: "a", Preference: policy.OptedOut}}},
		{"no rows", "uid,preference\n", nil},
		{"not a formula any more", "uid,preference\n'=1+1,true\n''-1,true\n'a,true\n+1,true\n", []Row{
			{UID: "=1+1", Preference: policy.OptedOut}, {UID: "'-1", Preference: policy.OptedOut},
			{UID: "'a", Preference: policy.OptedOut}, {UID: "+1", Preference: policy.OptedOut},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := collect(iotest.OneByteReader(strings.NewReader(test.text)))
			if err != nil {
				t.Fatal(err)
			}
			equal := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
			if diff := cmp.Diff(test.want, got, equal); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadCSVSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const header = "uid,preference,changed,source\n"
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "line 1: there is no column uid; write a header line such as uid,preference,changed,source"},
		{"no header", "somebody,true\n", "line 1: column 1 has none of the names uid, preference, changed and source"},
		{"a name twice", "uid,preference,uid\n", "line 1: column 3 has none of the names uid, preference, changed and source, or has one a second time; write a header line"},
		{"semicolons", "uid;preference\nsomebody;true\n", "line 1: column 1 is the only one, and looks divided by something else than commas: have the spreadsheet save it with commas; write"},
		{"tabs", "uid\tpreference\nsomebody\ttrue\n", "line 1: column 1 is the only one, and looks divided by"},
		{"gzip", "\x1f\x8b\b\x00\x00", "this is compressed by gzip; unpack it"},
		{"a workbook", "PK\x03\x04\x14\x00", "this is a workbook, or another zip archive; have the spreadsheet save it as CSV"},
		{"UTF-16", "\xff\xfeu\x00i\x00d\x00", "this is UTF-16; save it in UTF-8"},
		{"UTF-16, big end first", "\xfe\xff\x00u\x00i\x00d", "this is UTF-16"},
		{"no preference", "uid,changed\n", "line 1: there is no column preference"},
		{"no uid", header + "a,true,,\n,true,,\n", "line 3, column uid: write the account's id"},
		{"a long uid", header + strings.Repeat("somebody", 32) + ",true,,\n", "line 2, column uid: write the account's id"},
		{"a uid over two lines", header + "\"some\nbody\",true,,\n", "line 2, column uid: write the account's id"},
		{"a blank before a uid", header + " somebody,true,,\n", "line 2, column uid: this begins or ends with a blank; write the account's id alone"},
		{"a blank behind a uid", header + "somebody\u00a0,true,,\n", "line 2, column uid: this begins or ends with a blank"},
		{"a preference that is missing", header + "somebody,,,\n", "line 2, column preference: there is nothing; write null where the account took its choice back or made none"},
		{"another preference", header + "somebody,yes,,\n", "line 2, column preference: write true for opted out, false for explicitly allowed, or null"},
		{"unknown", header + "somebody,unknown,,\n", "line 2, column preference: write true"},
		{"a date alone", header + "somebody,true,2026-11-24,\n", "line 2, column changed: write a time since 1970 such as 2026-11-24T12:00:00Z"},
		{"before there was time", header + "somebody,true,1969-12-31T23:59:59Z,\n", "line 2, column changed: write a time since 1970"},
		{"after there is time", header + "somebody,true,9223372036854775807,\n", "line 2, column changed: write a time since 1970"},
		{"another source", header + "somebody,true,,import\n", "line 2, column source: write user, browser or admin, or nothing"},
		{"a value too few", header + "a,true,,\nsomebody,true\n", "line 3: wrong number of fields; write one value for each column"},
		{"a value too many", header + "somebody,true,,,\n", "line 2: wrong number of fields; write one value for each column"},
		{"a bare quotation mark", header + "some\"body,true,,\n", "line 2: bare \" in non-quoted-field; write"},
		{"a quotation mark that is not closed", header + "\"somebody,true,,\n", "line 2: extraneous or missing \" in quoted-field; write"},
		{"and a large file", header + "\"somebody,true,,\n" + strings.Repeat("somebody,true,,\n", maxRecord), "a row has more than 65536 bytes; close its quotation marks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := collect(strings.NewReader(test.text))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v, want %s…", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "somebody") || strings.Contains(err.Error(), "body\n")) {
				t.Errorf("it names somebody: %v", err)
			}
		})
	}
}

func TestReadCSVPassesErrorsOn(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is gone")
	rows, err := collect(io.MultiReader(strings.NewReader("uid,preference\na,true\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || len(rows) != 1 {
		t.Errorf("%v, %v", rows, err)
	}
}

func TestWriteCSV(t *testing.T) {
	t.Parallel()
	text := new(strings.Builder)
	n, err := WriteCSV(text, only(
		Row{`a,"b"`, policy.OptedOut, time.UnixMilli(1).UTC(), SourceUser},
		Row{"c", policy.Unset, time.UnixMilli(1795521600000), SourceAdmin},
	))
	want := "uid,preference,changed,source\n\"a,\"\"b\"\"\",true,1970-01-01T00:00:00.001Z,user\nc,null,2026-11-24T12:00:00.000Z,admin\n"
	if err != nil || n != 2 || text.String() != want {
		t.Errorf("%d, %v: %s", n, err, text)
	}
	broken := errors.New("the store is gone")
	failing := func(yield func(Row, error) bool) { yield(Row{}, broken) }
	if _, err := WriteCSV(io.Discard, failing); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := WriteCSV(refusing{}, only(Row{Preference: policy.Unset})); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v", err)
	}
}

// refusing is a full disk.
type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// isID says whether a text is an id of the kind that there is: any, but without
// blanks at its ends.
func isID(text string) bool {
	return policy.IsUID(text) && strings.TrimSpace(text) == text
}

// TestWhatIsWrittenCanBeRead writes rows of any kind and reads them.
func TestWhatIsWrittenCanBeRead(t *testing.T) {
	t.Parallel()
	rows := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Row {
		return Row{
			UID:        rapid.OneOf(rapid.String().Filter(isID), rapid.StringMatching(`['=+@＝-]{1,4}a?`)).Draw(t, "uid"),
			Preference: rapid.SampledFrom([]policy.Preference{policy.Unset, policy.Allowed, policy.OptedOut}).Draw(t, "preference"),
			Changed:    time.UnixMilli(rapid.Int64Range(0, lastTime.UnixMilli()).Draw(t, "changed")).UTC(),
			Source:     rapid.SampledFrom([]string{SourceUser, SourceBrowser, SourceAdmin}).Draw(t, "source"),
		}
	}))
	rapid.Check(t, func(rt *rapid.T) {
		want := rows.Draw(rt, "rows")
		text := new(strings.Builder)
		if _, err := WriteCSV(text, only(want...)); err != nil {
			rt.Fatal(err)
		}
		got, err := collect(strings.NewReader(text.String()))
		if err != nil || len(got) != len(want) {
			rt.Fatalf("%d rows of %d, %v", len(got), len(want), err)
		}
		for i := range want {
			if got[i] != want[i] {
				rt.Fatalf("%v, want %v", got[i], want[i])
			}
		}
		for line := range strings.Lines(text.String()) {
			if strings.ContainsAny(line[:1], "=+-@") || strings.HasPrefix(strings.TrimPrefix(line, `"`), "＝") {
				rt.Fatalf("a spreadsheet runs %q", line)
			}
		}
	})
}

// FuzzReadCSV reads anything; what is a row can be written, and read again.
func FuzzReadCSV(f *testing.F) {
	f.Add("uid,preference,changed,source\na,true,2026-11-24T12:00:00.000Z,browser\n")
	f.Add("\ufeffpreference,uid\r\n,\"a,\"\"\"\r\n")
	f.Add("uid,preference,changed\na,null,-1\n")
	f.Add("uid,preference\n\"a\n,true")
	f.Fuzz(func(t *testing.T, text string) {
		rows, _ := collect(strings.NewReader(text))
		for _, row := range rows {
			if !policy.IsUID(row.UID) || row.Preference == policy.Unknown {
				t.Fatalf("%+v", row)
			}
		}
		again := new(strings.Builder)
		if _, err := WriteCSV(again, only(rows...)); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if rows[i].Changed.IsZero() {
				rows = rows[:i] // which has no written form
				break
			}
		}
		got, _ := collect(strings.NewReader(again.String()))
		for i, row := range rows {
			row.Changed = row.Changed.Truncate(time.Millisecond)
			if i >= len(got) || !got[i].Changed.Equal(row.Changed) || got[i].UID != row.UID || got[i].Preference != row.Preference || got[i].Source != row.Source {
				t.Fatalf("%+v, want %+v", got, row)
			}
		}
	})
}
