// Package caddymodule is Caddy's side of Metrics Gate: its modules, their
// Caddyfile and JSON, what they share across reloads, commands and metrics.
//
// It holds three modules:
//
//   - http.handlers.metrics_gate (Gate) decides gated requests and pages,
//   - http.matchers.metrics_optout (MatchOptOut) matches what the gate
//     decided to block, and
//   - http.handlers.profile_server (ProfileServer) serves the preferences.
//
// Everything that is not about Caddy lives below: the rules in policy, who is
// asking in session, the preference in profileclient.
package caddymodule
