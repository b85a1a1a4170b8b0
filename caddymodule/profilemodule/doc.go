// Package profilemodule is Caddy's side of the profile server: the handler
// http.handlers.profile_server (ProfileServer), its Caddyfile and JSON, what it
// shares across reloads, and its metrics.
//
// It knows nothing of the gate, and stores and answers nothing itself: that is
// package profileserver, which serves net/http without Caddy.
package profilemodule
