// Command dockerlint holds Dockerfiles against the checks that docker build
// --check makes, by BuildKit's own parser, where no Docker runs.
package main

import (
	"fmt"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	found := 0
	for _, name := range os.Args[1:] {
		say := func(message string, at []parser.Range) {
			found++
			line := 1
			if len(at) > 0 {
				line = at[0].Start.Line
			}
			fmt.Fprintf(os.Stderr, "%s:%d: %s\n", name, line, message)
		}
		if err := lint(name, say); err != nil {
			say(err.Error(), nil)
		}
	}
	if found > 0 {
		os.Exit(1)
	}
}

func lint(name string, say func(message string, at []parser.Range)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	parsed, err := parser.Parse(file)
	if err != nil {
		return err
	}
	for _, warning := range parsed.Warnings {
		say(warning.Short, []parser.Range{*warning.Location})
	}
	_, _, err = instructions.Parse(parsed.AST, linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, at []parser.Range) { say(rule+": "+message, at) },
	}))
	return err
}
