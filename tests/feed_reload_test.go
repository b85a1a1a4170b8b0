package tests

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// With followers connected, a reload and a stop are prompt: streams never end
// by themselves, and Caddy waits for requests without end where no grace_period
// is set. Nothing that is chosen meanwhile is lost to those who follow.
func TestReloadWithFollowers(t *testing.T) {
	t.Parallel()
	behind := newContentServer(t)
	addr, site := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	store := filepath.Join(t.TempDir(), "profile.db")
	config := func(generation int) []string {
		return []string{
			testcaddy.Site(addr, fmt.Sprintf("header X-Generation %d", generation), profileServer("sqlite "+store)),
			testcaddy.Site(site, testcaddy.Gate("preset fxa", testcaddy.SessionJWT(), profileAt(addr, "max_age 10m")), testcaddy.ProxyTo(behind.addr())),
		}
	}
	caddy := testcaddy.StartWith(t, "grace_period 0", config(0)...) // which is as if there were none
	follows(t, caddy, addr)
	warm := testcaddy.NewUID(t)
	decision := func() string {
		return send(t, behind, site, "POST /metrics", "{}", testcaddy.Cookie(testcaddy.Session(warm))).decision()
	}
	if decision() != "collect" {
		t.Fatal("not collected")
	}

	// These follow, and come back when they are sent away, for what is next.
	const followers, reloads = 20, 3
	begin := followChanges(t, addr, "")
	before := begin.last().id
	begin.close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var following sync.WaitGroup
	heard := make([]testcaddy.Ledger[told], followers)
	for i := range heard {
		following.Go(func() {
			for cursor := before; ctx.Err() == nil; {
				// A connection may be one of the old server that nobody takes
				// any more, or come when it sends everybody away.
				status, err := readChanges(ctx, addr, cursor, func(e told) {
					if cursor = e.id; e.event != "" {
						heard[i].Add(e)
					}
				})
				if err == nil && status != http.StatusOK && status != http.StatusServiceUnavailable {
					t.Errorf("a follower who came back got %d", status)
				}
			}
		})
	}
	testcaddy.Until(t, "all to follow", func() bool { return caddy.ProfileServerMetric("followers") == followers+1 })

	// Somebody chooses all the time.
	var chosenBy []string
	choosing, enough := context.WithCancel(context.Background())
	defer enough()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; choosing.Err() == nil; i++ {
			uid := fmt.Sprint("user ", i)
			if status, _, err := tryChoose(addr, uid, optOut); err == nil && status == http.StatusOK {
				chosenBy = append(chosenBy, uid)
			}
		}
	}()
	for generation := 1; generation <= reloads; generation++ {
		if err := caddy.Reload(config(generation)...); err != nil {
			t.Fatal(err)
		}
	}
	enough()
	<-done
	choose(t, addr, warm, optOut)
	testcaddy.Until(t, "the gate to be told after the reloads", func() bool { return decision() == "block" })
	last := testcaddy.NewUID(t)
	choose(t, addr, last, optOut)
	for i := range heard {
		events := heard[i].Wait(t, "a follower to catch up", func(all []told) bool { return len(all) > 0 && all[len(all)-1].uid() == last })
		heardOf, cursor := map[string]bool{}, number(t, before)
		for _, e := range events {
			if id := number(t, e.id); id != cursor+1 {
				t.Errorf("follower %d was told %d after %d", i, id, cursor)
			}
			cursor = number(t, e.id)
			heardOf[e.uid()] = true
		}
		for _, uid := range chosenBy {
			if !heardOf[uid] {
				t.Errorf("follower %d was not told of a choice", i)
			}
		}
	}
	stop()
	following.Wait()

	// A stop does not wait for them either.
	testcaddy.Until(t, "the gate alone to follow", func() bool { return caddy.ProfileServerMetric("followers") == 1 })
	f := followChanges(t, addr, "")
	caddy.Stop()
	<-f.ended
}
