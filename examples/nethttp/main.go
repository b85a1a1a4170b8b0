// Command nethttp serves an application behind a gate with net/http alone: no
// Caddy, no accounts. Beacons of browsers that opted out are answered in the
// application's place; /.well-known/metrics-gate/preference is where people
// choose. Run it with: go run ./examples/nethttp
package main

import (
	"fmt"
	"html"
	"log"
	"net/http"

	"github.com/metricsgate/metricsgate/gate"
)

func handler() http.Handler {
	g, err := gate.New(gate.Config{
		Routes:    []gate.Route{{Methods: []string{http.MethodPost}, Path: "/beacon"}},
		Handshake: &gate.Handshake{},
	})
	if err != nil {
		log.Fatal(err)
	}
	return g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprint(w, "<!doctype html><html><head></head><body>", html.EscapeString(r.URL.Path+" "+r.Header.Get(gate.OutcomeHeader)))
	}))
}

func main() {
	log.Fatal(http.ListenAndServe("localhost:8080", handler())) //nolint:gosec // an example; a server of your own sets timeouts
}
