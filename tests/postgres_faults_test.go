package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// PostgreSQL is restarted in the middle of a thousand writes, once in good
// order and once as by a crash: what was answered with 200 is there afterwards,
// and everything else was answered with 503. A gate that follows ends up with
// all of it.
func TestPostgresRestartsAmongWrites(t *testing.T) {
	t.Parallel()
	const writes, width = 1000, 16
	database, behind := testpostgres.Start(t), newContentServer(t)
	addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, profileServer("postgres "+database.DSN)),
		testcaddy.Site(site, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(addr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())))
	ready(t, addr)
	follows(t, caddy, addr)

	answers := make([]int, writes)
	var answered atomic.Int64
	reached := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	restart := func() {
		for i, end := range []func(){database.Stop, database.Kill} {
			testcaddy.Await(t, "writes to be answered", reached[i])
			end()
			database.Restart()
			ready(t, addr)
		}
	}
	flood(t, writes, width, func(i int) error {
		status, body, err := tryChoose(addr, fmt.Sprint("user ", i), optOut)
		answers[i] = status
		switch answered.Add(1) {
		case writes / 4:
			close(reached[0])
		case writes * 3 / 4:
			close(reached[1])
		}
		switch {
		case err != nil:
			return err
		case status == http.StatusOK, status == http.StatusServiceUnavailable && strings.HasPrefix(body, `{"code":503,"errno":999,`):
			return nil
		}
		return fmt.Errorf("a write was answered %d %q", status, body)
	}, restart)

	var lost []int
	for i, status := range answers {
		if status != http.StatusOK {
			lost = append(lost, i)
			continue
		}
		holds(t, addr, fmt.Sprint("user ", i), optOut, "a write that was answered with 200")
	}
	t.Logf("%d of %d writes were answered with 503", len(lost), writes)
	if len(lost) == writes {
		t.Error("nothing was written")
	}
	// It is as before, for who writes and for who follows.
	uid := testcaddy.NewUID(t)
	testcaddy.Until(t, "the gate to follow again", func() bool {
		return caddy.Metric("feed_connects_total", "outcome", "connected") > 1
	})
	decision := func() string {
		return send(t, behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision()
	}
	if got := decision(); got != "collect" {
		t.Fatalf("an account without a choice: %s", got)
	}
	choose(t, addr, uid, optOut)
	testcaddy.Until(t, "an opt-out to act", func() bool { return decision() == "block" })
}

// Caddy starts without its database, says 503 and that the store is away, and
// recovers by itself. A gate goes on blocking who opted out.
func TestPostgresIsAway(t *testing.T) {
	t.Parallel()
	database, behind := testpostgres.Start(t), newContentServer(t)
	addr, site, second := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, profileServer("postgres "+database.DSN, "standalone")),
		testcaddy.Site(site, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(addr, "max_age 1s")), testcaddy.ProxyTo(behind.addr())))
	ready(t, addr)
	out, in := testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, addr, out, optOut)
	choose(t, addr, in, allow)
	decision := func(uid string) string {
		return send(t, behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(uid))).decision()
	}
	for uid, want := range map[string]string{out: "block", in: "collect"} {
		if got := decision(uid); got != want {
			t.Fatalf("at first: %s, want %s", got, want)
		}
	}

	database.Stop()
	away := func(addr string, server *testcaddy.Server) {
		t.Helper()
		reading := testcaddy.RelierToken(addr, in, "profile", testcaddy.TrustedRelier)
		refused(t, addr, "reading without a database", "GET", reading, 503, 999)
		refused(t, addr, "writing without a database", "POST", testcaddy.RelierToken(addr, in, "profile:write", testcaddy.TrustedRelier), 503, 999)
		for _, request := range []string{"DELETE /v1/account/" + in, "GET /v1/metrics_optout/daily", "GET /v1/changes", "GET /v1/profile", "GET /__heartbeat__"} {
			if status, _, body := testcaddy.AskFor(t, addr, request, operatorToken(addr), ""); status != http.StatusServiceUnavailable {
				t.Errorf("%s without a database: %d %q", request, status, body)
			}
		}
		if status, _, _ := testcaddy.AskFor(t, addr, "GET /__lbheartbeat__", "", ""); status != http.StatusOK {
			t.Errorf("/__lbheartbeat__ without a database: %d", status)
		}
		if server.ProfileServerMetric("store_up") != 0 || server.ProfileServerMetric("store_failures_total") == 0 {
			t.Error("the metrics do not say that the store is away")
		}
	}
	var waiting sync.WaitGroup
	waiting.Go(func() { away(addr, caddy) })
	other := testcaddy.Start(t, testcaddy.Site(second, profileServer("postgres "+database.DSN, "standalone")))
	waiting.Go(func() { away(second, other) })
	waiting.Wait()
	testcaddy.Until(t, "what allowed to be too old", func() bool { return decision(in) == "block" })
	if decision(out) != "block" || decision(testcaddy.NewUID(t)) != "block" {
		t.Error("something is collected that nobody knows to be allowed")
	}

	database.Restart()
	for at, server := range map[string]*testcaddy.Server{addr: caddy, second: other} {
		ready(t, at)
		holds(t, at, out, optOut, "the database is back")
		choose(t, at, in, optOut)
		choose(t, at, in, allow)
		if server.ProfileServerMetric("store_up") != 1 {
			t.Error("the metrics do not say that the store is back")
		}
		for _, words := range []string{"the preference store is in trouble", "the preference store answers"} {
			server.Logged(words)
		}
	}
	testcaddy.Until(t, "what is allowed to be known again", func() bool { return decision(in) == "collect" })
	if decision(out) != "block" {
		t.Error("an opt-out is lost")
	}
}
