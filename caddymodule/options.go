package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// options are the words that a block of the Caddyfile knows. The parser is
// strict: an unknown word, a second mention, a missing or a surplus argument
// is an error that says what to write instead, since an option that is
// silently ignored is how a gate stands open.
type options map[string]option

// option parses what follows a word, up to the end of its line or block.
type option struct {
	// usage shows the arguments, for errors.
	usage string
	parse func(d *caddyfile.Dispenser) error
	// repeats allows the word more than once.
	repeats bool
}

// parse reads the block that follows the current token, if there is one. In
// errors, where is the path of words that leads to it.
func (o options) parse(d *caddyfile.Dispenser, where string) error {
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		option, known := o[word]
		if !known {
			return d.Errf("%s: unknown option %q%s; the options are %s", where, word, o.nearest(word), strings.Join(o.words(), ", "))
		}
		if seen[word] && !option.repeats {
			return d.Errf("%s: %s is set twice; leave one out", where, word)
		}
		seen[word] = true
		if err := option.read(d, where, word); err != nil {
			return err
		}
	}
	return nil
}

func (o option) read(d *caddyfile.Dispenser, where, word string) error {
	usage := strings.TrimSpace(word + " " + o.usage)
	line := d.Line()
	if err := o.parse(d); err != nil {
		if err == errUsage { //nolint:errorlint // never wrapped
			return d.Errf("%s: %q is incomplete; write: %s", where, word, usage)
		}
		if wrong, ok := err.(valueError); ok { //nolint:errorlint // never wrapped
			return d.Errf("%s › %s: %s", where, word, string(wrong))
		}
		return err
	}
	if d.NextArg() {
		return d.Errf("%s: %q is too much; write: %s", where, d.Val(), usage)
	}
	if d.Line() == line && d.NextBlock(d.Nesting()) {
		return d.Errf("%s: %s takes no block; write: %s", where, word, usage)
	}
	return nil
}

func (o options) words() []string { return slices.Sorted(maps.Keys(o)) }

// nearest suggests the known word that a typing mistake has probably meant.
func (o options) nearest(word string) string {
	for _, known := range o.words() {
		if distance(word, known) <= 2 {
			return " (did you mean " + known + "?)"
		}
	}
	return ""
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// errUsage stands for "show how the option is written".
var errUsage = errors.New("incomplete")

// valueError says what is wrong with the argument of an option; the parser
// adds where that is.
type valueError string

func (w valueError) Error() string { return string(w) }

// text is an option with one argument.
func text(usage string, target *string) option {
	return option{usage: usage, parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return errUsage
		}
		*target = d.Val()
		return nil
	}}
}

// list is an option with one or more arguments that may be repeated.
func list(usage string, target *[]string) option {
	return option{usage: usage, repeats: true, parse: func(d *caddyfile.Dispenser) error {
		values := d.RemainingArgs()
		if len(values) == 0 {
			return errUsage
		}
		*target = append(*target, values...)
		return nil
	}}
}

// choice is an option whose argument is one of a few words.
func choice(target *string, words ...string) option {
	usage := strings.Join(words, "|")
	return option{usage: usage, parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return errUsage
		}
		if !slices.Contains(words, d.Val()) {
			return valueError(fmt.Sprintf("%q is not one of %s", d.Val(), strings.Join(words, ", ")))
		}
		*target = d.Val()
		return nil
	}}
}

// onOff is an option that is on or off.
func onOff(set func(on bool)) option {
	var word string
	inner := choice(&word, "on", "off")
	return option{usage: inner.usage, parse: func(d *caddyfile.Dispenser) error {
		if err := inner.parse(d); err != nil {
			return err
		}
		set(word == "on")
		return nil
	}}
}

// flag is an option without arguments.
func flag(target *bool) option {
	return option{parse: func(*caddyfile.Dispenser) error {
		*target = true
		return nil
	}}
}

// duration is an option whose argument is a length of time of at least so
// much, such as 300ms.
func duration(atLeast time.Duration, set func(caddy.Duration)) option {
	return option{usage: "<duration, such as 300ms or 1m>", parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return errUsage
		}
		value, err := caddy.ParseDuration(d.Val())
		switch {
		case err != nil:
			return valueError(fmt.Sprintf("%q is not a duration; write one such as 300ms, 5s or 1m", d.Val()))
		case value < atLeast:
			return valueError(fmt.Sprintf("%q is too short; write at least %v", d.Val(), atLeast))
		}
		set(caddy.Duration(value))
		return nil
	}}
}

// number is an option whose argument is a whole number above zero.
func number(target *int) option {
	return option{usage: "<number>", parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return errUsage
		}
		value, err := strconv.Atoi(d.Val())
		if err != nil || value < 1 {
			return valueError(fmt.Sprintf("%q is not a whole number above zero", d.Val()))
		}
		*target = value
		return nil
	}}
}
