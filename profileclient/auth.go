package profileclient

import (
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/token"
)

// Auth is the credential that a Client asks the profile server with. It comes
// from Mint, Forward or Bearer.
type Auth struct {
	minter  *token.Minter
	bearer  string
	forward bool
}

// Mint signs a token for the account that is asked about: one purpose, one
// token. It can ask about every account.
func Mint(minter *token.Minter) Auth { return Auth{minter: minter} }

// Forward sends the account's own token. It can ask only about an account
// that has one; the preference of every other is unknown.
func Forward() Auth { return Auth{forward: true} }

// Bearer sends one fixed token. It says nothing of the account, so
// Config.URL must hold {uid}.
func Bearer(token string) Auth { return Auth{bearer: token} }

// purpose is what a credential is for. A minted token has its scope, and the
// profile server learns from its source whose choice a write records.
type purpose struct{ scope, source string }

var (
	reading = purpose{scope: optoutapi.ReadScope}
	writing = purpose{scope: optoutapi.WriteScope, source: SourceBrowser}
	// choosing is writing what the user chose in so many words.
	choosing = purpose{scope: optoutapi.WriteScope, source: SourceUser}
)

// covers says whether there is a credential for the account at all.
func (auth Auth) covers(a Account) bool { return !auth.forward || a.Token != "" }

func (auth Auth) credential(a Account, aim purpose, now time.Time) (string, error) {
	switch {
	case auth.forward:
		return a.Token, nil
	case auth.minter != nil:
		return auth.minter.Mint(a.UID, aim.scope, aim.source, now)
	default:
		return auth.bearer, nil
	}
}
