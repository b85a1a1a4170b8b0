package metricsgate_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentedCaddyfiles adapts and validates every Caddyfile that a reader
// could copy out of the documentation.
func TestDocumentedCaddyfiles(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	folder := t.TempDir()
	// What the examples read and write in places that a test must not.
	local := strings.NewReplacer(
		"{file./etc/metrics-gate/gate.key}", "{file.caddymodule/testdata/keys/ed25519.key}",
		"{file./etc/metrics-gate/gate.pub}", "{file.caddymodule/testdata/keys/ed25519.pub}",
		"{file./etc/metrics-gate/session.secret}", "{file.caddymodule/testdata/keys/shared.secret}",
		"{file./etc/metrics-gate/session.pub}", "{file.caddymodule/testdata/keys/session.pub}",
		"{file./etc/metrics-gate/session-new.pub}", "{file.caddymodule/testdata/keys/ed25519.pub}",
		"{file.gate.key}", "{file.caddymodule/testdata/keys/ed25519.key}",
		"{file.gate.pub}", "{file.caddymodule/testdata/keys/ed25519.pub}",
		"{file.session.secret}", "{file.caddymodule/testdata/keys/shared.secret}",
		"store sqlite profile.db", "store sqlite "+filepath.Join(folder, "own.db"),
		"{file./etc/metrics-gate/dsn}", "postgres://profile@localhost:1/profile",
		"{env.PRIVACY_API_TOKEN}", "{file.caddymodule/testdata/keys/shared.secret}",
		"/var/lib/metrics-gate", folder,
	)
	found := 0
	for _, page := range append(pages, "README.md") {
		for i, match := range fence.FindAllStringSubmatch(read(t, page), -1) {
			found++
			t.Run(fmt.Sprintf("%s %d", filepath.Base(page), i+1), func(t *testing.T) {
				validate(t, "Caddyfile", local.Replace(match[1]))
			})
		}
	}
	if found < 3 {
		t.Errorf("only %d Caddyfiles were found in the documentation", found)
	}
}

// TestCaddyfileExample adapts and validates the example as it stands, where
// it is started: in the folder that holds it. Adapting also says where it is
// not formatted.
func TestCaddyfileExample(t *testing.T) {
	example := read(t, "Caddyfile.example")
	local := strings.ReplaceAll(example, " run/", " "+t.TempDir()+"/")
	if local == example {
		t.Error("the example no longer writes to run/, and this test may write to where it does")
	}
	// Caddy resolves imports from where the process was started.
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	validate(t, filepath.Join(folder, "Caddyfile.example"), local)
	demo := read(t, "examples/demo.caddyfile")
	if formatted := string(caddyfile.Format([]byte(demo))); formatted != demo {
		t.Error("run caddy fmt on examples/demo.caddyfile")
	}
}

func validate(t *testing.T, file, config string) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": file})
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	if len(warnings) > 0 {
		t.Errorf("%v\n%s", warnings, config)
	}
	var parsed caddy.Config
	if err := json.Unmarshal(adapted, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Errorf("%v\n%s", err, config)
	}
	// No example has a gate that nothing can come to; what has no gate is no error.
	if sites, err := caddymodule.SitesOf(adapted); err == nil {
		for _, unreachable := range sites.Unreachable() {
			t.Errorf("%+v\n%s", unreachable, config)
		}
	}
}

// TestDocumentedRules holds the table that a privacy officer reads against the
// one that decides.
func TestDocumentedRules(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	for _, row := range policy.Table {
		writeBack := ""
		if row.WriteBack {
			writeBack = "yes "
		}
		fmt.Fprintf(&want, "| %s | %s | %s | %s | `%s` | %s|\n", row.Session, row.Preference, row.Signal, row.Then, row.Reason, writeBack)
	}
	if text := read(t, "docs/rules.md"); !strings.Contains(text, want.String()) {
		t.Errorf("docs/rules.md lacks the rules table as the code has it:\n%s", want.String())
	}
}

// TestEveryPresetHasASection holds docs/applications.md against the presets: the
// line to write, what stays, and what to do about ids that may be devices.
func TestEveryPresetHasASection(t *testing.T) {
	t.Parallel()
	sections := strings.Split(read(t, "docs/applications.md"), "\n### ")
	request := regexp.MustCompile("`([A-Z,]+ /[^`]*)`")
	for _, name := range gate.PresetNames() {
		i := slices.IndexFunc(sections, func(section string) bool { return strings.Contains(section, "**Write** `preset "+name) })
		if i < 0 {
			t.Errorf("docs/applications.md has no section that says to write preset %s", name)
			continue
		}
		preset, _ := gate.PresetNamed(name)
		var want, stays []string
		for _, route := range preset.Routes {
			if route.Class == gate.ClassEssential {
				want = append(want, strings.Join(route.Methods, ",")+" "+route.Path)
			}
		}
		_, line, _ := strings.Cut(sections[i], "\n- **Stays**: ")
		line, _, _ = strings.Cut(line, "\n")
		for _, match := range request.FindAllStringSubmatch(line, -1) {
			stays = append(stays, match[1])
		}
		if diff := cmp.Diff(want, stays); diff != "" {
			t.Errorf("docs/applications.md, %s: what stays (-preset +page)\n%s", name, diff)
		}
		if strings.Contains(sections[i], "not_found null") != preset.DeviceIDs {
			t.Errorf("docs/applications.md, %s: not_found null is for presets whose ids may be devices, and for all of them", name)
		}
	}
}

// knownOptions provokes the parser into naming the options of a block; %s is
// where they stand.
func knownOptions(t *testing.T, block string) map[string]bool {
	t.Helper()
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("localhost {\n"+fmt.Sprintf(block, "no_such_option")+"\n}\n"), nil)
	_, words, ok := strings.Cut(fmt.Sprint(err), "the options are ")
	if !ok {
		t.Fatalf("%s: %v", block, err)
	}
	words, _, _ = strings.Cut(words, ", at ")
	known := map[string]bool{}
	for word := range strings.SplitSeq(words, ", ") {
		known[word] = true
	}
	return known
}

// TestGrammars holds the grammar in the comment of each UnmarshalCaddyfile
// against the words that the parser knows, block by block.
func TestGrammars(t *testing.T) {
	t.Parallel()
	optional, argument := regexp.MustCompile(`\[[^\]]*\]`), regexp.MustCompile(`<[^>]*>`)
	for file, want := range map[string]int{"caddymodule/caddyfile.go": 10, "caddymodule/profilemodule/caddyfile.go": 4} {
		type block struct {
			opened string // a line that opens it in a Caddyfile
			words  map[string]bool
		}
		var open []block
		compared := 0
		for _, line := range grammar(t, file) {
			word, _, _ := strings.Cut(line, " ")
			if word != "}" {
				if len(open) > 0 {
					open[len(open)-1].words[word] = true
				}
				if strings.HasSuffix(line, "{") {
					open = append(open, block{argument.ReplaceAllString(optional.ReplaceAllString(line, ""), "x"), map[string]bool{}})
				}
				continue
			}
			documented := open[len(open)-1].words
			text := "%s"
			for _, outer := range slices.Backward(open) {
				text = outer.opened + "\n" + text + "\n}"
			}
			open = open[:len(open)-1]
			if documented["<key>"] {
				continue // whatever the operator names
			}
			compared++
			if diff := cmp.Diff(knownOptions(t, text), documented); diff != "" {
				t.Errorf("%s, the grammar of\n%s (-parser +comment)\n%s", file, text, diff)
			}
		}
		if compared != want || len(open) > 0 {
			t.Errorf("%s: %d blocks were compared, want %d", file, compared, want)
		}
	}
}

// grammar returns the lines of the grammar in the comment of a file's
// UnmarshalCaddyfile.
func grammar(t *testing.T, file string) (lines []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, declared := range parsed.Decls {
		if function, ok := declared.(*ast.FuncDecl); ok && function.Name.Name == "UnmarshalCaddyfile" {
			for line := range strings.Lines(function.Doc.Text()) {
				if strings.HasPrefix(line, "\t") {
					lines = append(lines, strings.TrimSpace(line))
				}
			}
		}
	}
	return lines
}

// TestOptionTables holds the words that the parser knows against the tables of
// docs/reference.md.
func TestOptionTables(t *testing.T) {
	t.Parallel()
	sections := regexp.MustCompile(`(?m)^#{2,3} `).Split(read(t, "docs/reference.md"), -1)
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)")
	for heading, block := range map[string]string{
		"`metrics_gate": "metrics_gate {\n%s\n}",
		"`route`":       "metrics_gate {\nroute POST /x {\n%s\n}\n}",
		"`session jwt`": "metrics_gate {\nsession jwt {\n%s\n}\n}",
		"`session fxa ": "metrics_gate {\nsession fxa http://localhost {\n%s\n}\n}",
		"`session intr": "metrics_gate {\nsession introspect http://localhost {\n%s\n}\n}",
		"`profile <url": "metrics_gate {\nprofile http://localhost {\n%s\nauth mint {\n%[1]s\n}\n}\n}",
		"`handshake`":   "metrics_gate {\nhandshake {\n%s\n}\n}",
		"`signal`":      "metrics_gate {\nsignal {\n%s\n}\n}",
		"`profile_serv": "profile_server {\n%s\n}",
		"`events`":      "profile_server {\nevents {\n%s\n}\n}",
	} {
		want := map[string]bool{}
		for strings.Contains(block, "%") {
			maps.Copy(want, knownOptions(t, block))
			// The profile's section documents auth mint's options as well.
			if heading != "`profile <url" || want["client_id"] {
				break
			}
			block = "metrics_gate {\nprofile http://localhost {\nauth mint {\n%s\n}\n}\n}"
		}
		documented := map[string]bool{}
		for _, section := range sections {
			if !strings.HasPrefix(section, heading) {
				continue
			}
			for _, match := range row.FindAllStringSubmatch(section, -1) {
				documented[match[1]] = true
			}
		}
		if diff := cmp.Diff(want, documented); diff != "" {
			t.Errorf("%s (-parser +docs/reference.md)\n%s", heading, diff)
		}
	}
}

// TestMetricsAreDocumented holds docs/operate.md against the names that the
// code registers.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`caddy_(?:metrics_gate|profile_server)_[a-z_]+`)
	code := name.FindAllString(read(t, "caddymodule/metrics.go")+read(t, "caddymodule/profilemodule/metrics.go")+read(t, "caddymodule/internal/collectors/buildinfo.go"), -1)
	text := read(t, "docs/operate.md")
	for _, metric := range code {
		if !strings.Contains(text, "`"+metric) {
			t.Errorf("docs/operate.md does not name %s", metric)
		}
	}
	for _, metric := range name.FindAllString(text, -1) {
		if !slices.Contains(code, metric) {
			t.Errorf("docs/operate.md names %s, which does not exist", metric)
		}
	}
	if len(code) < 15 {
		t.Errorf("only %d metrics were found", len(code))
	}
}

// TestConfigFieldsAreDocumented makes sure that every JSON field has the
// comment which Caddy's website shows as its documentation.
func TestConfigFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	var files []string
	for _, folder := range []string{"caddymodule", "caddymodule/internal/bearertoken", "caddymodule/profilemodule", "gate"} {
		found, err := filepath.Glob(folder + "/*.go")
		if err != nil || len(found) == 0 {
			t.Fatal(folder, err)
		}
		files = append(files, found...)
	}
	fields := 0
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			structure, ok := node.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range structure.Fields.List {
				if field.Tag == nil || !strings.Contains(field.Tag.Value, `json:"`) {
					continue
				}
				fields++
				if comment := field.Doc.Text(); !strings.HasSuffix(strings.TrimSpace(comment), ".") {
					t.Errorf("%s: the field %s has no comment of full sentences", file, field.Names[0])
				}
			}
			return true
		})
	}
	if fields < 40 {
		t.Errorf("only %d fields were found", fields)
	}
}
