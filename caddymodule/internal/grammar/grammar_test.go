package grammar_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
)

type parsed struct {
	Text, Choice string
	List         []string
	On, Flag     bool
	Number       int
	Duration     caddy.Duration
}

func parse(block string) (got parsed, err error) {
	d := caddyfile.NewTestDispenser("directive {\n" + block + "\n}")
	d.Next()
	err = grammar.Options{
		"text":     grammar.Text("<text>", &got.Text),
		"list":     grammar.List("<word>...", &got.List),
		"choice":   grammar.Choice(&got.Choice, "one", "other"),
		"switch":   grammar.OnOff(func(on bool) { got.On = on }),
		"flag":     grammar.Flag(&got.Flag),
		"number":   grammar.Number(&got.Number),
		"duration": grammar.Duration(time.Second, func(value caddy.Duration) { got.Duration = value }),
		"mode":     {Elsewhere: "directive mode { ... }"},
	}.Parse(d, "directive")
	return got, err
}

func TestOptions(t *testing.T) {
	t.Parallel()
	want := parsed{"a b", "other", []string{"x", "y", "z"}, true, true, 7, caddy.Duration(36 * time.Hour)}
	got, err := parse("text \"a b\"\nlist x y\nlist z\nchoice other\nswitch on\nflag\nnumber 7\nduration 1d12h")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, (-want +got)\n%s", err, diff)
	}
	for block, want := range map[string]string{
		"txt a":          `directive: unknown option "txt" (did you mean text?); the options are choice, duration, flag, list, number, switch, text`,
		"mode":           `directive: mode is no option of the block; write: directive mode { ... }`,
		"file_server":    `directive: file_server is a directive of its own, and no option; write the } that is missing in front of it`,
		"anything":       `directive: unknown option "anything"; the options are`,
		"flag\nflag":     `directive: flag is set twice; leave one out`,
		"text":           `directive: "text" is incomplete; write: text <text>`,
		"text a b":       `directive: unexpected "b"; write: text <text>`,
		"list":           `directive: "list" is incomplete; write: list <word>...`,
		"text a {\nb\n}": `directive: text takes no block; write: text <text>`,
		"choice none":    `directive › choice: "none" is not one of one, other`,
		"switch 1":       `directive › switch: "1" is not one of on, off`,
		"flag on":        `directive: unexpected "on"; write: flag`,
		"number 0":       `directive › number: "0" is not a whole number above zero`,
		"duration 5":     `directive › duration: "5" is not a duration; write one such as 300ms, 5s or 1m`,
		"duration 10ms":  `directive › duration: "10ms" is too short; write at least 1s`,
	} {
		if _, err := parse(block); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", block, err, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"inport": " (did you mean import?)", // export is near as well
		"exprot": " (did you mean export?)",
		"IMPORT": "",
		"":       "",
	} {
		if got := grammar.DidYouMean(word, []string{"export", "import"}); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
