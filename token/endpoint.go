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

func newEndpoint(address string, allowHTTP bool, client *http.Client) (*endpoint, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Hostname() == "" {
		return nil, errors.New("its URL cannot be read; write one that starts with https://")
	}
	if err := CheckTransport(parsed, allowHTTP); err != nil {
		return nil, err
	}
	if parsed.User != nil {
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

// CheckTransport refuses an address where others than its server could answer.
// That is http, but for this machine's own and where it is allowed.
func CheckTransport(address *url.URL, allowHTTP bool) error {
	switch {
	case address.Scheme == "https", address.Scheme == "http" && (allowHTTP || isLoopback(address.Hostname())):
		return nil
	case address.Scheme == "http":
		return fmt.Errorf("whoever is on the way to http://%s can read what is asked and write what is answered; "+
			"write a URL that starts with https://, or allow_http where you trust the way (http:// alone is for this machine)", address.Host)
	}
	return fmt.Errorf("%s:// is no way to ask; write a URL that starts with https://", address.Scheme)
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
