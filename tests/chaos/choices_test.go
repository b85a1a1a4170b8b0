package chaos

import (
	"fmt"
	"html"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// way is one by which people choose.
type way struct {
	name string
	save func(*chaos, *account, choice) (acknowledged bool)
}

var ways = []way{
	{"profile server 0", func(c *chaos, a *account, wanted choice) bool { return c.post(c.fleet.servers[0], a, wanted) }},
	{"profile server 1", func(c *chaos, a *account, wanted choice) bool { return c.post(c.fleet.servers[1], a, wanted) }},
	{"preference page 0", func(c *chaos, a *account, wanted choice) bool { return c.submit(c.probes[0], a, wanted) }},
	{"preference page 1", func(c *chaos, a *account, wanted choice) bool { return c.submit(c.probes[1], a, wanted) }},
	{"event", func(c *chaos, a *account, _ choice) bool { return c.tell(a, 0) }},
	{"event of a clock that is ahead", func(c *chaos, a *account, _ choice) bool { return c.tell(a, time.Hour) }},
}

// choosers is how many people choose at a time.
const choosers = 2

// choose has accounts that turn choose anew, each again until it is
// acknowledged, by whichever way.
func (c *chaos) choose(rng *rand.Rand, chooser int, stop <-chan struct{}) {
	pace := time.NewTicker(40 * time.Millisecond)
	defer pace.Stop()
	for {
		a := c.turning[rng.IntN(len(c.turning)/choosers)*choosers+chooser]
		_, wanted := a.standing()
		if wanted == "" {
			wanted = pick(rng, []choice{optOut, optOut, allow, none})
			a.begins(wanted)
		}
		for saved := false; !saved; {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			way := pick(rng, ways)
			if strings.HasPrefix(way.name, "event") && wanted != optOut {
				continue // it might have been made before what is held; an opt-out then stands all the same
			}
			if saved = way.save(c, a, wanted); saved {
				a.acknowledged(way.name)
				c.counts.add("choice", way.name)
				c.counts.add("choice", string(wanted))
			} else {
				c.counts.add("not acknowledged", way.name)
			}
		}
	}
}

// post saves a choice as the settings page of a relier does.
func (c *chaos) post(s *server, a *account, wanted choice) bool {
	token := testcaddy.RelierToken(s.addr, a.uid, "profile:metrics_optout:write", testcaddy.TrustedRelier)
	status, _, body, err := testcaddy.TryAskFor(s.addr, "POST /v1/metrics_optout", token, fmt.Sprintf(`{"metrics_optout":%s}`, wanted))
	switch {
	case err != nil, status == http.StatusServiceUnavailable:
		return false
	case status == http.StatusOK && body == "{}":
		return true
	}
	c.violation("%s answers the choice %s of %v with %d %q", s.addr, wanted, a, status, body)
	return false
}

const eventIssuer = "https://accounts.test"

// tell has an account's opt-out be told in a security event, whose clock is ahead
// by some time.
func (c *chaos) tell(a *account, ahead time.Duration) bool {
	event := testcaddy.Sign(jwt.SigningMethodRS256, testcaddy.RSAKey, map[string]any{"typ": "secevent+jwt"}, jwt.MapClaims{
		"iss": eventIssuer, "aud": testcaddy.TrustedRelier, "sub": a.uid, "iat": time.Now().Add(ahead).Unix(), "jti": fmt.Sprint(c.marks.Add(1)),
		"events": map[string]any{"https://schemas.accounts.firefox.com/event/metrics-opt-out": map[string]any{}},
	})
	for _, s := range c.fleet.servers {
		status, _, body, err := testcaddy.TryAskFor(s.addr, "POST /v1/events", event, "")
		switch {
		case err != nil, status == http.StatusServiceUnavailable:
			continue // as whoever tells does, it tells again
		case status == http.StatusOK:
			return true
		}
		c.violation("%s answers an event of %v with %d %q", s.addr, a, status, body)
	}
	return false
}

// held is what a profile server holds of an account, "" where it cannot say.
func (c *chaos) held(s *server, a *account) choice {
	token := testcaddy.RelierToken(s.addr, a.uid, "profile:metrics_optout", testcaddy.TrustedRelier)
	status, _, body, err := testcaddy.TryAskFor(s.addr, "GET /v1/metrics_optout", token, "")
	if err != nil || status != http.StatusOK {
		return ""
	}
	for _, held := range []choice{optOut, allow, none} {
		if body == `{"metrics_optout":`+string(held)+`}` {
			return held
		}
	}
	return ""
}

var formField = regexp.MustCompile(`name="(etag|account)" value="([^"]*)"`)

// submit saves a choice on the preference page of an edge.
func (c *chaos) submit(s *sender, a *account, wanted choice) bool {
	address := "https://localhost:" + s.edge.port + "/.well-known/metrics-gate/preference"
	token := c.session(a)
	headers := func() http.Header {
		return http.Header{"Cookie": {"session=" + token}, "Sec-Fetch-Site": {"same-origin"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	}
	page, err := s.client.send("GET", address, "", headers())
	if err != nil {
		return false
	}
	form := url.Values{"choice": {map[choice]string{optOut: "optout", allow: "allow", none: "follow"}[wanted]}}
	for _, field := range formField.FindAllStringSubmatch(string(page.body), -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	if form.Get("account") == "" {
		return false // the edge does not know who it is, or what the account holds
	}
	answer, err := s.client.send("POST", address, form.Encode(), headers())
	if err != nil {
		return false
	}
	switch answer.status {
	case http.StatusSeeOther:
		return true
	case http.StatusConflict, http.StatusServiceUnavailable, http.StatusForbidden:
		return false
	}
	c.violation("the preference page of %v answers the choice %s of %v with %d %q", s.edge, wanted, a, answer.status, answer.body)
	return false
}

// speaker is an account that chose nothing, and whose browser reports that it
// opted out.
type speaker struct {
	account *account
	told    *process // took the report
}

// speak has a browser report its opt-out, until an edge has taken it that knew
// whose it is.
func (c *chaos) speak(rng *rand.Rand, s *speaker, stop <-chan struct{}) {
	sender := pick(rng, c.senders)
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for s.told == nil {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		rotations := c.fleet.keys.count()
		token := c.session(s.account)
		header := http.Header{"Cookie": {"session=" + token}, "Sec-Fetch-Site": {"same-origin"}, "Content-Type": {"application/json"}}
		sure := sender.edge.sure.Load() == rotations
		answer, err := sender.client.send("POST", "https://localhost:"+sender.edge.port+"/.well-known/metrics-gate/signal", `{"metrics_optout":true}`, header)
		process := sender.edge.current.Load()
		if err == nil && sure && process != nil && answer.process == process.number && c.fleet.keys.count() == rotations {
			s.told = process
			c.counts.add("signal", "report")
		}
	}
}
