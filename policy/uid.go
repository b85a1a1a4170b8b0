package policy

import (
	"unicode"
	"unicode/utf8"
)

// maxUIDBytes bounds account ids; longer ones would be cache keys that
// strangers choose.
const maxUIDBytes = 255

// IsUID says whether a string can be an account id, wherever it comes from:
// 1 to 255 bytes of UTF-8 without control characters. The replacement
// character counts as broken UTF-8, since that is what encoding/json makes of
// it: two ids that differ in their broken bytes only must not become one
// account.
func IsUID(uid string) bool {
	if uid == "" || len(uid) > maxUIDBytes {
		return false
	}
	for _, r := range uid {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return false
		}
	}
	return true
}
