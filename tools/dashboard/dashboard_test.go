// Package dashboard_test holds deploy/grafana/metrics-gate.json against Grafana's own
// schema. It is a module of its own, so that nothing of ours depends on theirs.
package dashboard_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Of all kinds of panels and queries that Grafana has, these are ours. Each takes
// a while to compile.
func init() {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
}

// lint decodes a dashboard strictly: a field that the schema does not know, that has
// another type or that is missing is an error, also in the options and queries of
// panels.
func lint(raw []byte) error {
	// Where nothing is wrong this returns a list of no errors, and stops to decode
	// there: what it decodes is not whole.
	if err := new(dashboard.Dashboard).UnmarshalJSONStrict(raw); err != nil && err.Error() != "" {
		return err
	}
	var decoded dashboard.Dashboard
	if err := json.Unmarshal(raw, &decoded); err != nil {
		return err
	}
	if len(decoded.Panels) == 0 {
		return errors.New("there are no panels")
	}
	for _, panel := range decoded.Panels {
		panels := []dashboard.Panel{}
		if panel.RowPanel != nil {
			panels = panel.RowPanel.Panels
		} else {
			panels = append(panels, *panel.Panel)
		}
		for _, panel := range panels {
			if err := isKnown(panel); err != nil {
				return err
			}
		}
	}
	return decoded.Validate()
}

// isKnown says that what a panel shows was decoded by its schema: what is not
// registered is taken as it is.
func isKnown(panel dashboard.Panel) error {
	if _, known := cog.ConfigForPanelcfgVariant(panel.Type); !known {
		return fmt.Errorf("%s: register the schema of %q", *panel.Title, panel.Type)
	}
	for _, target := range panel.Targets {
		if _, unknown := target.(variants.UnknownDataquery); unknown {
			return fmt.Errorf("%s: the datasource of a query is not Prometheus", *panel.Title)
		}
	}
	return nil
}

// What Grafana would overlook, or stumble over, is an error.
func TestDashboard(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../deploy/grafana/metrics-gate.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := lint(raw); err != nil {
		t.Error(err)
	}
	good := string(raw)
	for _, c := range []struct{ what, old, new, says string }{
		{"a field of the dashboard", `"uid":`, `"id_": 1, "uid":`, "unexpected field 'id_'"},
		{"a type of the dashboard", `"schemaVersion": 42`, `"schemaVersion": "42"`, "schemaVersion"},
		{"a field of a panel", `"gridPos":`, `"gridpos":`, "unexpected field 'gridpos'"},
		{"a field of a query", `"expr": "sum`, `"query": "sum`, "expr: required field is missing"},
		{"a field of a panel's options", `"showLegend":`, `"show_legend":`, "showLegend: required field is missing"},
		{"a type of a panel's own settings", `"lineWidth": 1`, `"lineWidth": "1"`, "lineWidth"},
		{"a field of a panel's own settings", `"lineWidth": 1`, `"linewidth": 1`, "unexpected field 'linewidth'"},
		{"a kind of panel", `"type": "stat"`, `"type": "speedometer"`, `register the schema of "speedometer"`},
		{"a kind of datasource", `"type": "prometheus"`, `"type": "graphite"`, "is not Prometheus"},
		{"a field of a variable", `"includeAll":`, `"all":`, "unexpected field 'all'"},
	} {
		bad := strings.ReplaceAll(good, c.old, c.new)
		err := lint([]byte(bad))
		if bad == good || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", c.what, err, c.says)
		}
	}
}
