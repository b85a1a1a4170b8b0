// Package caddymodule is Caddy's side of the gate: its modules, their Caddyfile
// and JSON, what they share across reloads, and metrics.
//
//   - http.handlers.metrics_gate (Gate) decides gated requests and pages,
//   - http.matchers.metrics_optout (MatchOptOut) matches what the gate
//     decided to block, and
//   - the app metrics_gate (App) lists the gates of a configuration.
//
// Nothing is decided here: what becomes of a request is the business of package
// gate, which serves net/http without Caddy. The profile server's handler is in
// profilemodule, and caddy metrics-gate in command; what the three say alike is
// in internal.
package caddymodule
