package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// users are a range of the made-up users.
type users struct{ from, to int }

// wire is a request of a Firefox, as it goes over the wire; more is header lines.
func wire(method, path, cookie, body string, more string) []byte {
	request := method + " " + path + " HTTP/1.1\r\nHost: content.example.org\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nReferer: https://content.example.org/\r\nCookie: lang=en; " + cookie + "\r\n" + more
	if body != "" {
		request += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	return []byte(request + "\r\n" + body)
}

func session(uid string) string {
	return "session=" + stub.Session(uid) + "; _ga=GA1.2.1234567890.1764000000"
}

// of makes one request for each user that is wanted.
func (u users) of(wanted func(preference string) bool, request func(uid string) []byte) (all [][]byte) {
	for user := u.from; user < u.to; user++ {
		if uid := stub.UID(user); wanted(stub.Preference(uid)) {
			all = append(all, request(uid))
		}
	}
	return all
}

func anybody(string) bool             { return true }
func optedOut(preference string) bool { return preference == "true" }
func others(preference string) bool   { return preference != "true" }

func beacon(uid string) []byte { return wire("POST", "/metrics", session(uid), stub.Beacon(uid), "") }
func naming(uid string) []byte { return wire("POST", "/metrics", "flow=1", stub.Beacon(uid), "") }
func second(uid string) []byte {
	return wire("POST", "/metrics", session(uid)+"; session="+stub.SessionBy(uid, "another secret, of 32 bytes or more", stub.InAMonth()), stub.Beacon(uid), "")
}
func batch(uid string) []byte {
	return wire("POST", "/metrics", "flow=1", string(stub.Batch(uid)), "Content-Encoding: gzip\r\n")
}
func failure(uid string) []byte { return wire("GET", "/metrics-errors", session(uid), "", "") }
func script(uid string) []byte {
	return wire("GET", "/app.js", session(uid), "", "Sec-Fetch-Dest: script\r\n")
}
func page(uid string) []byte {
	return wire("GET", "/signin", session(uid), "", "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n")
}

func settingsPage(uid string) []byte {
	return wire("GET", "/settings", session(uid)+"; metrics_optout=1", "", "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n")
}

// mix is what a content server gets: half beacons, a tenth reports of errors,
// the rest not gated.
func mix(uid string) []byte {
	switch n, _ := strconv.ParseUint(uid[:8], 16, 64); {
	case n%10 < 5:
		return beacon(uid)
	case n%10 < 6:
		return failure(uid)
	}
	return script(uid)
}

// loadOf is the requests on so many connections.
func loadOf(addr string, connections int, requests [][]byte) load {
	return newLoad(addr, connections, len(requests), func(n int) []byte { return requests[n] })
}

// newcomers are users whom no gate has heard of: another thousand thousand in
// every round.
func newcomers(round, count int) users {
	from := (round + 1) * 1_000_000
	return users{from, from + count}
}

// ownSessions are beacons of users whom the gate knows by its own session: each has
// handed over its token, as a page does.
func (r *rig) ownSessions(known users) (all [][]byte, err error) {
	gate := r.contender(ownSession)
	for user := known.from; user < known.to; user++ {
		uid := stub.UID(user)
		if !others(stub.Preference(uid)) {
			continue
		}
		cookie, err := handOver(gate.addr, uid)
		if err != nil {
			return nil, err
		}
		all = append(all, wire("POST", "/metrics", cookie, stub.Beacon(uid), ""))
	}
	return all, nil
}

// handOver proves an account to a gate, and returns the cookie of its own session.
func handOver(addr, uid string) (cookie string, err error) {
	r, err := http.NewRequest(http.MethodPost, "http://"+addr+"/.well-known/metrics-gate/signal",
		strings.NewReader(`{"answered":false,"proof":"Bearer `+stub.Session(uid)+`"}`))
	if err != nil {
		return "", err
	}
	r.Host = "content.example.org"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	for _, set := range response.Cookies() {
		if set.Name == "__Host-metrics_gate" && set.Value != "0" {
			return set.Name + "=" + set.Value, nil
		}
	}
	return "", fmt.Errorf("a proof was answered with %s, and no own session", response.Status)
}
