package token

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// endpoint is an address whose answers decide which tokens are good.
type endpoint struct {
	url    string
	source string // the URL without its query, which may hold a credential
	client *http.Client
}

func newEndpoint(address string, client *http.Client) (*endpoint, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Hostname() == "" {
		return nil, errors.New("its URL cannot be read; write one that starts with https://")
	}
	switch {
	case parsed.Scheme != "https" && !(parsed.Scheme == "http" && isLoopback(parsed.Hostname())):
		return nil, fmt.Errorf("whoever can change an answer of %s://%s can sign in as anybody; write a URL that starts with https:// (http:// is for loopback only)", parsed.Scheme, parsed.Host)
	case parsed.User != nil:
		return nil, errors.New("its URL holds a user name or password; write it without them")
	}
	limited := *client
	limited.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &endpoint{
		url:    address,
		source: (&url.URL{Scheme: parsed.Scheme, Host: parsed.Host, Path: parsed.Path}).String(),
		client: &limited,
	}, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// send returns the answer to a request, whatever its status.
func (e *endpoint) send(request *http.Request) (*http.Response, error) {
	response, err := e.client.Do(request)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // the rest repeats the URL
	}
	return response, err
}

// wrongStatus says what is wrong with a status that is not 200. Redirects lead
// to an address that nobody has checked.
func wrongStatus(status int) error {
	if status/100 == 3 {
		return fmt.Errorf("status %d, and redirects are not followed; write the URL that it leads to", status)
	}
	return fmt.Errorf("status %d instead of 200", status)
}
