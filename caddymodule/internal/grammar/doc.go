// Package grammar reads the blocks of our directives in the Caddyfile: which
// words a block knows, what each takes, and what an operator is told who got
// one of them wrong.
//
// It knows none of the words itself. What they mean, and whether what they say
// together makes sense, is the business of the module that has them.
package grammar
