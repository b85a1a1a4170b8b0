// Package survey finds what measures people in recorded requests: Caddy's JSON
// log, the combined format of nginx and Apache, and HAR files of a browser. It
// says which of them a configuration would gate, which pass, which go to other
// hosts and so past the edge, and which lines would gate the rest.
//
// It sends nothing, and what it reports holds neither addresses nor identifiers:
// only methods, other sites' hosts, and paths, in which whatever could be an
// identifier is a *.
package survey
