// Package located says where in the configuration an error belongs, as the
// path of words that an operator has typed: metrics_gate › session jwt ›
// secret. The Caddyfile and the JSON are refused in the same words.
//
// What is wrong, and what to write instead, stands in the error itself.
package located
