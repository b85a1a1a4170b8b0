package placeholder_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
)

func TestNoSecretInErrors(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-{env.METRICS_GATE_TEST_NOT_SET}"
	if _, err := placeholder.Resolve(caddy.NewReplacer(), secret); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}
