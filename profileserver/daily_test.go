package profileserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// TestDailyCountsUsers: each counts once, whatever they do.
func TestDailyCountsUsers(t *testing.T) {
	t.Parallel()
	server := start(t, database(t), operators)
	today := time.Now().UTC().Format(time.DateOnly)
	for user := range 3 {
		raw := mint(t, "metrics-gate", fmt.Sprint("u", user), optoutapi.WriteScope, "")
		for _, preference := range []string{"true", "true", "false", "true", "null"} {
			server.send(t, request{method: "POST", path: optOutPath, token: raw, body: `{"metrics_optout":` + preference + `}`}).want(t, 200, `{}`)
		}
	}
	if time.Now().UTC().Format(time.DateOnly) != today {
		return // midnight came in between, and some count on either day
	}
	raw := mint(t, "operator", "op", optoutapi.ReadScope, "")
	query := "?from=" + today + "&to=" + today
	server.send(t, request{method: "GET", path: dailyPath + query, token: raw}).want(t, 200, `[{"day":"`+today+`","users":3}]`)
	csv := server.send(t, request{
		method: "GET", path: dailyPath + query, token: raw, header: []string{"Accept: text/csv"}, mediaType: "text/csv; charset=utf-8; header=present",
	})
	csv.want(t, 200, "day,users\r\n"+today+",3\r\n")

	answer := server.send(t, request{method: "GET", path: dailyPath, token: raw})
	var rows []struct {
		Day   string
		Users int64
	}
	if err := json.Unmarshal([]byte(answer.Body), &rows); err != nil {
		t.Fatal(err)
	}
	if n := len(rows); n != 30 || rows[n-1].Day != today || rows[n-1].Users != 3 || rows[0].Users != 0 {
		t.Errorf("by default: %v", rows)
	}
}

// counted is a store of two days' counts.
type counted struct{ prefstore.Store }

func (counted) Daily(context.Context, time.Time, time.Time) ([]prefstore.DailyCount, error) {
	return []prefstore.DailyCount{{Day: "2026-02-28", Users: 7}, {Day: "2026-03-02", Users: 1 << 40}}, nil
}

func TestDailyAnswers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(New(Config{
		Store: counted{}, Tokens: []Verifier{verifier(t, token.Config{Secret: secret})}, OperatorClients: []string{"operator"},
	}))
	t.Cleanup(server.Close)
	i := instance{Server: server}
	raw := mint(t, "operator", "op", optoutapi.ReadScope, "")
	get := func(query string, accept ...string) response {
		q := request{method: "GET", path: dailyPath + query, token: raw, header: accept}
		if strings.Contains(fmt.Sprint(accept), "text/csv") {
			q.mediaType = "text/csv; charset=utf-8; header=present"
		}
		return i.send(t, q)
	}
	const rows = `[{"day":"2026-02-28","users":7},{"day":"2026-03-01","users":0},{"day":"2026-03-02","users":1099511627776}]`
	const table = "day,users\r\n2026-02-28,7\r\n2026-03-01,0\r\n2026-03-02,1099511627776\r\n"
	const query = "?from=2026-02-28&to=2026-03-02"
	for _, accept := range []string{"", "*/*", "application/json", "text/html, */*;q=0.8", "text/tab-separated-values", "application/csv", ";", "text/*"} {
		get(query, "Accept: "+accept).want(t, 200, rows)
	}
	for _, accept := range []string{"text/csv", "Text/CSV; header=present", "application/json;q=0.5 , text/csv"} {
		answer := get(query, "Accept: "+accept, "Accept: text/csv")
		answer.want(t, 200, table)
		if answer.Header.Get("Vary") != "Accept" {
			t.Errorf("Vary %q", answer.Header.Get("Vary"))
		}
	}
	get("?from=2026-03-01&to=2026-03-01").want(t, 200, `[{"day":"2026-03-01","users":0}]`)
	if got := get("?to=2026-03-02").Body; !strings.HasPrefix(got, `[{"day":"2026-02-01"`) || !strings.HasSuffix(got, `"2026-03-02","users":1099511627776}]`) {
		t.Errorf("thirty days to a day: %s", got)
	}
	if got := get("?from=2016-02-26&to=2026-03-04").Body; strings.Count(got, "day") != 3660 {
		t.Errorf("%d days of 3660", strings.Count(got, "day"))
	}

	refused := func(keys string) string {
		return `{"code":400,"errno":101,"error":"Bad Request","message":"Invalid request parameter","validation":{"source":"query","keys":[` + keys + `]}}`
	}
	for query, keys := range map[string]string{
		"?from=" + payload:                 `"from"`,
		"?from=":                           `"from"`,
		"?from=2026-2-28":                  `"from"`,
		"?from=2026-02-30&to=2026-03-02":   `"from"`,
		"?from=2026-02-28T00:00:00Z":       `"from"`,
		"?from=2026-02-28&from=2026-02-28": `"from"`,
		"?from=2026-02-28&to=tomorrow":     `"to"`,
		"?to=20260302":                     `"to"`,
		"?from=x&to=x":                     `"from","to"`,
		"?from=2026-03-02&to=2026-03-01":   `"from","to"`,
		"?from=9999-01-01":                 `"from","to"`,
		"?from=2016-02-25&to=2026-03-04":   `"from","to"`,
		"?from=0000-01-01&to=9999-12-31":   `"from","to"`,
	} {
		get(query).want(t, 400, refused(keys))
	}
}
