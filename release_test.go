//go:build linux

package metricsgate_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReleaseRefuses runs tools/release.sh where it must not build anything.
func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	const script = "tools/release.sh"
	tree := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = tree
		command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
			"GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org")
		out, err := command.CombinedOutput()
		return string(out), err
	}
	git := func(args ...string) {
		if out, err := run("git", args...); err != nil {
			t.Fatalf("git %v: %v, %s", args, err, out)
		}
	}
	refused := func(version, message string) {
		if out, err := run("bash", script, version); err == nil || !strings.Contains(out, message) {
			t.Errorf("%q: %v, %q; want %q", version, err, out, message)
		}
	}
	write := func(path, text string) {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(script, read(t, script))
	write("CHANGELOG.md", "## [1.2.0]\n")
	git("init", "--quiet")

	for _, version := range []string{"", "1.2.0", "v1.2", "v1.02.0", "v1.2.0-01", "v1.2.0+meta", "v1.2.0 "} {
		refused(version, "is not a semantic version; write one such as v0.1.0")
	}
	refused("v1.2.0", "there are changes that no commit holds")
	git("add", "--all")
	git("commit", "--quiet", "--message=first")
	refused("v1.3.0-rc.1", "CHANGELOG.md has no section ## [1.3.0-rc.1]")
	git("tag", "v1.2.0")
	write("CHANGELOG.md", "## [1.2.0] - unreleased\n")
	git("commit", "--quiet", "--message=unreleased", "--all")
	git("tag", "--force", "v1.2.0")
	refused("v1.2.0", "CHANGELOG.md calls 1.2.0 unreleased; write the day in its place")
	git("commit", "--quiet", "--message=second", "--allow-empty")
	refused("v1.2.0", "the tag v1.2.0 is on ")
}

// TestReleaseNotes holds what the page of a release says against the changelog,
// and what it and docs/install.md have a reader type against go.mod.
func TestReleaseNotes(t *testing.T) {
	t.Parallel()
	section := regexp.MustCompile(`(?s)\n## \[([0-9.]+)\][^\n]*\n(.*?)(?:\n## |\n\[|$)`).FindStringSubmatch(read(t, "CHANGELOG.md"))
	if section == nil {
		t.Fatal("CHANGELOG.md has no version")
	}
	version := "v" + section[1]
	out, err := exec.CommandContext(t.Context(), "bash", "tools/release-notes.sh", version).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	notes, link := string(out), regexp.MustCompile(`\]\(([^)]*)\)`)
	for _, linked := range link.FindAllStringSubmatch(notes, -1) {
		path, inTree := strings.CutPrefix(linked[1], "https://"+module+"/blob/"+version+"/")
		if path, _, _ = strings.Cut(path, "#"); inTree {
			_, err = os.Stat(path)
		}
		if !inTree || err != nil {
			t.Errorf("the link %s leads nowhere: %v", linked[1], err)
		}
	}
	if definition := regexp.MustCompile(`(?m)^\[.*\]: `).FindString(notes); definition != "" {
		t.Errorf("the notes end what is the changelog's: %s", definition)
	}
	withoutLinks := func(text string) string { return link.ReplaceAllString(text, "]") }
	if !strings.HasPrefix(withoutLinks(notes), strings.TrimSpace(withoutLinks(section[2]))) {
		t.Errorf("the notes are not the changelog's section:\n%s", notes)
	}
	caddy := regexp.MustCompile(`github.com/caddyserver/caddy/v2 (v\S+)`).FindStringSubmatch(read(t, "go.mod"))
	build := " build " + caddy[1] + " --with " + module + "@" + version + "\n"
	for name, text := range map[string]string{"the notes": notes, "docs/install.md": read(t, "docs/install.md")} {
		if !strings.Contains(text, build) {
			t.Errorf("%s should say %q", name, build)
		}
	}
}

// TestReleaseHoldsWhatItsPagesLinkTo holds the paths that tools/release.sh puts
// into an archive against the links of the pages among them.
func TestReleaseHoldsWhatItsPagesLinkTo(t *testing.T) {
	t.Parallel()
	archived := regexp.MustCompile(`(?s)git archive HEAD (.*?) \|`).FindStringSubmatch(read(t, "tools/release.sh"))
	if archived == nil {
		t.Fatal("tools/release.sh archives nothing")
	}
	paths := strings.Fields(strings.ReplaceAll(archived[1], "\\\n", " "))
	holds := func(path string) bool {
		return slices.ContainsFunc(paths, func(kept string) bool { return path == kept || strings.HasPrefix(path, kept+"/") })
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
	}
	link, links := regexp.MustCompile(`\]\(([\w./-]+)(?:#[^)]*)?\)`), 0
	for _, page := range pages {
		for _, linked := range link.FindAllStringSubmatch(read(t, page), -1) {
			path := filepath.Join(filepath.Dir(page), linked[1])
			links++
			if _, err := os.Stat(path); err != nil || !holds(path) {
				t.Errorf("%s has a link to %s, which the archive does not hold (%v)", page, path, err)
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links were found", links)
	}
}

// TestModuleCanBeFetched has Go itself fetch this module by a tag, as xcaddy has it
// do: it refuses names and sizes that a module must not have, and leaves out what
// belongs to another module, which is how an embedded file could be missing.
func TestModuleCanBeFetched(t *testing.T) {
	t.Parallel()
	const version = "v0.1.0"
	origin, cache := filepath.Join(t.TempDir(), "origin"), t.TempDir()
	run := func(folder string, args ...string) []byte {
		command := exec.CommandContext(t.Context(), args[0], args[1:]...)
		command.Dir = folder
		var problems strings.Builder
		command.Stderr = &problems
		out, err := command.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s%s", args, err, out, problems.String())
		}
		return out
	}
	run(".", "git", "clone", "--quiet", "--no-tags", ".", origin)
	run(origin, "git", "tag", version)
	var fetched struct{ Dir string }
	out := run(cache, "env", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url.file://"+origin+".insteadOf", "GIT_CONFIG_VALUE_0=https://"+module,
		"GOPRIVATE="+module, "GOFLAGS=-modcacherw", "GOMODCACHE="+cache, "go", "mod", "download", "-json", module+"@"+version)
	if err := json.Unmarshal(out, &fetched); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(fetched.Dir, "LICENSE")); err != nil {
		t.Error(err)
	}
	// This fails where a file is not there that a package embeds.
	if packages := string(run(fetched.Dir, "go", "list", "./...")); packages != string(run(".", "go", "list", "./...")) {
		t.Errorf("the module has other packages than this tree:\n%s", packages)
	}
}

// TestLicences finds every module of the binary in the text that goes with it.
func TestLicences(t *testing.T) {
	t.Parallel()
	var problems strings.Builder
	command := exec.CommandContext(t.Context(), "bash", "tools/licences.sh")
	command.Stderr = &problems
	licences, err := command.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, problems.String())
	}
	modules, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/caddy").Output()
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for name := range strings.FieldsSeq(strings.ReplaceAll(string(modules), " ", "@")) {
		path, version, _ := strings.Cut(name, "@")
		if named++; !strings.Contains(string(licences), "\n"+path+" "+version+": ") {
			t.Errorf("the licence of %s is missing", name)
		}
	}
	for _, want := range []string{"\nthe Go standard library, go", "Copyright 2009 The Go Authors", "Apache License", "Permission is hereby granted"} {
		if !strings.Contains(string(licences), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if named < 100 {
		t.Errorf("only %d modules", named)
	}
}
