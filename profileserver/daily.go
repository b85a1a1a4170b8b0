package profileserver

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// maxDays is ten years, with their leap days.
const maxDays = 3660

// daily answers with how many users recorded an opt-out on each day (UTC) from
// the one to the other, both included: JSON, or CSV where Accept names it.
func (s *Server) daily(w http.ResponseWriter, r *http.Request) *failure {
	now := time.Now()
	if refused := s.mayOperate(r, optoutapi.ReadScope, now); refused != nil {
		return refused
	}
	from, to, refused := days(r.URL.Query(), now)
	if refused != nil {
		return refused
	}
	counts, err := prefstore.DailyCounts(r.Context(), s.store, from, to)
	if err != nil {
		return s.failed(r, err)
	}

	w.Header().Add("Vary", "Accept")
	if !accepts(r.Header, "text/csv") {
		body, _ := json.Marshal(counts) // numbers and strings always have a JSON form
		writeJSON(w, http.StatusOK, body)
		return nil
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.WriteHeader(http.StatusOK)
	_ = prefstore.WriteDailyCSV(w, counts, "\r\n") // RFC 4180, 2; whoever asked may be gone
	return nil
}

// days reads the query. Without to, it is today; without from, it is so that
// there are thirty days.
func days(query url.Values, now time.Time) (from, to time.Time, refused *failure) {
	to, toErr := parseDay(query["to"], now.UTC().Truncate(24*time.Hour))
	from, fromErr := parseDay(query["from"], to.AddDate(0, 0, 1-prefstore.DefaultDays))
	switch {
	case fromErr != nil && toErr != nil:
		return from, to, badRange
	case fromErr != nil:
		return from, to, badFrom
	case toErr != nil:
		return from, to, badTo
	case from.After(to), !from.After(to.AddDate(0, 0, -maxDays)):
		return from, to, badRange
	}
	return from, to, nil
}

func parseDay(values []string, otherwise time.Time) (time.Time, error) {
	switch len(values) {
	case 0:
		return otherwise, nil
	case 1:
		return time.Parse(time.DateOnly, values[0])
	}
	return time.Time{}, fmt.Errorf("%d days where one is wanted", len(values))
}

// accepts reports whether the request's Accept names this media type, in so
// many words.
func accepts(h http.Header, want string) bool {
	for media := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		if name, _, err := mime.ParseMediaType(media); err == nil && name == want {
			return true
		}
	}
	return false
}
