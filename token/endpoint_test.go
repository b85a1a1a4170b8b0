package token_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/token"
)

// TestTransport holds who may be asked by http.
func TestTransport(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]struct{ alone, allowed bool }{
		"https://id.example.org":           {true, true},
		"http://localhost:8080":            {true, true},
		"http://127.0.0.1":                 {true, true},
		"http://127.8.8.8:1":               {true, true},
		"http://[::1]:8080":                {true, true},
		"http://id.example.org":            {false, true},
		"http://id:secret@id.example.org":  {false, true},
		"http://10.0.0.1":                  {false, true},
		"http://0.0.0.0:8080":              {false, true},
		"http://localhost.example.org":     {false, true},
		"http://127.0.0.1.example.org":     {false, true},
		"http://127.0.0.1@id.example.org/": {false, true},
		"ftp://localhost":                  {false, false},
		"//localhost":                      {false, false},
	} {
		parsed, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		alone, allowed := token.CheckTransport(parsed, false), token.CheckTransport(parsed, true)
		if (alone == nil) != want.alone || (allowed == nil) != want.allowed {
			t.Errorf("%s: %v; allowed: %v", address, alone, allowed)
		}
		if alone != nil && strings.Contains(alone.Error(), "secret") {
			t.Errorf("%s: %v", address, alone)
		}
	}
}
