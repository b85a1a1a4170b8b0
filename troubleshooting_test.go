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

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
	credential "github.com/metricsgate/metricsgate/token"
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

// TestEveryLabelValueIsExplained holds docs/troubleshooting.md against the closed
// sets that labels take their values from.
func TestEveryLabelValueIsExplained(t *testing.T) {
	t.Parallel()
	_, page, _ := strings.Cut(read(t, "docs/troubleshooting.md"), "\n## By label\n")
	value := regexp.MustCompile("`([^`]+)`")
	explained := map[string][]string{} // by heading, and by label where there are several
	heading, label := "", ""
	for line := range strings.Lines(page) {
		cells := strings.Split(line, " | ")
		switch {
		case strings.HasPrefix(line, "### "):
			heading = strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(line, "### ")), "`", "")
		case strings.HasPrefix(line, "| `") && label == "":
			label = value.FindStringSubmatch(cells[0])[1]
		case strings.HasPrefix(line, "| "):
			for _, match := range value.FindAllStringSubmatch(cells[0], -1) {
				explained[heading+": "+label] = append(explained[heading+": "+label], match[1])
			}
		case !strings.HasPrefix(line, "|"):
			label = ""
		}
	}
	names := func(from, count int, name func(int) string) (all []string) {
		for i := from; i < count; i++ {
			all = append(all, name(i))
		}
		return all
	}
	// quoted are the texts that a file of a package has which this test cannot ask.
	quoted := func(file, pattern string) (all []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1) {
			if match[1] != "" {
				all = append(all, match[1])
			}
		}
		return all
	}
	for table, want := range map[string][]string{
		"decision and reason: reason":                 names(0, int(policy.ReasonCount), func(i int) string { return policy.Reason(i).String() }),
		"reply: reply":                                {gate.TraceShown, gate.TraceHidden, gate.TraceBlocked},
		"class of upstream replies: class":            append(quoted("gate/hidden.go", `reply(?:Aborted|Dropped) += "(\w+)"`), quoted("gate/hidden.go", `"([2-5]xx)"`)...),
		"outcome of sessions: outcome":                names(0, int(session.OutcomeCount), func(i int) string { return session.Outcome(i).String() }),
		"outcome of lookups: outcome":                 names(0, int(profileclient.LookupOutcomeCount), func(i int) string { return profileclient.LookupOutcome(i).String() }),
		"outcome of write-backs: outcome":             names(0, int(profileclient.WriteOutcomeCount), func(i int) string { return profileclient.WriteOutcome(i).String() }),
		"outcome of signals: outcome":                 names(0, int(gate.ReportOutcomeCount), func(i int) string { return gate.ReportOutcome(i).String() }),
		"outcome of feed connects: outcome":           names(0, int(profileclient.FeedOutcomeCount), func(i int) string { return profileclient.FeedOutcome(i).String() }),
		"event of the feed: event":                    names(0, int(profileclient.FeedEventCount), func(i int) string { return profileclient.FeedEvent(i).String() }),
		"outcome of key set fetches: outcome":         names(0, int(credential.FetchOutcomeCount), func(i int) string { return credential.FetchOutcome(i).String() }),
		"cause: cause":                                quoted("caddymodule/internal/collectors/unable.go", `(?m)^\t[A-Z]\w+ = "([a-z_]+)"$`),
		"event of traces: event":                      quoted("caddymodule/metrics.go", `trace\w+ += "(\w+)"`),
		"result of pages: result":                     append(names(1, int(browser.ResultCount), func(i int) string { return browser.Result(i).String() }), quoted("caddymodule/adapter.go", `pagesTotal.WithLabelValues\("(\w+)"`)...),
		"choice, and result of choices: choice":       names(1, int(browser.ChoiceCount), func(i int) string { return browser.Choice(i).String() }),
		"choice, and result of choices: result":       names(1, int(browser.ChoiceResultCount), func(i int) string { return browser.ChoiceResult(i).String() }),
		"cache: cache":                                quoted("caddymodule/metrics.go", `"(\w+)": +\w+[,}]`),
		"value and source of changes: value":          {"true", "false", "null", "deleted"},
		"value and source of changes: source":         {optoutapi.SourceUser, optoutapi.SourceBrowser, optoutapi.SourceAdmin},
		"endpoint and method: endpoint":               append(quoted("profileserver/server.go", `Path\]?(?: =|:) +(?:endpoint)?\{"(\w+)"`), optoutapi.Preference, "other"),
		"endpoint and method: method":                 append(methodsOf(quoted("profileserver/server.go", `(?s)\nfunc known(.*?)\n}\n`)), "other"),
		"event and result of security events: event":  append(quoted("profileserver/events.go", `return (?:kind|"([\w-]+)"), \w+, true`), append(quoted("profileserver/events.go", `case "(metrics-[\w-]+)":`), "none")...),
		"event and result of security events: result": {"changed", "unchanged", "ignored", "refused", "failed"},
		"kind of sessions: kind":                      {"jwt", "introspect", "user", "fxa", "own"},
	} {
		got := explained[table]
		slices.Sort(got)
		slices.Sort(want)
		if want = slices.Compact(want); !slices.Equal(got, want) {
			t.Errorf("docs/troubleshooting.md, %s: %q are explained, and %q are counted", table, got, want)
		}
		delete(explained, table)
	}
	if len(explained) > 0 {
		t.Errorf("docs/troubleshooting.md explains what no label has: %q", explained)
	}
}

// methodsOf are the methods that a piece of code names.
func methodsOf(code []string) (all []string) {
	for _, match := range regexp.MustCompile(`http\.Method(\w+)`).FindAllStringSubmatch(strings.Join(code, ""), -1) {
		all = append(all, strings.ToUpper(match[1]))
	}
	return all
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
		if known := beginning(text.X); known != "" {
			return known + beginning(text.Y)
		}
	}
	return ""
}
