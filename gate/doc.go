// Package gate decides what becomes of a request: whether a beacon passes or
// is answered in the application's place, what a page is told, and what a
// person is told of themselves. It also serves the gate's own addresses, below
// /.well-known/metrics-gate/.
//
// It puts the other packages together: session says whose request it is,
// profileclient what that account prefers, policy what follows from it, and
// browser changes pages. It knows net/http and nothing of Caddy; package
// caddymodule is Caddy's side of it.
//
// It does not verify tokens, ask profile servers or read configuration files,
// and it keeps no state about people: what is cached is cached below.
//
// A Go program puts a Gate in front of its own handler:
//
//	g, err := gate.New(gate.Config{
//		Routes: []gate.Route{{Methods: []string{"POST"}, Path: "/beacon"}},
//	})
//	if err != nil {
//		return err
//	}
//	http.ListenAndServe("localhost:8080", g.Handler(application))
package gate
