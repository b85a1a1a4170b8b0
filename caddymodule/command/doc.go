// Package command has the commands for operators: caddy metrics-gate explain,
// check, token and the others, which are registered with Caddy.
//
// They run by themselves, beside whatever Caddy is running; nothing that serves
// a request is in here.
package command
