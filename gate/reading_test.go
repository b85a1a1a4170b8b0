package gate

import (
	"math/bits"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/tests/spellings"
)

// habits are what servers do to a path, each by itself. A server, and what is
// in front of it, may have any of them, in any order.
var habits = []func(path string) string{
	unescape,
	func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
	func(p string) string { return strings.NewReplacer("%2e", ".", "%2E", ".").Replace(p) },
	func(p string) string { before, _, _ := strings.Cut(p, ";"); return before },
	func(p string) string { // without parameters
		segments := strings.Split(p, "/")
		for i, segment := range segments {
			segments[i], _, _ = strings.Cut(segment, ";")
		}
		return strings.Join(segments, "/")
	},
	func(p string) string { // without what may be a host
		if !strings.HasPrefix(p, "//") {
			return p
		}
		_, behind, _ := strings.Cut(strings.TrimLeft(p, "/"), "/")
		return "/" + behind
	},
	func(p string) string { // with single slashes
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		return p
	},
	func(p string) string { // RFC 3986, section 5.2.4, where empty segments are segments
		var kept []string
		segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
		for i, segment := range segments {
			switch segment {
			case "..":
				kept = kept[:max(0, len(kept)-1)]
				fallthrough
			case ".":
				if i == len(segments)-1 {
					kept = append(kept, "")
				}
			default:
				kept = append(kept, segment)
			}
		}
		return "/" + strings.Join(kept, "/")
	},
	func(p string) string { return path.Clean("/" + p) },
}

// readBy is how servers with some of the habits, in the order of the numbers,
// read the path of a request's target: as it was sent, and as a proxy sends it
// on. Escapes are decoded once, as by every server.
func readBy(target string, order []byte) (paths []string) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil
	}
	for _, sent := range []string{u.RequestURI(), target} {
		path := sent
		if end := strings.IndexAny(sent, "?#"); end >= 0 {
			path = sent[:end]
		}
		if !strings.HasPrefix(path, "/") && u.Opaque == "" {
			continue
		}
		unescaped := false
		for _, habit := range order {
			if n := int(habit) % len(habits); n > 0 || !unescaped {
				path = habits[n](path)
				unescaped = unescaped || n == 0
			}
		}
		if !unescaped {
			path = unescape(path)
		}
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		paths = append(paths, path)
	}
	return paths
}

// checkReading holds the gate against servers with these habits.
func checkReading(t *testing.T, table *routeTable, method, target string, order []byte) {
	t.Helper()
	for _, path := range readBy(target, order) {
		u, _ := url.ParseRequestURI(target)
		if got := table.matchURL(method, u); got != nil && !got.essential {
			return
		}
		if route := table.spelt(method, path); route != nil && !route.essential {
			t.Fatalf("%s %s passes, and may be read as %s by %v", method, target, path, order)
		}
	}
}

func readingTable() *routeTable {
	var table routeTable
	for _, route := range []Route{
		{Methods: []string{"GET"}, Path: "/beacon"},
		{Methods: []string{"GET"}, Path: "/a/*/b"},
		{Methods: []string{"GET"}, Path: "/t/*"},
		{Methods: []string{"GET"}, Path: "/t/keep", Class: ClassEssential},
		{Methods: []string{"POST"}, Path: "/"},
		{Methods: []string{"POST"}, Path: "/x/*/y/*"},
	} {
		table.add(route.prepare())
	}
	return &table
}

// TestEveryReadingIsGated tries paths that are made of whatever servers read
// differently.
func TestEveryReadingIsGated(t *testing.T) {
	t.Parallel()
	table := readingTable()
	random := rand.New(rand.NewPCG(1, 2))
	words := []string{
		"/", "/", "/", "//", `\`, "%2f", "%5c", ".", "..", "%2e", ";", "%3b", "#", "%23", "%25", "?",
		"beacon", "Beacon", "%62eacon", "a", "b", "t", "keep", "x", "y", "/beacon", "/t/", "/t/keep", "/..", "/.", "/a/x/b", "http:",
	}
	for range 60_000 {
		var target strings.Builder
		target.WriteByte('/')
		for range 1 + random.IntN(9) {
			target.WriteString(words[random.IntN(len(words))])
		}
		order := make([]byte, random.IntN(8))
		for i := range order {
			order[i] = byte(random.IntN(len(habits)))
		}
		spelling := target.String()
		if random.IntN(8) == 0 {
			spelling = "http:" + spelling[1:]
		}
		checkReading(t, table, []string{"GET", "POST", "head"}[random.IntN(3)], spelling, order)
	}
}

// TestHabitsExplainTheTable makes sure that these are the habits of real
// servers: by some of them, whatever one took for a route is read as that.
func TestHabitsExplainTheTable(t *testing.T) {
	t.Parallel()
	tables := map[string]*routeTable{}
	for _, route := range spellings.Routes {
		tables[route.Path] = new(routeTable)
		tables[route.Path].add((&Route{Methods: []string{route.Method}, Path: route.Path}).prepare())
	}
	var orders [][]byte
	for length := range 5 { // the shorter ones first
		for chosen := range 1 << len(habits) {
			if bits.OnesCount(uint(chosen)) != length {
				continue
			}
			var order []byte
			for habit := range len(habits) {
				if chosen>>habit&1 != 0 {
					order = append(order, byte(habit))
				}
			}
			orders = append(orders, order)
		}
	}
	explained := 0
	for _, row := range spellings.Table() {
		if u, err := url.ParseRequestURI(row.Target); err != nil || u.RequestURI() != row.Target {
			continue // a proxy would not send it on like this
		}
		for path, letters := range row.Took {
			explained++
			explains := func(order []byte) bool {
				return slices.ContainsFunc(readBy(row.Target, order), func(read string) bool { return tables[path].spelt(row.Method, read) != nil })
			}
			if !strings.EqualFold(row.Method, http.MethodHead) && !slices.ContainsFunc(orders, explains) {
				t.Errorf("%s is %s for %s, and no habits say why", row.Request, path, letters)
			}
		}
	}
	if explained < 1000 {
		t.Errorf("the table has only %d rows that a proxy sends on as they came", explained)
	}
}

// FuzzReading does what TestEveryReadingIsGated does with what the fuzzer finds.
func FuzzReading(f *testing.F) {
	for _, target := range []string{
		"/beacon", "/a%2fb/../beacon", "/x//../beacon", "//host/beacon", `/x\..\beacon`, "/beacon;x", "/;a/beacon", "/beacon;/x/y",
		"/t/keep;x", "/t/KEEP", "/q%2f..;x%2fy/beacon", "/a/x%2fy/b", "/a/%2e%2e/../beacon", "http:beacon", "/beacon#x", "/beacon%3bx",
	} {
		f.Add("GET", target, []byte{3, 0, 8})
		f.Add("POST", target, []byte{1, 6, 2, 8, 0})
	}
	table := readingTable()
	f.Fuzz(func(t *testing.T, method, target string, order []byte) {
		checkReading(t, table, method, target, order[:min(len(order), 12)])
	})
}
