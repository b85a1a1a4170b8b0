//go:build linux

package tests

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// quantile of durations that are sorted here.
func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// From the answer to a POST at one instance until a beacon is answered that a
// gate blocked which follows another. Beacons are sent one after the other, so
// one that came too early adds its own time.
func BenchmarkChangeToEnforcement(b *testing.B) {
	const rounds = 200
	f := newFleet(b, 1)
	var took []time.Duration
	for b.Loop() {
		for range rounds {
			uid := testcaddy.NewUID(b)
			if got := f.decisions(uid); got != "collect" {
				b.Fatal(got)
			}
			choose(b, f.addrs[0], uid, optOut)
			accepted := time.Now()
			f.act(uid, "an opt-out to act", "block")
			took = append(took, time.Since(accepted))
		}
	}
	b.ReportMetric(milliseconds(quantile(took, 0.5)), "ms-p50")
	b.ReportMetric(milliseconds(quantile(took, 0.99)), "ms-p99")
	b.ReportMetric(milliseconds(quantile(took, 1)), "ms-max")
}

const (
	million     = 1_000_000
	connections = 32
)

// A million users: what an import takes, how large they are, and how fast they
// are read and written over HTTP. The constant is the same handler where it
// needs no store: it verifies the same kind of token, and refuses a day that is
// none. Tokens are signed with an EC key; with a shared secret, less of the time
// is for them and more for the store.
func BenchmarkMillionUsers(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) {
		file := filepath.Join(b.TempDir(), "profile.db")
		benchmarkMillion(b, "sqlite "+file, file, func() (bytes int64) {
			for _, path := range testcaddy.Must(filepath.Glob(file + "*")) {
				bytes += testcaddy.Must(os.Stat(path)).Size()
			}
			return bytes
		})
	})
	b.Run("PostgreSQL", func(b *testing.B) {
		dsn := testpostgres.Start(b).DSN
		benchmarkMillion(b, "postgres "+dsn, dsn, func() (bytes int64) {
			conn, err := pgx.Connect(context.Background(), dsn)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close(context.Background())
			if err := conn.QueryRow(context.Background(), `SELECT pg_database_size(current_database())`).Scan(&bytes); err != nil {
				b.Fatal(err)
			}
			return bytes
		})
	})
}

// millionth is the uid of one of the million.
func millionth(i int) string { return fmt.Sprintf("%032x", uint64(i)*0x9e3779b97f4a7c15) }

// millionRows writes the CSV of the million and returns its name.
func millionRows(b *testing.B) string {
	rows := filepath.Join(b.TempDir(), "rows.csv")
	file := testcaddy.Must(os.Create(rows))
	w := bufio.NewWriter(file)
	_, _ = w.WriteString("uid,preference,changed,source\n")
	for i := range million {
		_, _ = fmt.Fprintf(w, "%s,%v,2026-01-02T03:04:05.678Z,user\n", millionth(i), i%3 == 0)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	file.Close()
	return rows
}

// timed runs caddy metrics-gate and reports how long it took and what memory.
func timed(b *testing.B, as string, args ...string) {
	b.Helper()
	command := exec.Command(testcaddy.Binary, append([]string{"metrics-gate"}, args...)...)
	command.Env = testcaddy.Environment(b.TempDir())
	began := time.Now()
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", as, err, out)
	}
	b.ReportMetric(time.Since(began).Seconds(), as+"-s")
	b.ReportMetric(float64(command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024, as+"-peak-MB")
}

// A million users who are moved to PostgreSQL, and once more, when nothing is
// left to move.
func BenchmarkMoveMillionUsers(b *testing.B) {
	from := filepath.Join(b.TempDir(), "profile.db")
	to := testpostgres.Start(b).DSN
	for _, store := range []string{from, to} {
		metricsGate(b, "migrate", "--store", store)
	}
	metricsGate(b, "preferences", "import", "--store", from, "--file", millionRows(b))
	for b.Loop() {
		timed(b, "move", "preferences", "move", "--from", from, "--to", to)
		timed(b, "again", "preferences", "move", "--from", from, "--to", to)
	}
}

func benchmarkMillion(b *testing.B, configured, named string, size func() int64) {
	rows := millionRows(b)
	metricsGate(b, "migrate", "--store", named)
	for b.Loop() {
		timed(b, "import", "preferences", "import", "--store", named, "--file", rows)
		b.ReportMetric(float64(size())/(1<<20), "store-MB")

		addr := testcaddy.FreeAddr(b)
		server := testcaddy.Start(b, testcaddy.Site(addr, profileServer(configured)))
		ready(b, addr)
		measure := func(what string, n, status int, request func(i int) []byte) (perSecond float64) {
			took, elapsed := load(b, addr, n, status, request)
			perSecond = float64(n) / elapsed.Seconds()
			b.ReportMetric(perSecond, what+"s/s")
			b.ReportMetric(milliseconds(quantile(took, 0.5)), what+"-ms-p50")
			b.ReportMetric(milliseconds(quantile(took, 0.99)), what+"-ms-p99")
			return perSecond
		}
		token := func(i int, client string) string {
			return testcaddy.RelierToken(addr, millionth(i), "profile:write", client)
		}
		get := func(target string, i int, client string) []byte {
			return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", target, addr, token(i, client))
		}
		constant := measure("constant", 20_000, http.StatusBadRequest, func(i int) []byte { return get("/v1/metrics_optout/daily?from=x", i, operator) })
		reads := measure("read", 20_000, http.StatusOK, func(i int) []byte { return get("/v1/metrics_optout", i, testcaddy.TrustedRelier) })
		measure("write", 5_000, http.StatusOK, func(i int) []byte {
			body := fmt.Sprintf(`{"metrics_optout":%v}`, i%3 != 0) // another than what is held
			return fmt.Appendf(nil, "POST /v1/metrics_optout HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				addr, token(i, testcaddy.TrustedRelier), len(body), body)
		})
		b.ReportMetric(reads/constant, "read/constant")
		b.ReportMetric(float64(server.Resident())/(1<<20), "server-MB")
		server.Stop()
	}
}

// load sends n requests on so many connections, as fast as their answers come,
// and says how long each took and all of them. A client that costs little
// leaves the machine to the server; so the requests are made before.
func load(b *testing.B, addr string, n, status int, request func(i int) []byte) (took []time.Duration, elapsed time.Duration) {
	b.Helper()
	each := n / connections
	all := make([][][]byte, connections)
	for i := range all {
		for range each {
			all[i] = append(all[i], request(rand.IntN(million)))
		}
	}
	want := strconv.AppendInt([]byte("HTTP/1.1 "), int64(status), 10)
	times := make([][]time.Duration, connections)
	var running sync.WaitGroup
	began := time.Now()
	for i, requests := range all {
		running.Go(func() {
			connection, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer connection.Close()
			answers := bufio.NewReader(connection)
			for _, request := range requests {
				sent := time.Now()
				if _, err := connection.Write(request); err != nil {
					b.Error(err)
					return
				}
				line, err := skipAnswer(answers)
				if err != nil || !bytes.HasPrefix(line, want) {
					b.Errorf("answered %q, %v", line, err)
					return
				}
				times[i] = append(times[i], time.Since(sent))
			}
		})
	}
	running.Wait()
	return slices.Concat(times...), time.Since(began)
}

// skipAnswer reads an answer of a known length and returns its first line.
func skipAnswer(r *bufio.Reader) (first []byte, err error) {
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSpace(line)
		if first == nil {
			first = bytes.Clone(line)
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, err
			}
		}
		if len(line) == 0 {
			_, err := io.CopyN(io.Discard, r, int64(length))
			return first, err
		}
	}
}

// Whether the time until an answer tells somebody who names an account what the
// account chose, with an application that takes 40 ms: of 400 pairs of a beacon
// that is blocked and one that is collected, in any order, the share in which
// the collected one took longer. Half of them tells nothing.
func BenchmarkTimeTells(b *testing.B) {
	const pairs = 400
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(40 * time.Millisecond)
		_, _ = io.WriteString(w, `{"success":true}`)
	}))
	b.Cleanup(application.Close)
	profile, addr := newProfile(b), testcaddy.FreeAddr(b)
	testcaddy.Start(b, testcaddy.Site(addr, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(application.Listener.Addr().String())))
	accounts := []string{profile.account(optOut), profile.account(allow)}
	beacon := func(which int) time.Duration {
		began := time.Now()
		response, err := testcaddy.Client.Post("http://"+addr+"/metrics", "text/plain", strings.NewReader(`{"uid":"`+accounts[which]+`"}`))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return time.Since(began)
	}
	for which := range accounts { // both are cached, and a connection stands
		beacon(which)
	}
	var took [2][]time.Duration
	longer := 0
	for b.Loop() {
		for range pairs {
			var pair [2]time.Duration
			for _, which := range rand.Perm(2) {
				pair[which] = beacon(which)
				took[which] = append(took[which], pair[which])
			}
			if pair[1] > pair[0] {
				longer++
			}
		}
	}
	b.ReportMetric(float64(longer)/float64(len(took[0])), "collected-longer")
	b.ReportMetric(milliseconds(quantile(took[0], 0.5)), "ms-p50-blocked")
	b.ReportMetric(milliseconds(quantile(took[1], 0.5)), "ms-p50-collected")
}

// What a page that proves its account costs Caddy, beside one that does not: the
// page, and its report with and without a proof, for which the auth server is
// asked. A browser hands a proof over once in five minutes.
func BenchmarkPageWithProof(b *testing.B) {
	behind, profile, auth := newContentServer(b), newProfile(b), newAuthServer(b)
	addr := testcaddy.FreeAddr(b)
	caddy := testcaddy.Start(b, testcaddy.Site(addr, testcaddy.Gate("preset fxa", auth.block(), profile.block(patient), "handshake"), testcaddy.ProxyTo(behind.addr())))
	const pages = 500
	visit := func(report string) {
		v := newBrowser(b, behind, addr)
		v.send("GET /settings", "", "Sec-Fetch-Dest: document")
		v.report(report)
	}
	uid := profile.account(allow)
	visit(`{"answered":false}`)
	used := map[bool]time.Duration{}
	for b.Loop() {
		for _, proves := range []bool{false, true} {
			before := caddy.CPU()
			for range pages {
				report := `{"answered":false}`
				if proves {
					report = fmt.Sprintf(`{"answered":false,"proof":%q}`, auth.signIn(b, uid))
				}
				visit(report)
			}
			used[proves] += caddy.CPU() - before
		}
	}
	b.ReportMetric(float64(used[true])/float64(used[false]), "with÷without")
	b.ReportMetric(float64(used[false].Microseconds())/float64(b.N)/pages, "µs-without")
}
