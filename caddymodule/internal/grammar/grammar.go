package grammar

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
)

// Options are the words that a block of the Caddyfile knows. The parser is
// strict: an unknown word, a second mention, a missing or a surplus argument
// is an error that says what to write instead, since an option that is
// silently ignored is how a gate stands open.
type Options map[string]Option

// Option parses what follows a word, up to the end of its line or block.
type Option struct {
	// Usage shows the arguments, for errors.
	Usage string
	// Parse reads the arguments and, where the option has one, its block. It
	// returns ErrUsage or a ValueError, to which place and word are added, or
	// an error that says by itself where it is.
	Parse func(d *caddyfile.Dispenser) error
	// Repeats allows the word more than once. Default: false.
	Repeats bool
	// Elsewhere is how a word is written that is often taken for an option of the
	// block and is none. The other fields are empty then.
	Elsewhere string
}

// Parse reads the block that follows the current token, if there is one. In
// errors, where is the path of words that leads to it.
func (o Options) Parse(d *caddyfile.Dispenser, where string) error {
	if d.NextArg() {
		return d.Errf("%s: unexpected %q; write each option on a line of its own, in a block of { and }", where, d.Val())
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		option, known := o[word]
		switch {
		case option.Elsewhere != "":
			return d.Errf("%s: %s is no option of the block; write: %s", where, word, option.Elsewhere)
		case !known && slices.Contains(directives, word):
			return d.Errf("%s: %s is a directive of its own, and no option; write the } that is missing in front of it", where, word)
		case !known:
			return d.Errf("%s: unknown option %q%s; the options are %s", where, word, DidYouMean(word, o.words()), strings.Join(o.words(), ", "))
		}
		if seen[word] && !option.Repeats {
			return d.Errf("%s: %s is set twice; leave one out", where, word)
		}
		seen[word] = true
		if err := option.read(d, where, word); err != nil {
			return err
		}
	}
	return nil
}

func (o Option) read(d *caddyfile.Dispenser, where, word string) error {
	usage := strings.TrimSpace(word + " " + o.Usage)
	line := d.Line()
	if err := o.Parse(d); err != nil {
		if err == ErrUsage { //nolint:errorlint // never wrapped
			return d.Errf("%s: %q is incomplete; write: %s", where, word, usage)
		}
		if wrong, ok := err.(ValueError); ok { //nolint:errorlint // never wrapped
			return d.Errf("%s › %s: %s", where, word, string(wrong))
		}
		return err
	}
	if d.NextArg() {
		return d.Errf("%s: unexpected %q; write: %s", where, d.Val(), usage)
	}
	if d.Line() == line && d.NextBlock(d.Nesting()) {
		return d.Errf("%s: %s takes no block; write: %s", where, word, usage)
	}
	return nil
}

// words are those of the options.
func (o Options) words() (words []string) {
	for word, option := range o {
		if option.Elsewhere == "" {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return words
}

// directives are Caddy's that commonly follow a block, so one of them is found
// inside where a } is missing.
var directives = []string{"encode", "file_server", "handle", "log", "php_fastcgi", "respond", "reverse_proxy"}

// OneOf says that there is nothing of a kind by this name, unless it is among those
// that are known.
func OneOf(kind, name string, known []string) error {
	if slices.Contains(known, name) {
		return nil
	}
	return fmt.Errorf("there is no %s %q%s; the %ss are %s", kind, name, DidYouMean(name, known), kind, strings.Join(known, ", "))
}

// DidYouMean suggests the known word that a typing mistake has probably meant,
// as what an error says behind the mistake. It is empty where none is near.
func DidYouMean(word string, known []string) string {
	nearest, least := "", 3 // letters off, which is too many
	for _, candidate := range known {
		if d := distance(word, candidate); d < least {
			nearest, least = candidate, d
		}
	}
	if nearest == "" {
		return ""
	}
	return " (did you mean " + nearest + "?)"
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

// ErrUsage stands for "show how the option is written".
var ErrUsage = errors.New("incomplete")

// ValueError says what is wrong with the argument of an option; the parser
// adds where that is.
type ValueError string

func (w ValueError) Error() string { return string(w) }

// errPlaceholder is said where a value has to be known before placeholders are
// resolved.
const errPlaceholder = ValueError("a placeholder cannot stand here; write the value itself")

// Text is an option with one argument.
func Text(usage string, target *string) Option {
	return Option{Usage: usage, Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return ErrUsage
		}
		*target = d.Val()
		return nil
	}}
}

// List is an option with one or more arguments that may be repeated.
func List(usage string, target *[]string) Option {
	return Option{Usage: usage, Repeats: true, Parse: func(d *caddyfile.Dispenser) error {
		values := d.RemainingArgs()
		if len(values) == 0 {
			return ErrUsage
		}
		*target = append(*target, values...)
		return nil
	}}
}

// Choice is an option whose argument is one of a few words.
func Choice(target *string, words ...string) Option {
	usage := strings.Join(words, "|")
	return Option{Usage: usage, Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return ErrUsage
		}
		if placeholder.Has(d.Val()) {
			return errPlaceholder
		}
		if !slices.Contains(words, d.Val()) {
			return ValueError(fmt.Sprintf("%q is not one of %s", d.Val(), strings.Join(words, ", ")))
		}
		*target = d.Val()
		return nil
	}}
}

// OnOff is an option that is on or off.
func OnOff(set func(on bool)) Option {
	var word string
	inner := Choice(&word, "on", "off")
	return Option{Usage: inner.Usage, Parse: func(d *caddyfile.Dispenser) error {
		if err := inner.Parse(d); err != nil {
			return err
		}
		set(word == "on")
		return nil
	}}
}

// Flag is an option without arguments.
func Flag(target *bool) Option {
	return Option{Parse: func(*caddyfile.Dispenser) error {
		*target = true
		return nil
	}}
}

// Duration is an option whose argument is a length of time of at least so
// much, such as 300ms.
func Duration(atLeast time.Duration, set func(caddy.Duration)) Option {
	return Option{Usage: "<duration, such as 300ms or 1m>", Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return ErrUsage
		}
		value, err := caddy.ParseDuration(d.Val())
		switch {
		case placeholder.Has(d.Val()):
			return errPlaceholder
		case err != nil:
			return ValueError(fmt.Sprintf("%q is not a duration; write one such as 300ms, 5s or 1m", d.Val()))
		case value < atLeast:
			return ValueError(fmt.Sprintf("%q is too short; write at least %v", d.Val(), atLeast))
		}
		set(caddy.Duration(value))
		return nil
	}}
}

// Number is an option whose argument is a whole number above zero.
func Number(target *int) Option {
	return Option{Usage: "<number>", Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return ErrUsage
		}
		if placeholder.Has(d.Val()) {
			return errPlaceholder
		}
		value, err := strconv.Atoi(d.Val())
		if err != nil || value < 1 {
			return ValueError(fmt.Sprintf("%q is not a whole number above zero", d.Val()))
		}
		*target = value
		return nil
	}}
}

// Size is an option whose argument is a number of bytes, at least one.
func Size(target *int) Option {
	return Option{Usage: "<size, such as 256KiB or 1MiB>", Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return ErrUsage
		}
		if placeholder.Has(d.Val()) {
			return errPlaceholder
		}
		value, err := humanize.ParseBytes(d.Val())
		if err != nil || value < 1 || value > math.MaxInt32 {
			return ValueError(fmt.Sprintf("%q is not a size; write one such as 256KiB or 1MiB", d.Val()))
		}
		*target = int(value)
		return nil
	}}
}

// CountSet returns how many of several alternatives are set. Of most, exactly
// one may be.
func CountSet(set ...bool) (n int) {
	for _, is := range set {
		if is {
			n++
		}
	}
	return n
}
