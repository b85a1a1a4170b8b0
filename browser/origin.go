package browser

import (
	"fmt"
	"net/url"
	"strings"
)

// ParseOrigin returns an origin as browsers write it: scheme, host in lower
// case and a port that is not the scheme's own. An origin is compared whole,
// so what names several (a wildcard) or more than an origin (a path) is
// refused. Hosts are names or addresses in ASCII.
func ParseOrigin(text string) (string, error) {
	wrong := func(why string) (string, error) {
		return "", fmt.Errorf("%q %s; write an origin such as https://www.example.org", text, why)
	}
	if strings.Contains(text, "*") {
		return wrong("is a wildcard, which would let in whoever gets a name below it")
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil:
		return wrong("is not a URL")
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		return wrong("does not start with https:// or http://")
	case parsed.Hostname() == "" || strings.ContainsFunc(parsed.Host, notInHost):
		return wrong("has no host that a browser would send")
	case parsed.User != nil || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" || parsed.Path != "" && parsed.Path != "/":
		return wrong("is more than scheme, host and port")
	}
	host := strings.ToLower(parsed.Host)
	host = strings.TrimSuffix(host, ":")
	host = strings.TrimSuffix(host, map[string]string{"https": ":443", "http": ":80"}[parsed.Scheme])
	return parsed.Scheme + "://" + host, nil
}

func notInHost(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]", r)
}
