package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/internal/testpostgres"
)

const (
	// clients choose at the same time, each for so many people, who choose so often.
	clients, peopleEach, choicesEach = 20, 25, 4

	// pace is how many requests a client, or one who watches a gate, makes in a
	// second at most.
	pace = 6

	// afternoonAge is the max_age of the gates.
	afternoonAge = 3 * time.Second
)

// TestUnhappyAfternoon has 500 people choose four times each, through two profile
// servers over one PostgreSQL behind PgBouncer, while what can go wrong does: the
// disk is full, the pooler is away, a key is withdrawn, a clock is an hour ahead, the
// primary dies and its standby takes over. Of three gates, the last asks the server
// whose clock is wrong.
//
// Whatever was acknowledged is there afterwards, and counted once for its day. At no
// time does a gate measure somebody who opted out longer than max_age ago, and once
// all is well again an opt-out acts within a second. Every alert fires that is about
// one of these troubles.
func TestUnhappyAfternoon(t *testing.T) {
	t.Parallel()
	a := newAfternoon(t)
	nobodyWrites := each("ProfileServerStoreNotWritable", "server", a.servers)
	nothingIsKnown := slices.Concat(nobodyWrites, each("MetricsGatePreferencesUnknown", "gate", a.gates))
	wellBehindAPooler := only(each("ProfileServerStoreNotNotified", "server", a.servers))

	a.fires("all is well", func() { a.chosen(100) }, wellBehindAPooler)

	a.fires("the disk is full", func() {
		a.primary.FillDisk("metrics_gate.preference")
		a.answered(http.StatusServiceUnavailable, 20)
	}, nobodyWrites...)
	a.primary.MakeRoom()
	a.chosen(500)

	a.fires("the pooler is away", func() {
		a.pooler.Stop()
		a.storeIsAway()
	}, nothingIsKnown...)
	a.pooler.Restart(a.primary.DSN)
	a.chosen(700)

	a.fires("a key is withdrawn", a.withdrawKey, each("ProfileServerEventsRefused", "server", a.servers)...)
	a.chosen(900)

	a.fires("a gate hears nothing", func() {
		heard, taken := a.gates[astray].Metric("feed_age_seconds"), len(a.acknowledged.All())
		a.clock.Forward(time.Hour)
		a.fires("the primary is dead", func() {
			a.primary.Kill()
			a.storeIsAway()
		}, nothingIsKnown...)
		a.standby.Promote()
		a.pooler.Restart(a.standby.DSN)
		a.followed(0, 1)
		a.fires("a clock is ahead", a.refusesItsGate, "MetricsGatePreferencesUnknown at gate 3",
			"no MetricsGatePreferencesUnknown at gate 1", "no MetricsGatePreferencesUnknown at gate 2")
		a.chosen(clients * peopleEach * choicesEach)
		if !slices.Contains(a.acknowledged.All()[taken:], ahead) {
			t.Error("a server whose clock is ahead took no choice")
		}
		testcaddy.Until(t, "nothing to be heard for long", func() bool { return a.gates[astray].Metric("feed_age_seconds") > heard+feedLost })
	}, "MetricsGateFeedBehind at gate 3")
	a.clock.Forward(-time.Hour)
	healed := time.Now()
	a.followed(0, 1, astray)
	t.Logf("the gate that was refused follows again after %v", time.Since(healed).Round(time.Second))

	a.leave()
	a.isCounted()
	a.isHeld()
	a.actsAtOnce()
	a.actsAtOnce()
	a.fires("all is well again", a.actsAtOnce, wellBehindAPooler)
}

// Of the profile servers, the second has a clock that is wrong, and of the gates the
// third asks that one.
const ahead, astray = 1, 2

// An afternoon is all who take part in one.
type afternoon struct {
	t                *testing.T
	began            time.Time
	primary, standby *testpostgres.Cluster
	pooler           *testpostgres.Bouncer
	keys             *rotatingKeys
	clock            *testcaddy.Clock // of the second server
	servers, gates   []*testcaddy.Server
	addrs, sites     []string // of the servers, and of the gates

	people       []*chooser
	acknowledged testcaddy.Ledger[int] // choices, each as the server that took it
	answers      testcaddy.Ledger[int] // the statuses that were no success
	choosing     sync.WaitGroup
	watching     sync.WaitGroup
	endWatching  chan struct{}
	seen         [3]atomic.Int64 // beacons of people who opted out, by gate
}

func newAfternoon(t *testing.T) *afternoon {
	a := &afternoon{t: t, began: time.Now(), keys: newRotatingKeys(t), primary: testpostgres.Start(t), endWatching: make(chan struct{})}
	// Who chose long ago fills more than a file of PostgreSQL's log. See FillDisk.
	var old strings.Builder
	old.WriteString("uid,preference,changed,source\n")
	for i := range 60_000 {
		fmt.Fprintf(&old, "%0250d,false,2024-01-01T00:00:00Z,user\n", i)
	}
	importRows(t, a.primary.DSN, old.String())
	a.standby = a.primary.Standby()
	a.primary.WaitForStandbys()
	a.pooler = testpostgres.Pooler(t, a.primary.DSN, "transaction")

	a.clock = testcaddy.NewClock(t)
	for _, start := range []func(...string) *testcaddy.Server{func(sites ...string) *testcaddy.Server { return testcaddy.Start(t, sites...) }, a.clock.Start} {
		addr := testcaddy.FreeAddr(t)
		a.servers = append(a.servers, start(testcaddy.Site(addr, profileServer("postgres "+a.pooler.DSN, a.keys.blocks()...))))
		a.addrs = append(a.addrs, addr)
	}
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	t.Cleanup(behind.Close)
	asks := []string{a.addrs[0], a.addrs[0], a.addrs[ahead]}
	for _, addr := range asks {
		site := testcaddy.FreeAddr(t)
		gate := testcaddy.Start(t, testcaddy.Site(site,
			testcaddy.Gate("route POST /beacon", testcaddy.SessionJWT(), profileAt(addr, "max_age "+afternoonAge.String())),
			testcaddy.ProxyTo(behind.Listener.Addr().String())))
		a.gates, a.sites = append(a.gates, gate), append(a.sites, site)
	}
	for i, addr := range asks {
		ready(t, addr)
		follows(t, a.gates[i], addr)
	}
	for _, server := range a.servers {
		testcaddy.Until(t, "a store to notice that it is not notified", func() bool { return server.ProfileServerMetric("store_notified") == 0 })
	}

	for client := range clients {
		var theirs []*chooser
		for i := range peopleEach {
			theirs = append(theirs, &chooser{uid: testcaddy.NewUID(t), wishes: wishes[i%len(wishes)], byEvents: i%len(wishes) < wishesByEvents})
		}
		a.people = append(a.people, theirs...)
		a.choosing.Go(func() { a.choose(client, theirs) })
	}
	for gate := range a.gates {
		a.watching.Go(func() { a.watch(gate) })
	}
	t.Cleanup(a.leave)
	return a
}

// wishes are what people choose, in turn. The first of them tell it somewhere else,
// from where it comes as security events, which know no null.
var wishes = [...][choicesEach]preference{
	{optOut, allow, optOut, optOut},
	{allow, optOut, allow, allow},
	{optOut, allow, optOut, unset},
	{optOut, optOut, optOut, optOut},
	{allow, allow, unset, allow},
	{allow, optOut, unset, optOut},
	{unset, allow, optOut, allow},
}

const wishesByEvents = 2

// A chooser is a person, who chooses and waits for an answer each time.
type chooser struct {
	uid      string
	wishes   [choicesEach]preference
	byEvents bool

	mu   sync.Mutex
	said said
}

// said is what somebody has said so far.
type said struct {
	begun, acknowledged int // choices
	held                preference
	since               time.Time // it was acknowledged
}

func (p *chooser) change(change func(*said)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.said)
}

func (p *chooser) now() said {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said
}

// choose has people choose. Whatever is not answered well is sent again, to the other
// server.
func (a *afternoon) choose(client int, people []*chooser) {
	limit := rate.NewLimiter(pace, 1)
	server := client % len(a.addrs)
	for turn := range choicesEach {
		for _, p := range people {
			wish := p.wishes[turn]
			p.change(func(s *said) { s.begun++ })
			send := a.request(p, wish)
			for {
				if limit.Wait(a.t.Context()) != nil {
					return // the test has failed
				}
				taken, err := send(server)
				if err != nil {
					a.t.Error(err)
					return
				}
				if taken {
					break
				}
				server = (server + 1) % len(a.addrs)
			}
			p.change(func(s *said) {
				if s.acknowledged++; s.held != wish {
					s.held, s.since = wish, time.Now()
				}
			})
			a.acknowledged.Add(server)
		}
	}
}

// request returns what sends a choice to a server, any number of times. The time of
// an event is when it was made, however often it is sent.
func (a *afternoon) request(p *chooser, wish preference) func(server int) (taken bool, err error) {
	request, body := "POST /v1/metrics_optout", fmt.Sprintf(`{"metrics_optout":%s}`, wish)
	claims := relierClaims(p.uid, "profile:metrics_optout:write")
	if p.byEvents {
		name := map[preference]string{optOut: "metrics-opt-out", allow: "metrics-opt-in"}[wish]
		request, body = "POST /v1/events", ""
		claims = event(a.t, p.uid, name, map[string]any{}, map[string]any{"iat": time.Now().UnixMilli()})
	}
	return func(server int) (bool, error) {
		key := a.keys.current.Load()
		status, _, answer, err := testcaddy.TryAskFor(a.addrs[server], request, key.sign(claims), body)
		if err != nil || status == http.StatusOK {
			return err == nil, err
		}
		a.answers.Add(status)
		unknownKey := status == http.StatusUnauthorized || status == http.StatusBadRequest && strings.Contains(answer, "invalid_key")
		if status == http.StatusServiceUnavailable || unknownKey && (a.keys.rotating.Load() || key != a.keys.current.Load()) {
			return false, nil
		}
		return false, fmt.Errorf("a choice at server %d was answered %d %s", server, status, answer)
	}
}

// watch sends beacons of those who chose longer than max_age ago, and nothing else
// since: none of somebody who opted out is collected.
func (a *afternoon) watch(gate int) {
	limit := rate.NewLimiter(2*pace, 1)
	for limit.Wait(a.t.Context()) == nil {
		select {
		case <-a.endWatching:
			return
		default:
		}
		p := a.people[mathrand.N(len(a.people))]
		before := p.now()
		asked := time.Now()
		collected, err := a.collects(gate, p.uid)
		if err != nil {
			a.t.Error(err)
			return
		}
		if before.begun != before.acknowledged || before.held != optOut || asked.Sub(before.since) < afternoonAge || p.now() != before {
			continue
		}
		if a.seen[gate].Add(1); collected {
			a.t.Errorf("gate %d measures somebody who opted out %v before", gate+1, asked.Sub(before.since))
		}
	}
}

// collects says whether a beacon of an account reaches the application.
func (a *afternoon) collects(gate int, uid string) (bool, error) {
	status, _, body, err := testcaddy.TryAskFor(a.sites[gate], "POST /beacon", "", "{}", testcaddy.Cookie(testcaddy.Session(uid)))
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK, status == http.StatusNoContent:
		return status == http.StatusOK, nil
	}
	return false, fmt.Errorf("a beacon at gate %d was answered %d %s", gate+1, status, body)
}

// chosen waits until so many choices have been acknowledged.
func (a *afternoon) chosen(n int) {
	a.t.Helper()
	a.acknowledged.Wait(a.t, fmt.Sprint(n, " choices to be acknowledged"), func(all []int) bool { return len(all) >= n })
}

// answered waits until so many more requests have been answered with a status.
func (a *afternoon) answered(status, n int) {
	a.t.Helper()
	n += len(a.answers.Where(func(s int) bool { return s == status }))
	a.answers.Wait(a.t, fmt.Sprint("answers with ", status), func(all []int) bool {
		return len(slices.DeleteFunc(all, func(s int) bool { return s != status })) >= n
	})
}

// storeIsAway waits until the profile servers say so, and every gate has asked in vain.
func (a *afternoon) storeIsAway() {
	a.t.Helper()
	failed := func(gate *testcaddy.Server) float64 {
		return gate.Metric("profile_lookups_total") - gate.Metric("profile_lookups_total", "outcome", "ok")
	}
	for _, gate := range a.gates {
		before := failed(gate)
		testcaddy.Until(a.t, "a gate to ask in vain", func() bool { return failed(gate) > before })
	}
	for _, server := range a.servers {
		testcaddy.Until(a.t, "the store to be away", func() bool { return server.ProfileServerMetric("store_up") == 0 })
	}
}

// withdrawKey has another key take the place of the one that signs. Whoever goes on
// with it is refused by both servers.
func (a *afternoon) withdrawKey() {
	a.t.Helper()
	withdrawn := a.keys.current.Load()
	read := func(addr string, key *signingKey) int {
		status, _, _ := testcaddy.AskFor(a.t, addr, "GET /v1/metrics_optout", key.sign(relierClaims("u", "profile:metrics_optout")), "")
		return status
	}
	a.keys.rotating.Store(true)
	a.keys.rotate(a.t)
	for _, addr := range a.addrs {
		now := a.keys.current.Load()
		testcaddy.Until(a.t, "the new key to count", func() bool {
			status, _, _, err := deliveries["FxA"].deliver(addr, now.sign(event(a.t, "u", "password-change", map[string]any{})))
			return err == nil && status == http.StatusOK && read(addr, now) == http.StatusOK
		})
		if status := read(addr, withdrawn); status != http.StatusUnauthorized {
			a.t.Errorf("a token that a withdrawn key signed is answered %d", status)
		}
		for range 10 * beacons {
			forged := withdrawn.sign(event(a.t, "u", "metrics-opt-in", map[string]any{}))
			if status, _, body, err := deliveries["FxA"].deliver(addr, forged); err != nil || status != http.StatusBadRequest {
				a.t.Errorf("an event that a withdrawn key signed: %d %s, %v", status, body, err)
			}
		}
	}
	a.keys.rotating.Store(false)
}

// refusesItsGate shows that a server whose clock is an hour ahead refuses what lives
// shorter than that, as it must, and so what its gate asks with.
func (a *afternoon) refusesItsGate() {
	a.t.Helper()
	minted := testcaddy.Sign(jwt.SigningMethodES256, testcaddy.ECKey, nil, testcaddy.Claims("u", map[string]any{
		"iss": "metrics-gate", "aud": testcaddy.ProfileAudience, "client_id": "metrics-gate", "scope": "profile:metrics_optout",
		"exp": time.Now().Add(time.Minute).Unix(),
	}))
	for server, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		if status, _, body := testcaddy.AskFor(a.t, a.addrs[server], "GET /v1/metrics_optout", minted, ""); status != want {
			a.t.Errorf("server %d answers a token of a minute with %d %s", server, status, body)
		}
	}
	for i, outcome := range []string{"ok", "ok", "unauthorized"} {
		asked := func() float64 { return a.gates[i].Metric("profile_lookups_total", "outcome", outcome) }
		before := asked()
		testcaddy.Until(a.t, fmt.Sprintf("lookups of gate %d to be %s", i+1, outcome), func() bool { return asked() > before+beacons })
	}
	if a.gates[astray].Metric("feed_connects_total", "outcome", "refused") == 0 || a.servers[ahead].ProfileServerMetric("requests_total", "code", "401") == 0 {
		a.t.Error("a gate is refused, and nobody counts it")
	}
}

// followed waits until gates hear of what is chosen.
func (a *afternoon) followed(gates ...int) {
	a.t.Helper()
	limit := rate.NewLimiter(pace, 1)
	for _, gate := range gates {
		told := func() float64 { return a.gates[gate].Metric("feed_events_total", "event", "change") }
		before := told()
		testcaddy.Until(a.t, fmt.Sprint("gate ", gate+1, " to follow"), func() bool {
			_ = limit.Wait(a.t.Context())
			_, _, _ = tryChoose(a.addrs[0], testcaddy.NewUID(a.t), allow) // in vain as long as the server is not itself
			return told() > before
		})
	}
}

// leave ends all that goes on by itself.
func (a *afternoon) leave() {
	a.choosing.Wait()
	select {
	case <-a.endWatching:
	default:
		close(a.endWatching)
	}
	a.watching.Wait()
}

// isCounted holds the counts of both servers against the people who opted out. Whoever
// did so twice counts once a day, so the afternoon must not have gone past midnight.
func (a *afternoon) isCounted() {
	a.t.Helper()
	var want, most int64
	for _, p := range a.people {
		if slices.Contains(p.wishes[:], optOut) {
			want++
			most++
		}
	}
	if day := 24 * time.Hour; !time.Now().Truncate(day).Equal(a.began.Truncate(day)) {
		most *= 2
	}
	for _, addr := range a.addrs {
		status, _, body := testcaddy.AskFor(a.t, addr, "GET /v1/metrics_optout/daily?from="+a.began.UTC().Format(time.DateOnly), operatorToken(addr), "")
		var days []struct{ Users int64 }
		err := json.Unmarshal([]byte(body), &days)
		users := int64(0)
		for _, day := range days {
			users += day.Users
		}
		if err != nil || status != http.StatusOK || users < want || users > most {
			a.t.Errorf("%d people opted out, and %d are counted: %d %s, %v", want, users, status, body, err)
		}
	}
}

// isHeld asks servers and gates for everybody. No choice is recorded as one that is
// still to come.
func (a *afternoon) isHeld() {
	a.t.Helper()
	statuses := map[int]int{}
	for _, status := range a.answers.All() {
		statuses[status]++
	}
	a.t.Logf("%d choices were acknowledged, %d of them by the server with the clock; answered otherwise: %v",
		len(a.acknowledged.All()), len(a.acknowledged.Where(func(server int) bool { return server == ahead })), statuses)
	for gate := range a.gates {
		n := a.seen[gate].Load()
		if a.t.Logf("gate %d got %d beacons of people who had opted out", gate+1, n); n < 20 {
			a.t.Errorf("gate %d was hardly watched: %d", gate+1, n)
		}
	}
	const width = 8
	flood(a.t, len(a.people), width, func(i int) error {
		p := a.people[i]
		held := p.now().held
		for server, addr := range a.addrs {
			token := testcaddy.RelierToken(addr, p.uid, "profile:metrics_optout", testcaddy.TrustedRelier)
			status, header, body, err := testcaddy.TryAskFor(addr, "GET /v1/metrics_optout", token, "")
			if err != nil || status != http.StatusOK || body != fmt.Sprintf(`{"metrics_optout":%s}`, held) {
				return fmt.Errorf("server %d says %d %s of who chose %s, %w", server, status, body, held, err)
			}
			if changed, err := time.Parse(time.RFC3339, header.Get("Metrics-Optout-Changed")); err != nil || changed.After(time.Now()) {
				return fmt.Errorf("server %d says that a choice was made at %v, %w", server, changed, err)
			}
		}
		for gate := range a.gates {
			if collected, err := a.collects(gate, p.uid); err != nil || collected != (held != optOut) {
				return fmt.Errorf("gate %d, of who chose %s: collected %t, %w", gate+1, held, collected, err)
			}
		}
		return nil
	}, nil)
}

// actsAtOnce has people opt out until the opt-out of one acts within a second at every
// gate. By itself none would ask again as soon: each has just learnt that it is
// allowed. On a machine that is busy, one may be late.
func (a *afternoon) actsAtOnce() {
	a.t.Helper()
	testcaddy.Until(a.t, "an opt-out to act within a second", func() bool {
		uid := testcaddy.NewUID(a.t)
		choose(a.t, a.addrs[0], uid, allow)
		late := func(want bool) (slowest time.Duration) {
			began := time.Now()
			for gate := range a.gates {
				testcaddy.Until(a.t, fmt.Sprintf("gate %d to say %t", gate+1, want), func() bool {
					collected, err := a.collects(gate, uid)
					return err == nil && collected == want
				})
			}
			return time.Since(began)
		}
		late(true)
		choose(a.t, a.addrs[1], uid, optOut)
		took := late(false)
		a.t.Logf("an opt-out acted everywhere after %v", took.Round(time.Millisecond))
		return took <= time.Second
	})
}

// scrape is what Prometheus sees of servers and gates.
func (a *afternoon) scrape() (all []testcaddy.Sample) {
	for kind, targets := range map[string][]*testcaddy.Server{"server": a.servers, "gate": a.gates} {
		for i, target := range targets {
			for _, sample := range target.Samples() {
				sample.Labels["instance"] = fmt.Sprint(kind, " ", i+1)
				all = append(all, sample)
			}
		}
	}
	return all
}

// each is an alert at all targets of a kind.
func each(alert, kind string, targets []*testcaddy.Server) (all []string) {
	for i := range targets {
		all = append(all, fmt.Sprintf("%s at %s %d", alert, kind, i+1))
	}
	return all
}

// only stands before alerts besides which none may fire.
func only(alerts []string) string { return "only " + strings.Join(alerts, ", ") }

// fires says which alerts fire, and which do not ("no MetricsGateBypassed at gate 1"),
// if it stays as it is between the two scrapes around what happens.
func (a *afternoon) fires(when string, happens func(), alerts ...string) {
	a.t.Helper()
	a.t.Logf("%v: %s", time.Since(a.began).Round(time.Second), when)
	s := scrapes{before: a.scrape()}
	happens()
	s.after = a.scrape()
	firing := func(alerts []string) []any {
		all := []any{}
		for _, alert := range alerts {
			name, instance, _ := strings.Cut(alert, " at ")
			all = append(all, map[string]any{"labels": fmt.Sprintf("{alertname=%q,instance=%q}", name, instance), "value": 1})
		}
		return all
	}
	const at = "1h"
	var tests []any
	for _, alert := range alerts {
		selector, expected := "", firing(nil)
		if every, alone := strings.CutPrefix(alert, "only "); alone {
			expected = firing(strings.Split(every, ", "))
		} else {
			silent := strings.HasPrefix(alert, "no ")
			alert = strings.TrimPrefix(alert, "no ")
			name, instance, _ := strings.Cut(alert, " at ")
			selector = fmt.Sprintf(",alertname=%q,instance=%q", name, instance)
			if !silent {
				expected = firing([]string{alert})
			}
		}
		tests = append(tests, map[string]any{
			"expr": `group by (alertname, instance) (ALERTS{alertstate="firing"` + selector + `})`, "eval_time": at, "exp_samples": expected,
		})
	}
	promtool(a.t, map[string]any{"name": when, "interval": "1m", "input_series": s.series(false, 2*60), "promql_expr_test": tests})
}

// relierIssuer signs the tokens of reliers, and the events.
const relierIssuer = "https://oauth.test"

// relierClaims are those of a token as Firefox Accounts makes it, which lives for a day.
func relierClaims(uid, scope string) jwt.MapClaims {
	return testcaddy.Claims(uid, map[string]any{
		"iss": relierIssuer, "aud": testcaddy.ProfileAudience, "client_id": testcaddy.TrustedRelier, "scope": scope,
		"exp": time.Now().Add(24 * time.Hour).Unix(),
	})
}

// rotatingKeys are an issuer's key set of one key, which another one replaces.
type rotatingKeys struct {
	*httptest.Server
	current  atomic.Pointer[signingKey]
	made     int
	rotating atomic.Bool // not everybody knows the current key yet
}

// A signingKey is one that tokens name.
type signingKey struct {
	name string
	*ecdsa.PrivateKey
}

func (k *signingKey) sign(claims jwt.MapClaims) string {
	return testcaddy.Sign(jwt.SigningMethodES256, k.PrivateKey, map[string]any{"kid": k.name}, maps.Clone(claims))
}

func newRotatingKeys(t testing.TB) *rotatingKeys {
	k := &rotatingKeys{}
	k.rotate(t)
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		key := k.current.Load()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]any{{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.name,
			"x": coordinate(key.X.FillBytes), "y": coordinate(key.Y.FillBytes),
		}}})
	}))
	t.Cleanup(k.Close)
	return k
}

// rotate makes another key the only one.
func (k *rotatingKeys) rotate(t testing.TB) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k.made++
	k.current.Store(&signingKey{strconv.Itoa(k.made), key})
}

// blocks are those of a profile_server that takes the issuer's tokens and events.
func (k *rotatingKeys) blocks() []string {
	return []string{
		fmt.Sprintf("tokens jwt {\njwks %s\nissuer %s\naudience %s\n}", k.URL, relierIssuer, testcaddy.ProfileAudience),
		fmt.Sprintf("events {\njwks %s\nissuer %s\naudience %s\n}", k.URL, eventIssuer, eventAudience),
	}
}
