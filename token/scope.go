package token

import "strings"

// Implies reports whether a token with the scopes granted, a list separated
// by spaces, may do what the one scope wanted stands for. Scopes imply one
// another as those of Firefox Accounts do, component by component: profile
// implies profile:email, profile:write implies that and profile:email:write,
// and profilebogey implies neither. Reading never implies writing.
func Implies(granted, wanted string) bool {
	for scope := range strings.FieldsSeq(granted) {
		area, writes := strings.CutSuffix(scope, ":write")
		rest, inside := strings.CutPrefix(wanted, area)
		inside = inside && (rest == "" || rest[0] == ':')
		if inside && (writes || !strings.HasSuffix(wanted, ":write")) {
			return true
		}
	}
	return false
}
