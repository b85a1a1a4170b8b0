// Package span keeps people out of what Caddy's tracing records of a request.
//
// It does not decide of which requests; that is for the modules.
package span
