package bearertoken

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestIntrospectionWarnings holds what an operator is told at start.
func TestIntrospectionWarnings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		introspect Introspect
		want       string
	}{
		"fxa":                     {Introspect{URL: "https://oauth.example.org/v1/verify"}, ""},
		"rfc7662":                 {Introspect{URL: "https://id.example.org/introspect"}, "no audience is set"},
		"fxa by a placeholder":    {Introspect{URL: "{env.URL}", Manner: "fxa"}, ""},
		"with an audience":        {Introspect{URL: "https://id.example.org/", Audience: []string{"web"}}, ""},
		"a token in the open":     {Introspect{Audience: []string{"web"}, Bearer: "private-word"}, "the secret stands in the configuration"},
		"a secret in the open":    {Introspect{Audience: []string{"web"}, Basic: &BasicCredential{"gate", "private-word"}}, "the secret stands in the configuration"},
		"both kept outside of it": {Introspect{Audience: []string{"web"}, Bearer: "{env.A}", Basic: &BasicCredential{"gate", "{env.B}"}}, ""},
	} {
		core, logs := observer.New(zap.WarnLevel)
		test.introspect.Warn(zap.New(core), "here")
		var told strings.Builder
		for _, entry := range logs.All() {
			told.WriteString(entry.Message + fmt.Sprint(entry.ContextMap()))
		}
		if said := told.String(); !strings.Contains(said, test.want) || (said == "") != (test.want == "") || strings.Contains(said, "private-word") {
			t.Errorf("%s: %s", name, said)
		}
	}
}
