// Package bearertoken has the blocks of a configuration that say how bearer
// tokens are verified: as JSON Web Tokens (JWT), or by asking whoever issued
// them (Introspect).
//
// It does not verify; that is package token. Where a token is found, and what
// follows from it, is the business of the module that has the block.
package bearertoken
