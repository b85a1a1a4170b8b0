package profilemodule

import (
	"testing"

	"github.com/metricsgate/metricsgate/caddymodule/internal/adapttest"
)

func TestAdapt(t *testing.T) { adapttest.Run(t) }
