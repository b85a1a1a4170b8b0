package metricsgate_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/metricsgate/metricsgate"

// mayImport says which rooms of this module each room may import: those below
// it, never above or beside it. ARCHITECTURE.md has the picture and the reasons.
// Mains, tests and what only tests use may import everything.
var mayImport = map[string]string{
	".": "caddymodule caddymodule/command caddymodule/profilemodule",

	"caddymodule":               "gate browser session profileclient token policy internal/build " + caddysOwn,
	"caddymodule/command":       "caddymodule gate session survey browser/firefox profileserver/prefstore token policy " + caddysOwn,
	"caddymodule/profilemodule": "profileserver profileserver/prefstore browser token policy " + caddysOwn,

	"caddymodule/internal/bearertoken": "token caddymodule/internal/grammar caddymodule/internal/located caddymodule/internal/placeholder caddymodule/internal/pool",
	"caddymodule/internal/collectors":  "token internal/build",
	"caddymodule/internal/grammar":     "caddymodule/internal/placeholder",
	"caddymodule/internal/located":     "token",
	"caddymodule/internal/placeholder": "caddymodule/internal/located",
	"caddymodule/internal/pool":        "",
	"caddymodule/internal/siblings":    "",
	"caddymodule/internal/span":        "",
	"caddymodule/internal/status":      "token",

	"survey":                  "gate",
	"gate":                    "browser session profileclient policy internal/health",
	"browser/firefox":         "browser",
	"browser":                 "policy",
	"session":                 "token policy internal/generations",
	"profileclient":           "token policy internal/generations internal/health internal/optoutapi",
	"profileserver":           "profileserver/prefstore token policy internal/build internal/optoutapi",
	"profileserver/prefstore": "policy internal/optoutapi",
	"token":                   "internal/generations internal/health internal/optoutapi",
	"internal/optoutapi":      "",
	"internal/build":          "",
	"internal/generations":    "",
	"internal/health":         "",
	"policy":                  "",
}

const caddysOwn = "caddymodule/internal/bearertoken caddymodule/internal/collectors caddymodule/internal/grammar " +
	"caddymodule/internal/located caddymodule/internal/placeholder caddymodule/internal/pool " +
	"caddymodule/internal/siblings caddymodule/internal/span caddymodule/internal/status"

// unbound says whether a room is a main, or for tests only.
func unbound(room string) bool {
	return slices.Contains([]string{"cmd", "examples", "tests", "tools"}, strings.Split(room, "/")[0]) ||
		strings.HasPrefix(room, "internal/bench") || strings.HasPrefix(room, "internal/test") ||
		room == "caddymodule/internal/adapttest" || room == "caddymodule/internal/placeholdertest"
}

// TestImportsGoDown holds what rooms import against mayImport, and that nothing
// outside of caddymodule, the mains and the tests imports Caddy.
func TestImportsGoDown(t *testing.T) {
	t.Parallel()
	imports := importsOfRooms(t)
	for _, room := range slices.Sorted(maps.Keys(imports)) {
		allowed, listed := mayImport[room]
		if unbound(room) {
			continue
		}
		if !listed {
			t.Errorf("%s is a new room; write into mayImport what it may import, and into ARCHITECTURE.md what it is for", room)
			continue
		}
		for imported := range imports[room] {
			inside, ours := strings.CutPrefix(imported, module+"/")
			switch {
			case ours && !slices.Contains(strings.Fields(allowed), inside):
				t.Errorf("%s may not import %s, which is not below it", room, inside)
			case strings.HasPrefix(imported, "github.com/caddyserver/") && !strings.HasPrefix(room, "caddymodule"):
				t.Errorf("%s may not import Caddy (%s): only caddymodule and the mains do", room, imported)
			}
		}
	}
	for room, allowed := range mayImport {
		for _, other := range append(strings.Fields(allowed), room) {
			if imports[other] == nil {
				t.Errorf("mayImport names %s, which is not there", other)
			}
		}
	}
}

// importsOfRooms returns what the packages of this module import, without their
// tests, by folder.
func importsOfRooms(t *testing.T) map[string]map[string]bool {
	t.Helper()
	rooms := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && file != "." || entry.Name() == "testdata" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := path.Dir(filepath.ToSlash(file))
		if rooms[room] == nil {
			rooms[room] = map[string]bool{}
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			rooms[room][imported] = true
		}
		return nil
	})
	if err != nil || len(rooms) < len(mayImport) {
		t.Fatalf("%d rooms, %v", len(rooms), err)
	}
	return rooms
}
