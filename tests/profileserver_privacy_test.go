package tests

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

// The profile server keeps of people what it is there to keep, in its store:
// not in a log at its most talkative, nor in the access log, a counter, an
// answer that refuses, or what the admin API shows. Nor are secrets told.
func TestProfileServerKeepsToItself(t *testing.T) {
	t.Parallel()
	oauth, existing, agent := newOAuthServer(t), newExistingProfileServer(t), newStatsdAgent(t)
	database := testpostgres.Start(t)
	const password = "p4ssw0rd-of-the-database"
	dsn := strings.Replace(database.DSN, "postgres:///", "postgres://postgres:"+password+"@/", 1)
	addrs := []string{testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)}
	accessLog := filepath.Join(t.TempDir(), "access.log")
	secrets := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(secrets, []byte(dsn), 0o600); err != nil {
		t.Fatal(err)
	}
	more := []string{oauth.eventsBlock(), "tokens " + oauth.rfcTokens(anyClient), "statsd " + agent.LocalAddr().String()}
	var sites []string
	for i, store := range []string{"postgres {file." + secrets + "}", "sqlite " + filepath.Join(t.TempDir(), "profile.db")} {
		sites = append(sites, testcaddy.Site(addrs[i], "log {\noutput file "+accessLog+"\n}", profileServer(store, more...), testcaddy.ProxyTo(existing.Listener.Addr().String())))
	}
	existing.answers(http.StatusUnauthorized, jsonKind, `{"code":401,"errno":100}`)
	caddy := testcaddy.StartWith(t, "debug", sites...)

	needles := map[string]string{"the password": password}
	var refusals strings.Builder
	ask := func(addr, request, token, body string, headers ...string) {
		t.Helper()
		status, header, said := testcaddy.AskFor(t, addr, request, token, body, headers...)
		if status >= 400 {
			_ = header.Write(&refusals)
			refusals.WriteString(said + "\n")
		}
	}
	everything := func(when string) {
		for i, addr := range addrs {
			uid, by := testcaddy.NewUID(t), when+", "+[]string{"PostgreSQL", "SQLite"}[i]
			reading := testcaddy.RelierToken(addr, uid, "profile", testcaddy.TrustedRelier)
			writing := testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier)
			opaque, forged := oauth.issue(t, uid, testcaddy.TrustedRelier, "profile:write"), testcaddy.NewUID(t)+testcaddy.NewUID(t)
			out := byRSA(event(t, uid, "metrics-opt-out", map[string]any{}, map[string]any{"jti": "jt1-" + uid}))
			theirs := testcaddy.Sign(jwt.SigningMethodHS256, []byte(testcaddy.SessionSecret), nil, event(t, uid, "metrics-opt-out", map[string]any{}))
			expired := testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, nil, testcaddy.Claims(uid, testcaddy.Expired))
			for what, needle := range map[string]string{
				"uid": uid, "reading": strings.Split(reading, ".")[1], "writing": strings.Split(writing, ".")[2], "opaque": opaque, "forged": forged,
				"event": strings.Split(out, ".")[2], "event's claims": strings.Split(out, ".")[1], "jti": "jt1-", "forged event": strings.Split(theirs, ".")[2],
				"expired": strings.Split(expired, ".")[2], "payload": "p4yl04d",
			} {
				needles[what+", "+by] = needle
			}
			for _, request := range []string{"GET /v1/metrics_optout", "HEAD /v1/metrics_optout", "GET /v1/profile", "GET /v1/changes", "GET /v1/metrics_optout/daily", "PUT /v1/metrics_optout", "GET /v1/metrics_optout/elsewhere"} {
				for _, token := range []string{reading, opaque, forged, expired, "", "g4rb4ge." + uid} {
					ask(addr, request, token, "")
				}
			}
			for _, token := range []string{writing, opaque, forged, reading, expired} {
				for _, body := range []string{`{"metrics_optout":true}`, `{"metrics_optout":"p4yl04d"}`, `{"p4yl04d":true}`, `p4yl04d`, `{"p4yl04d`} {
					ask(addr, "POST /v1/metrics_optout", token, body)
				}
			}
			for _, token := range []string{out, out, theirs, forged, writing} {
				ask(addr, "POST /v1/events", token, "")
				ask(addr, "POST /v1/events", "", token, "Content-Type: application/secevent+jwt")
			}
			ask(addr, "GET /v1/changes", operatorToken(addr), "", "Last-Event-ID: latest")
			for _, token := range []string{operatorToken(addr), reading, forged} {
				ask(addr, "DELETE /v1/account/"+uid, token, "")
			}
			if when == "with a database" {
				ctx, leave := context.WithCancel(context.Background())
				listened := make(chan struct{})
				heard := testcaddy.Ledger[told]{}
				go func() {
					defer close(listened)
					_, _ = readChanges(ctx, addr, "0", heard.Add)
				}()
				choose(t, addr, uid, optOut)
				heard.Wait(t, "the change to be told", func(all []told) bool { return len(all) > 0 && all[len(all)-1].uid() == uid })
				leave()
				<-listened
			}
		}
	}
	ready(t, addrs[0])
	for _, addr := range addrs {
		keysFetched(t, addr)
	}
	everything("with a database")
	oauth.down.Store(true)
	everything("without the OAuth server")
	oauth.down.Store(false)
	database.Stop()
	everything("without a database")
	metrics, config := caddy.AdminGet("/metrics"), caddy.AdminGet("/config/")
	if status, _, _ := testcaddy.AskFor(t, addrs[1], "POST /v1/metrics_optout", "", ""); status != http.StatusUnauthorized {
		t.Errorf("no token: %d", status)
	}
	caddy.Stop()
	var sent strings.Builder
	for _, packet := range agent.packets.All() {
		sent.WriteString(packet)
	}
	access := string(testcaddy.Must(os.ReadFile(accessLog)))
	if !strings.Contains(access, "/v1/profile") {
		t.Error("the access log lacks what was passed on")
	}
	needles["own addresses"], needles["accounts' addresses"] = `"uri":"/v1/metrics_optout`, `"uri":"/v1/account/`
	for place, content := range map[string]string{
		"the access log": access, "Caddy's log": strings.Join(caddy.Log.All(), "\n"), "the metrics": metrics, "the admin API's config": config,
		"what the agent is sent": sent.String(), "the answers that refuse": refusals.String(),
	} {
		for what, needle := range needles {
			if i := strings.Index(content, needle); i >= 0 {
				t.Errorf("%s has the %s: …%s…", place, what, content[max(0, i-300):min(len(content), i+100)])
			}
		}
	}
}
