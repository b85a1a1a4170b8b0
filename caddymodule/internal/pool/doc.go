// Package pool keeps what outlives a configuration: a reload that changes
// nothing about them finds verified tokens, preferences and stores as warm as
// it left them, and two sites with the same settings share one of each.
//
// It is not a cache: what no module instance holds any more is closed.
package pool
