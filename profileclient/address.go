package profileclient

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/token"
)

const uidPlaceholder = "{uid}"

// address is where a preference is asked for: one URL for all accounts or,
// where it holds {uid}, one for each. In a host, braces are no URL.
type address struct {
	path, query string // query with its question mark
	perAccount  bool

	changes   string // the change feed, which only one URL for all has
	completed string // what was added to the URL that was written, in words
}

func parseAddress(text string, api API, allowHTTP bool) (address, error) {
	u, err := url.Parse(text)
	if err != nil {
		// A *url.Error repeats the URL, which may hold a password.
		if parsing, ok := errors.AsType[*url.Error](err); ok {
			err = parsing.Err
		}
		return address{}, fmt.Errorf("it is not a URL: %w", err)
	}
	if u.Host == "" {
		return address{}, errors.New("it must start with https:// and a host, such as https://profile.example.org/v1 (http:// will do on this machine)")
	}
	if err := token.CheckTransport(u, allowHTTP); err != nil {
		return address{}, err
	}
	switch {
	case u.User != nil:
		return address{}, errors.New("it holds a user name or password; give the credential with auth")
	case u.Fragment != "":
		return address{}, errors.New("it holds a fragment, which is never sent; leave out # and what follows")
	}
	if strings.Contains(text, uidPlaceholder) {
		path, query, found := strings.Cut(text, "?")
		if found {
			query = "?" + query
		}
		return address{path: path, query: query, perAccount: true}, nil
	}
	resource, completed := optoutapi.Preference, " (profile_server has that below /v1)"
	if api == FxA {
		resource, completed = "profile", ""
	}
	return address{
		path: u.JoinPath(resource).String(), changes: u.JoinPath(optoutapi.Changes).String(),
		completed: ", to which /" + resource + " is added" + completed,
	}, nil
}

// of returns the URL for an account, or false where the account has none.
func (a address) of(uid string) (string, bool) {
	if !a.perAccount {
		return a.path, uid != ""
	}
	if uid == "" || climbs(uid) {
		return "", false
	}
	return strings.ReplaceAll(a.path, uidPlaceholder, url.PathEscape(uid)) +
		strings.ReplaceAll(a.query, uidPlaceholder, url.QueryEscape(uid)), true
}

// climbs says whether a uid would leave its place in a path. Escaping does
// not keep it there: RFC 3986 section 6.2.2 has servers resolve dot segments
// whether or not they are escaped, some after they have unescaped %2F, and a
// name in a beacon is anybody's text.
func climbs(uid string) bool {
	for segment := range strings.FieldsFuncSeq(uid, func(r rune) bool { return r == '/' || r == '\\' }) {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
