package tests

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// namePaths is where both sides look for names.
var namePaths = []string{"uid", "data.uid", "events[].uid", "[].uid"}

// parsed finds the names with JSON.parse, in a body or in each line of it. It
// says "?" of a name that is neither a text nor an integer, and of a body that
// cannot be parsed that it is refused.
const parsed = `
const decoder = new TextDecoder(); // which drops a byte order mark, as body-parser does
const walk = (value, steps, names) => {
	if (steps.length > 0 && steps[0] === '[]') {
		if (Array.isArray(value)) value.forEach(element => walk(element, steps.slice(1), names));
	} else if (value === null || value === undefined || value === '') {
	} else if (steps.length > 0) {
		if (typeof value === 'object' && !Array.isArray(value) && Object.hasOwn(value, steps[0])) walk(value[steps[0]], steps.slice(1), names);
	} else {
		names.add(typeof value === 'string' || Number.isSafeInteger(value) ? String(value) : '?');
	}
};
const texts = body => {
	try { return [JSON.parse(body)]; } catch {}
	return body.split('\n').filter(line => line.trim()).map(line => JSON.parse(line));
};
require('readline').createInterface({input: process.stdin}).on('line', line => {
	try {
		const names = new Set();
		const found = texts(decoder.decode(Buffer.from(line, 'base64')));
		if (found.length === 0) throw 0;
		for (const text of found) for (const path of PATHS) walk(text, path.split(/(\[\])|\./).filter(step => step), names);
		console.log(JSON.stringify({names: [...names]}));
	} catch { console.log('{"refused":true}'); }
});`

// TestNamesAgreeWithJSONParse holds what the gate reads in bodies against what
// JSON.parse of Node makes of them, broken ones included.
func TestNamesAgreeWithJSONParse(t *testing.T) {
	t.Parallel()
	names, err := session.NewNames(session.NamesConfig{Body: namePaths})
	if err != nil {
		t.Fatal(err)
	}
	bodies := corpus()
	paths, err := json.Marshal(namePaths)
	if err != nil {
		t.Fatal(err)
	}
	node := exec.Command(testcaddy.Installed(t, "node"), "-e", "const PATHS = "+string(paths)+";"+parsed)
	var input bytes.Buffer
	for _, body := range bodies {
		input.WriteString(base64.StdEncoding.EncodeToString([]byte(body)) + "\n")
	}
	node.Stdin = &input
	output, err := node.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 1<<20)
	refused, learnt := 0, 0
	for _, body := range bodies {
		var want struct {
			Names   []string
			Refused bool
		}
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &want) != nil {
			t.Fatalf("node says nothing of %q", body)
		}
		r, err := http.NewRequest(http.MethodPost, "/beacon", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL = &url.URL{}
		got, all := names.Read(r)
		slices.Sort(got)
		slices.Sort(want.Names)
		switch {
		case want.Refused:
			refused++
			if all && body != "" && !isSequence(body) {
				t.Errorf("%q: JSON.parse refuses it, and %q is read", body, got)
			}
		case !slices.Equal(got, want.Names) && all && !integersBeyond.MatchString(body):
			t.Errorf("%q: %q, and JSON.parse reads %q", body, got, want.Names)
		case all:
			learnt++
		case !slices.ContainsFunc(want.Names, func(name string) bool { return name == "?" || !policy.IsUID(name) }) && !strictly.MatchString(body):
			t.Errorf("%q: not learnt, and JSON.parse reads %q", body, want.Names)
		}
	}
	if refused < len(bodies)/10 || learnt < len(bodies)/4 {
		t.Errorf("of %d bodies %d are refused and %d learnt: the corpus looks at too little", len(bodies), refused, learnt)
	}
}

var (
	// strictly is what the gate does not take for an integer, and JSON.parse does.
	strictly = regexp.MustCompile(`[0-9][.eE]|-0`)
	// integersBeyond have more digits than JSON.parse keeps.
	integersBeyond = regexp.MustCompile(`[0-9]{16}`)
)

// isSequence says whether a body begins with a whole text, so that it may be a
// sequence that is not one a line, or that goes on in binary.
func isSequence(body string) bool {
	var text any
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(body, "\ufeff")))
	return d.Decode(&text) == nil
}

// corpus is a list of bodies: whole ones, and what becomes of them when pieces
// are put in, taken out and doubled at random, always the same.
func corpus() []string {
	whole := []string{
		``, ` `, `null`, `7`, `"uid"`, `[]`, `{}`, `{"uid":"a"}`, `{"uid":"a","uid":"b"}`, `{"uid":{"uid":"a"},"uid":null}`,
		`{"\u0075id":"\u0061"}`, `{"uid":7,"data":{"uid":-8}}`, `{"data":{"uid":"a"},"data":{"uid":"b","uid":"c"}}`,
		`{"data":{"uid":"a"},"data":[]}`, `{"events":[{"uid":"a"},{"uid":null},{"uid":""},7,{"uid":8}],"uid":"z"}`,
		`{"events":[{"uid":"a"}],"events":[{"uid":"b"}]}`, `[{"uid":"a"},{"uid":"b","UID":"c"},[{"uid":"d"}]]`,
		"{\"uid\":\"a\"}\n{\"uid\":\"b\"}\n", "{\"uid\":\"a\"}\r\n\r\n{\"uid\":7}", `{"__proto__":{"uid":"x"},"data":{"uid":"y"}}`,
		`{"uid":1.5,"data":{"uid":true}}`, `{"uid":7.0}`, `{"uid":12345678901234567890}`, `{"uid":-0}`, `{"uid":1e3}`, `{"uid":[]}`,
		`{"uid":"\ud83d\ude00"}`, `{"uid":"\ud800"}`, "{\"uid\":\"\xff\"}", "\ufeff{\"uid\":\"a\"}", `{"uid":"a\u0000b"}`, "{\"uid\":\"a\tb\"}",
	}
	pieces := []string{
		`{`, `}`, `[`, `]`, `,`, `:`, `"`, `\`, ` `, "\n", "\x00", "\xff", "é", `0`, `-`, `.`, `e`, `null`, `true`, `"uid"`, `"uid":"q",`, `{"uid":"r"}`,
		`"data":`, `\u0000`, `\u0075`, `//`, `'`, `7`, `"":0,`,
	}
	random := rand.New(rand.NewPCG(14, 2))
	bodies := slices.Clone(whole)
	for len(bodies) < 6000 {
		body := whole[random.IntN(len(whole))]
		for range 1 + random.IntN(3) {
			from := random.IntN(len(body) + 1)
			to := from + random.IntN(min(6, len(body)-from)+1)
			switch random.IntN(3) {
			case 0:
				body = body[:from] + pieces[random.IntN(len(pieces))] + body[from:]
			case 1:
				body = body[:from] + body[to:]
			default:
				body = body[:to] + body[from:]
			}
		}
		if json.Valid([]byte(body)) || random.IntN(5) == 0 { // most are broken
			bodies = append(bodies, body)
		}
	}
	return bodies
}
