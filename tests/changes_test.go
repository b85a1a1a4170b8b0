package tests

import (
	"encoding/json"
	"net/http"
	"regexp"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// The feed tells every change and deletion once, in order, to who may follow;
// one that repeats what is held is none. Who comes back is told the latest of
// each account that changed since.
func TestChangeFeed(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, configured, _ string) {
		addr := testcaddy.FreeAddr(t)
		server := testcaddy.Site(addr, profileServer(configured))
		caddy := testcaddy.Start(t, server)
		ready(t, addr)
		f := followChanges(t, addr, "")
		start := f.All()[0]
		if start.event != "" || start.data != "" {
			t.Errorf("the feed begins with %+v", start)
		}
		ann, bob := testcaddy.NewUID(t), testcaddy.NewUID(t)
		choose(t, addr, ann, optOut)
		choose(t, addr, ann, optOut)
		choose(t, addr, bob, optOut)
		choose(t, addr, ann, allow)
		forgetAccount(t, addr, bob)
		forgetAccount(t, addr, bob)
		choose(t, addr, ann, unset)
		wants := []struct{ event, data string }{
			{"change", `{"uid":"` + ann + `","metrics_optout":true,"source":"user","changed":"T"}`},
			{"change", `{"uid":"` + bob + `","metrics_optout":true,"source":"user","changed":"T"}`},
			{"change", `{"uid":"` + ann + `","metrics_optout":false,"source":"user","changed":"T"}`},
			{"delete", `{"uid":"` + bob + `"}`},
			{"change", `{"uid":"` + ann + `","metrics_optout":null,"source":"user","changed":"T"}`},
		}
		time := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
		all := f.Wait(t, "the changes", func(all []told) bool { return len(all) > len(wants) })
		for i, want := range wants {
			got := all[i+1]
			if got.event != want.event || time.ReplaceAllString(got.data, "T") != want.data || number(t, got.id) != number(t, start.id)+int64(i)+1 {
				t.Errorf("told %+v, want %s %s", got, want.event, want.data)
			}
		}
		f.close()

		// comesBack is what somebody is told who has seen this much, until it
		// is told of nobody else any more.
		comesBack := func(after string) (heard []told) {
			t.Helper()
			f := followChanges(t, addr, after)
			defer f.close()
			end := testcaddy.NewUID(t)
			choose(t, addr, end, optOut)
			heard = f.Wait(t, "the end", func(all []told) bool { return all[len(all)-1].uid() == end })
			return heard[:len(heard)-1]
		}
		latest := func(heard []told) (last told, n int) {
			for _, e := range heard {
				if e.uid() == ann {
					last, n = e, n+1
				}
			}
			return last, n
		}
		nothing := comesBack(all[5].id)
		if _, n := latest(nothing); n != 0 {
			t.Errorf("who has heard everything is told %+v", nothing)
		}
		for _, e := range nothing {
			if e.event == "reset" {
				t.Error("who has heard everything is to forget it")
			}
		}
		if e, n := latest(comesBack(all[2].id)); n == 0 || e.id != all[5].id || e.data != all[5].data {
			t.Errorf("who has missed some is told %+v last, want %+v", e, all[5])
		}
		if heard := comesBack("999999999"); heard[0].event != "reset" {
			t.Errorf("who has heard what there never was is told %+v", heard)
		}
		// Also after a restart, when all that is known is in the store.
		caddy.Stop()
		testcaddy.Start(t, server)
		ready(t, addr)
		if e, n := latest(comesBack(start.id)); n != 1 || e.id != all[5].id || e.data != all[5].data {
			t.Errorf("after a restart who has missed some is told %d times, %+v last, want %+v", n, e, all[5])
		}

		for _, c := range []struct {
			name, client, uid, scope, after string
			status, errno                   int
		}{
			{"a relier, with the widest scope", testcaddy.TrustedRelier, "ann", "profile:write", "", 403, 999},
			{"an operator, for something else", operator, "ann", "profile:email", "", 403, 999},
			{"the gate's scope, of who is not trusted", testcaddy.UntrustedOther, testcaddy.UntrustedOther, "metrics_optout:changes", "", 403, 999},
			{"the gate's scope, of a user", testcaddy.TrustedRelier, "ann", "profile:write metrics_optout:changes", "", 403, 999},
			{"an operator who has heard nonsense", operator, "ann", "profile", "latest", 400, 101},
			{"a gate who has heard nonsense", "metrics-gate", "metrics-gate", "metrics_optout:changes", "-1", 400, 101},
		} {
			status, _, body := testcaddy.AskFor(t, addr, "GET /v1/changes", testcaddy.RelierToken(addr, c.uid, c.scope, c.client), "", "Last-Event-ID: "+c.after)
			var said struct{ Code, Errno int }
			_ = json.Unmarshal([]byte(body), &said)
			if status != c.status || said.Code != c.status || said.Errno != c.errno {
				t.Errorf("%s: %d %s, want errno %d", c.name, status, body, c.errno)
			}
		}
		status, header, _ := testcaddy.AskFor(t, addr, "HEAD /v1/changes", testcaddy.RelierToken(addr, "metrics-gate", "metrics_optout:changes", "metrics-gate"), "")
		if status != http.StatusOK || header.Get("Content-Type") != "text/event-stream" || header.Get("Cache-Control") == "" {
			t.Errorf("a gate: %d, %v", status, header)
		}
	})
}
