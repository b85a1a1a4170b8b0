package browser

import (
	"encoding/json"
	"html"
)

// Proof says where an application's pages keep what proves their account, and
// what of it the handshake's script hands over with its reports, as member
// proof: the text that would stand in Authorization. Exactly one of FxA,
// LocalStorage and SessionStorage is set.
type Proof struct {
	// FxA is for the session of Firefox Accounts, whose token is below
	// __fxa_storage in localStorage. What is handed over is derived from it:
	// "Bearer fxs_<id>".
	FxA bool `json:"fxa,omitempty"`
	// Hawk has a Hawk header handed over in place of that, for servers before
	// May 2026. It is the auth server's public URL without a trailing slash,
	// such as https://auth.example.org/v1: what is signed is a
	// GET <Hawk>/session/status. It goes with FxA only.
	Hawk string `json:"hawk,omitempty"`
	// LocalStorage is the key of the item in localStorage that holds a token,
	// which is handed over as "Bearer <token>".
	LocalStorage string `json:"local_storage,omitempty"`
	// SessionStorage is the same for sessionStorage.
	SessionStorage string `json:"session_storage,omitempty"`
	// Path leads to the token in an item that is JSON: names of members and
	// places in lists, separated by dots, such as user.access_token. Empty
	// where the item is the token. It goes with the two storages.
	Path string `json:"path,omitempty"`
}

// attribute is what a tag has for the script, which does nothing about accounts
// without: a cached script may run behind a gate that does not ask.
func (p *Proof) attribute() string {
	if p == nil {
		return ""
	}
	text, _ := json.Marshal(p) // never fails for this type
	return ` data-proof="` + html.EscapeString(string(text)) + `"`
}
