package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// somebody is a user who prefers that, out of those who are not under load.
func somebody(preference string) string {
	for user := -1; ; user-- {
		if uid := stub.UID(user); stub.Preference(uid) == preference {
			return uid
		}
	}
}

// beaconCase is a beacon and whether the application may see it.
type beaconCase struct {
	name    string
	request []byte
	blocked bool
}

// checkSessions holds that a gate does what it is there for: nothing is easier
// to make fast than one that does not look.
func checkSessions(r *rig, c *contender) error {
	optedOut, allowed, undecided := somebody("true"), somebody("false"), somebody("null")
	cookie := func(value string) []byte { return wire("POST", "/metrics", value, stub.Beacon(optedOut), "") }
	return r.holds(c, []beaconCase{
		{"opted out", beacon(optedOut), true},
		{"opted out, report of an error", failure(optedOut), true},
		{"opted out, another method", wire("GET", "/metrics", session(optedOut), "", ""), false},
		{"allowed", beacon(allowed), false},
		{"no choice", beacon(undecided), false},
		{"no session", cookie("a=b"), false},
		{"no session, signal", cookie("metrics_optout=1"), true},
		{"forged", cookie("session=" + stub.SessionBy(optedOut, "another secret, of 32 bytes or more", stub.InAMonth())), false},
		{"garbage", cookie("session=abc.def.ghi"), false},
	})
}

// checkAllSessions holds that a second credential hides nobody, besides. That is more
// than the others do.
func checkAllSessions(r *rig, c *contender) error {
	if err := checkSessions(r, c); err != nil {
		return err
	}
	return r.holds(c, []beaconCase{
		{"opted out, with a second credential", second(somebody("true")), true},
		{"allowed, with a second credential", second(somebody("false")), false},
	})
}

func checkOwnSession(r *rig, c *contender) error {
	for preference, blocked := range map[string]bool{"true": true, "false": false, "null": false} {
		uid := somebody(preference)
		cookie, err := handOver(c.addr, uid)
		if err != nil {
			return err
		}
		if err := r.holds(c, []beaconCase{{"own session, " + preference, wire("POST", "/metrics", cookie, stub.Beacon("none"), ""), blocked}}); err != nil {
			return err
		}
	}
	return nil
}

func checkBatch(r *rig, c *contender) error {
	return r.holds(c, []beaconCase{
		{"events of somebody who opted out", batch(somebody("true")), true},
		{"events of somebody who allowed", batch(somebody("false")), false},
		{"events of somebody without a choice", batch(somebody("null")), false},
	})
}

func checkNames(r *rig, c *contender) error {
	return r.holds(c, []beaconCase{
		{"names somebody who opted out", naming(somebody("true")), true},
		{"names somebody who allowed", naming(somebody("false")), false},
		{"names somebody without a choice", naming(somebody("null")), false},
		{"names nobody", wire("POST", "/metrics", "a=b", stub.Beacon("none"), ""), false},
	})
}

// checkInjected holds that the page comes with the handshake's script, and that of
// a browser that opted out with another configuration.
func checkInjected(_ *rig, c *contender) error {
	for _, one := range []struct {
		request      []byte
		with, misses string
	}{
		{page(somebody("null")), "/.well-known/metrics-gate/handshake.", "the page has no script"},
		{settingsPage(somebody("null")), "%22uploadEnabled%22%3Afalse", "the page's configuration is as it was"},
	} {
		body, err := fetch(c.addr, one.request)
		if err == nil && !strings.Contains(body, one.with) {
			err = errors.New(one.misses)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetch is the body of the answer to a request.
func fetch(addr string, request []byte) (string, error) {
	connection, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := connection.Write(request); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// holds sends each beacon twice, as a miss and as a hit, and looks whether the
// application got it.
func (r *rig) holds(c *contender, cases []beaconCase) error {
	connection := client{addr: c.addr}
	defer connection.close()
	for _, one := range cases {
		for range 2 {
			before := r.count(r.upstream)
			if !connection.send(one.request) {
				return fmt.Errorf("%s: the beacon has no answer", one.name)
			}
			if passed := r.passed(before, !one.blocked); passed == one.blocked {
				return fmt.Errorf("%s: blocked is %v, and must be %v", one.name, !passed, one.blocked)
			}
		}
	}
	return nil
}

// passed says whether the application got one more than before. Where it should,
// that is waited for: a gate may answer first.
func (r *rig) passed(before int, should bool) bool {
	for deadline := time.Now().Add(time.Second); ; {
		if r.count(r.upstream) > before {
			return true
		}
		if !should || time.Now().After(deadline) {
			return false
		}
	}
}

// count is how many requests one of our own servers got.
func (r *rig) count(addr string) int {
	response, err := http.Get("http://" + addr + "/count")
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	n, err := strconv.Atoi(string(body))
	if err != nil {
		panic(err)
	}
	return n
}
