package main

import (
	"strconv"

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

func beacon(uid string) []byte  { return wire("POST", "/metrics", session(uid), stub.Beacon(uid), "") }
func naming(uid string) []byte  { return wire("POST", "/metrics", "flow=1", stub.Beacon(uid), "") }
func failure(uid string) []byte { return wire("GET", "/metrics-errors", session(uid), "", "") }
func script(uid string) []byte {
	return wire("GET", "/app.js", session(uid), "", "Sec-Fetch-Dest: script\r\n")
}
func page(uid string) []byte {
	return wire("GET", "/signin", session(uid), "", "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n")
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
