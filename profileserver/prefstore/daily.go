package prefstore

import (
	"context"
	"fmt"
	"io"
	"time"
)

// DefaultDays is how many days are told to who does not say where to begin.
const DefaultDays = 30

// DailyCount is how many users recorded an opt-out on a day.
type DailyCount struct {
	// Day is the day (UTC), such as 2026-11-24.
	Day string `json:"day"`
	// Users is how many users there were.
	Users int64 `json:"users"`
}

// DailyCounts returns a count for each day (UTC) from the one to the other, both
// included, also where nobody opted out.
func DailyCounts(ctx context.Context, store Store, from, to time.Time) ([]DailyCount, error) {
	counts, err := store.Daily(ctx, from, to)
	if err != nil {
		return nil, err
	}
	users := make(map[string]int64, len(counts))
	for _, count := range counts {
		users[count.Day] = count.Users
	}
	var all []DailyCount
	for at := from; !at.After(to); at = at.AddDate(0, 0, 1) {
		name := day(at)
		all = append(all, DailyCount{name, users[name]})
	}
	return all, nil
}

// WriteDailyCSV writes counts as CSV with the header line day,users. The line
// end is the reader's: "\r\n" in a message (RFC 4180), "\n" in a terminal.
func WriteDailyCSV(w io.Writer, counts []DailyCount, lineEnd string) error {
	text := []byte("day,users" + lineEnd)
	for _, count := range counts {
		text = fmt.Appendf(text, "%s,%d%s", count.Day, count.Users, lineEnd)
	}
	_, err := w.Write(text)
	return err
}
