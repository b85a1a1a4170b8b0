package tests

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// inAnHour is then, as a file of preferences has it.
func inAnHour() string { return time.Now().Add(time.Hour).UTC().Format(time.RFC3339) }

// metricsGate runs one of the commands, which has to succeed.
func metricsGate(t testing.TB, args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, code := testcaddy.Command(t, append([]string{"metrics-gate"}, args...)...)
	if code != 0 {
		t.Fatalf("caddy metrics-gate %q: exit %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// csvFile is a file with this content, which only the test reads.
func csvFile(t testing.TB, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "preferences.csv")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func importRows(t testing.TB, store, content string) {
	t.Helper()
	metricsGate(t, "preferences", "import", "--store", store, "--file", csvFile(t, content))
}

// eachStore runs a test against both stores, by what a Caddyfile and what a
// command calls them.
func eachStore(t *testing.T, test func(t *testing.T, configured, named string)) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "profile.db")
		test(t, "sqlite "+file, file)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		dsn := testpostgres.Database(t)
		test(t, "postgres "+dsn, dsn)
	})
}

// An import into a store that a server has open is told to all who follow: at
// the gate it is enforced while the import goes on, and nobody asks.
func TestImportIntoARunningStore(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, named string) {
		const rows = 5000 // some batches, and more than is kept in memory for who is late
		behind := newContentServer(t)
		addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, profileServer(configured)))
		ready(t, addr)
		gate := testcaddy.Start(t, testcaddy.Site(site, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(addr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())))
		follows(t, gate, addr)
		decision := func(uid string) string {
			return send(t, behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision()
		}
		content, uids := rowsOf(rows)
		var cached []string // accounts all over the file that the gate knows
		for i := rows / 20; i < rows; i += rows / 10 {
			cached = append(cached, uids[i])
			if decision(uids[i]) != "collect" {
				t.Fatal("an account without a choice is not collected")
			}
		}
		asked := gate.Metric("profile_lookups_total")
		listener := followChanges(t, addr, "")

		importRows(t, named, content)
		for _, uid := range cached {
			testcaddy.Until(t, "an imported opt-out to act", func() bool { return decision(uid) == "block" })
		}
		if now := gate.Metric("profile_lookups_total"); now != asked {
			t.Errorf("the gate asked %v times", now-asked)
		}
		listener.toldOf(t, addr, uids)
	})
}

// Who follows and reads nothing is dropped when all buffers on the way are
// full, and nobody waits for it.
func TestFollowerThatReadsNothing(t *testing.T) {
	t.Parallel()
	const rows = 20_000 // which fill them
	addr, store := testcaddy.FreeAddr(t), filepath.Join(t.TempDir(), "profile.db")
	server := testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+store)))
	deaf := dial(t, addr)
	_ = deaf.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, _ = fmt.Fprintf(deaf, "GET /v1/changes HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", addr, operatorToken(addr))
	listener := followChanges(t, addr, "")
	testcaddy.Until(t, "two to follow", func() bool { return server.ProfileServerMetric("followers") == 2 })
	content, uids := rowsOf(rows)
	importRows(t, store, content)
	listener.toldOf(t, addr, uids)
	testcaddy.Until(t, "the one that reads nothing to be dropped", func() bool { return server.ProfileServerMetric("followers") == 1 })
}

// rowsOf is a file of so many opted-out accounts with long names.
func rowsOf(n int) (content string, uids []string) {
	var rows strings.Builder
	rows.WriteString("uid,preference\n")
	for i := range n {
		uids = append(uids, fmt.Sprintf("%0255x", i))
		rows.WriteString(uids[i] + ",true\n")
	}
	return rows.String(), uids
}

// toldOf tells whether the follower has heard of each of these imported
// accounts, in the order of the ids.
func (f *follower) toldOf(t *testing.T, addr string, uids []string) {
	t.Helper()
	end := testcaddy.NewUID(t)
	choose(t, addr, end, optOut)
	// Its changes come in thousands, so it is not to look at each.
	testcaddy.Until(t, "the end", func() bool {
		holds(t, addr, end, optOut, "the last change")
		return f.last().uid() == end
	})
	all := f.All()
	heard, last := map[string]bool{}, number(t, all[0].id)
	for _, e := range all[1:] {
		if id := number(t, e.id); e.event != "change" || id <= last {
			t.Fatalf("told %s %d after %d", e.event, id, last)
		}
		last = number(t, e.id)
		if strings.Contains(e.data, `"metrics_optout":true,"source":"admin"`) {
			heard[e.uid()] = true
		}
	}
	for _, uid := range uids {
		if !heard[uid] {
			t.Fatalf("%d of %d were told of", len(heard), len(uids))
		}
	}
}

func number(t testing.TB, text string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("%q is no number", text)
	}
	return n
}

// A file that is wrong somewhere stops the import there, which says where and
// how to go on, and nobody's uid.
func TestImportOfABadFile(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, _, named string) {
		metricsGate(t, "migrate", "--store", named)
		for _, c := range []struct{ name, content, want string }{
			{"a word that is none", "uid,preference\nann,true\nbob,yes\ncid,true\n", "line 3"},
			{"too few values", "uid,preference\nann,true\nbob\n", "line 3"},
			{"an account that is none", "uid,preference\nann,true\n" + strings.Repeat("x", 256) + ",true\n", "line 3"},
			{"a time that is none", "uid,preference,changed\nann,true,\nbob,true,yesterday\n", "line 3"},
			{"no header", "bob,true\n", "line 1"},
			{"nothing", "", "line 1"},
			{"a quotation mark that is never closed", "uid,preference\nann,true\n\"bob,true\n" + strings.Repeat("cid,true\n", 20_000), "quotation"},
		} {
			stdout, stderr, code := testcaddy.Command(t, "metrics-gate", "preferences", "import", "--store", named, "--file", csvFile(t, c.content))
			if code != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("%s: exit %d, %q; want %s", c.name, code, stderr, c.want)
			}
			for _, uid := range []string{"bob", "cid", "xxx"} {
				if strings.Contains(stdout+stderr, uid) {
					t.Errorf("%s: it tells %s", c.name, uid)
				}
			}
		}
		if got := metricsGate(t, "preferences", "export", "--store", named); !strings.Contains(got, "\nann,true,") || strings.Count(got, "\n") != 2 {
			t.Errorf("what came before the bad lines is not stored, or more is:\n%s", got)
		}
		if _, stderr, code := testcaddy.Command(t, "metrics-gate", "preferences", "import", "--store", named, "--file", filepath.Join(t.TempDir(), "lost.csv")); code != 1 || !strings.Contains(stderr, "lost.csv") {
			t.Errorf("a file that is not there: exit %d, %q", code, stderr)
		}
	})
}

// What export writes, import reads, into the other store, and it comes out the
// same. The file is for its owner alone.
func TestExportIsImported(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, named string) {
		addr := testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, profileServer(configured)))
		ready(t, addr)
		odd := strings.Repeat(`ä,"'; `, 36) + "."
		for uid, choice := range map[string]preference{odd: optOut, "in": allow, "back": unset, "out": optOut} {
			choose(t, addr, uid, optOut)
			choose(t, addr, uid, choice)
		}
		token := testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, nil, testcaddy.Claims("by browser", map[string]any{
			"iss": "metrics-gate", "aud": testcaddy.ProfileAudience, "client_id": "metrics-gate", "scope": "profile:write", "source": "browser",
		}))
		if status, _, _ := testcaddy.Ask(t, addr, http.MethodPost, token, `{"metrics_optout":true}`); status != http.StatusOK {
			t.Fatalf("POST: %d", status)
		}
		importRows(t, named, "uid,preference,changed\nold,false,2016-03-04T05:06:07.089Z\n")

		file := filepath.Join(t.TempDir(), "out.csv")
		metricsGate(t, "preferences", "export", "--store", named, "--file", file)
		if info := testcaddy.Must(os.Stat(file)); info.Mode() != 0o600 {
			t.Errorf("the file is %v", info.Mode())
		}
		content := string(testcaddy.Must(os.ReadFile(file)))
		records, err := csv.NewReader(strings.NewReader(content)).ReadAll()
		if err != nil || len(records) != 7 {
			t.Fatalf("%d records, %v:\n%s", len(records), err, content)
		}
		for _, want := range []string{"old,false,2016-03-04T05:06:07.089Z,admin\n", "by browser,true,", ",browser\n", "back,null,"} {
			if !strings.Contains(content, want) {
				t.Errorf("the file lacks %q:\n%s", want, content)
			}
		}
		if _, stderr, code := testcaddy.Command(t, "metrics-gate", "preferences", "export", "--store", named, "--file", file); code != 1 || !strings.Contains(stderr, "exists") {
			t.Errorf("over a file that exists: exit %d, %q", code, stderr)
		}
		other := filepath.Join(t.TempDir(), "other.db")
		if !strings.HasPrefix(named, "postgres") {
			other = testpostgres.Database(t)
		}
		metricsGate(t, "migrate", "--store", other)
		for range 2 {
			metricsGate(t, "preferences", "import", "--store", other, "--file", file)
		}
		if got := metricsGate(t, "preferences", "export", "--store", other); got != content {
			t.Errorf("in, and out again of the other store:\n%s\nis\n%s", content, got)
		}
		choose(t, addr, odd, allow)
		importRows(t, named, content)
		holds(t, addr, odd, allow, "a choice newer than the one that is imported")
	})
}

// A backup of a store under writes is whole, and for its owner alone.
func TestBackup(t *testing.T) {
	t.Parallel()
	addr, store := testcaddy.FreeAddr(t), filepath.Join(t.TempDir(), "profile.db")
	testcaddy.Start(t, testcaddy.Site(addr, profileServer("sqlite "+store)))
	before := testcaddy.NewUID(t)
	choose(t, addr, before, optOut)
	ctx, stop := context.WithCancel(context.Background())
	written := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if status, _, err := tryChoose(addr, fmt.Sprint("writer ", n), optOut); err != nil || status != http.StatusOK {
				t.Errorf("a write beside the backup: %d, %v", status, err)
			}
		}
		written <- n
	}()
	backup := filepath.Join(t.TempDir(), "backup.db")
	metricsGate(t, "backup", "--store", store, "--file", backup)
	stop()
	n := testcaddy.Await(t, "the writer", written)
	if info := testcaddy.Must(os.Stat(backup)); info.Mode() != 0o600 {
		t.Errorf("the file is %v", info.Mode())
	}
	got := metricsGate(t, "preferences", "export", "--store", backup)
	if rows := strings.Count(got, "\n") - 1; !strings.Contains(got, before+",true,") || rows < 1 || rows > n+1 {
		t.Errorf("%d rows were backed up, of %d written", rows, n)
	}
	second := testcaddy.FreeAddr(t)
	testcaddy.Start(t, testcaddy.Site(second, profileServer("sqlite "+backup)))
	holds(t, second, before, optOut, "in the backup")
}

// The daily count is of users, exactly, whoever tells it.
func TestDailyCount(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, named string) {
		oauth := newOAuthServer(t)
		addr := testcaddy.FreeAddr(t)
		testcaddy.Start(t, testcaddy.Site(addr, profileServer(configured, oauth.eventsBlock())))
		ready(t, addr)
		keysFetched(t, addr)
		today := time.Now().UTC().Format(time.DateOnly)
		for i := range 10 {
			uid := fmt.Sprint("user ", i)
			for _, choice := range []preference{optOut, optOut, allow, optOut, unset, optOut}[:1+i%6] {
				choose(t, addr, uid, choice)
			}
			choose(t, addr, fmt.Sprint("nobody ", i), allow)
			happen(t, addr, "FxA", byRSA(event(t, fmt.Sprint("by event ", i), "metrics-opt-out", map[string]any{})))
		}
		forgetAccount(t, addr, "user 0") // whose count stays
		importRows(t, named, "uid,preference\nimported,true\n")
		if time.Now().UTC().Format(time.DateOnly) != today {
			t.Fatal("midnight came in between; once more, please")
		}
		const want = 20
		if got := metricsGate(t, "daily", "--store", named, "--from", "2026-01-01", "--to", today, "--format", "csv"); !strings.HasSuffix(got, fmt.Sprintf("\n%s,%d\n", today, want)) || !strings.Contains(got, "\n2026-01-01,0\n") {
			t.Errorf("daily prints, where it should end in %s,%d:\n%s", today, want, got)
		}
		query := "GET /v1/metrics_optout/daily?from=" + today + "&to=" + today
		if _, header, body := testcaddy.AskFor(t, addr, query, operatorToken(addr), ""); body != fmt.Sprintf(`[{"day":%q,"users":%d}]`, today, want) || !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Errorf("daily says %q as %q", body, header.Get("Content-Type"))
		}
		if _, header, body := testcaddy.AskFor(t, addr, query, operatorToken(addr), "", "Accept: text/csv"); body != fmt.Sprintf("day,users\r\n%s,%d\r\n", today, want) || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") {
			t.Errorf("daily says %q as %q", body, header.Get("Content-Type"))
		}
		for _, client := range []string{testcaddy.TrustedRelier, testcaddy.UntrustedOther} {
			if status, _, _ := testcaddy.AskFor(t, addr, query, testcaddy.RelierToken(addr, "anybody", "profile:write", client), ""); status != http.StatusForbidden {
				t.Errorf("client %s may see the counts: %d", client, status)
			}
		}
	})
}

// Many who bring one database up to date at once do not disturb one another,
// nor a server that starts meanwhile; once more changes nothing.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	dsn := testpostgres.Database(t)
	var commands []*exec.Cmd
	for range 3 {
		cmd := exec.Command(testcaddy.Binary, "metrics-gate", "migrate", "--store", "{env.PROFILE_DSN}")
		cmd.Env = append(testcaddy.Environment(t.TempDir()), "PROFILE_DSN="+dsn)
		cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, cmd)
	}
	one, two := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	for _, addr := range []string{one, two} {
		testcaddy.Start(t, testcaddy.Site(addr, profileServer("postgres "+dsn)))
	}
	for _, cmd := range commands {
		if err := cmd.Wait(); err != nil {
			t.Errorf("migrate: %v", err)
		}
	}
	ready(t, one)
	ready(t, two)
	choose(t, one, "ann", optOut)
	metricsGate(t, "migrate", "--store", dsn)
	holds(t, two, "ann", optOut, "after migrate was run once more")
}
