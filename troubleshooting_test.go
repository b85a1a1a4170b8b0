package metricsgate_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logged is a message that the code logs, or its beginning where the rest is only
// known when it is logged.
type logged struct {
	at, message string
}

// TestEveryLogMessageIsExplained holds docs/troubleshooting.md against the code:
// each message that is logged has a row, and each row is of such a message.
func TestEveryLogMessageIsExplained(t *testing.T) {
	t.Parallel()
	messages := logMessages(t)
	_, rows, _ := strings.Cut(read(t, "docs/troubleshooting.md"), "\n## By message\n")
	rows, _, _ = strings.Cut(rows, "\n## ")
	var explained []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(rows, -1) {
		explained = append(explained, strings.TrimSuffix(match[1], " …"))
	}
	for _, m := range messages {
		if !slices.ContainsFunc(explained, func(row string) bool { return strings.HasPrefix(m.message, row) }) {
			t.Errorf("docs/troubleshooting.md explains no message that begins as this one, logged at %s: %s", m.at, m.message)
		}
	}
	for _, row := range explained {
		if !slices.ContainsFunc(messages, func(m logged) bool { return strings.HasPrefix(m.message, row) }) {
			t.Errorf("docs/troubleshooting.md explains a message that nothing logs: %s", row)
		}
	}
	if len(messages) < 40 {
		t.Errorf("only %d messages were found", len(messages))
	}
}

// logMessages finds what the rooms log: the first argument of Debug, Info, Warn and
// Error of whatever is called a log or a logger, and the troubles of a gate's warnings.
func logMessages(t *testing.T) (found []logged) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (path == "internal" || path == "tests" || path == "tools" || entry.Name() == "testdata"):
			return fs.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			var message ast.Expr
			switch node := node.(type) {
			case *ast.CallExpr:
				method, ok := node.Fun.(*ast.SelectorExpr)
				if ok && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) && isLogger(method.X) && len(node.Args) > 0 {
					message = node.Args[0]
				}
			case *ast.ValueSpec:
				if node.Names[0].Name == "troubles" {
					for _, trouble := range node.Values[0].(*ast.CompositeLit).Elts {
						element := trouble.(*ast.KeyValueExpr).Value.(*ast.CompositeLit).Elts[0]
						found = append(found, logged{files.Position(element.Pos()).String(), beginning(element)})
					}
				}
			}
			if text := beginning(message); text != "" {
				found = append(found, logged{files.Position(node.Pos()).String(), text})
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// isLogger says whether a log is what the expression is of.
func isLogger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.HasSuffix(strings.ToLower(x.Name), "log") || strings.HasSuffix(strings.ToLower(x.Name), "logger")
	case *ast.SelectorExpr:
		return isLogger(x.Sel)
	case *ast.CallExpr: // caddy.Log().Named(…)
		method, ok := x.Fun.(*ast.SelectorExpr)
		return ok && (method.Sel.Name == "Log" || isLogger(method.X))
	}
	return false
}

// beginning is what is known of a text before the program runs.
func beginning(text ast.Expr) string {
	switch text := text.(type) {
	case *ast.BasicLit:
		value, _ := strconv.Unquote(text.Value)
		return value
	case *ast.BinaryExpr:
		if _, known := text.X.(*ast.BasicLit); known || beginning(text.X) != "" {
			return beginning(text.X) + beginning(text.Y)
		}
	}
	return ""
}
