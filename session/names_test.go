package session_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/internal/bench/stub"
	"github.com/metricsgate/metricsgate/session"
)

// TestJSONIsReadAsParseDoes has the answers of JSON.parse, which is what the
// application reads the body with. The gate is stricter in three things only: a
// name that is no Unicode, an integer that is written as a fraction, and nesting
// deeper than 10,000, are not learnt.
func TestJSONIsReadAsParseDoes(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"uid":"a"}`:                           "a",
		" \t\r\n{ \"uid\" : \"a\" } \n":         "a",
		`{"uid":"a","uid":"b"}`:                 "b",
		`{"uid":1.5,"uid":"b"}`:                 "b",
		`{"uid":"a","uid":null}`:                nobody,
		`{"uid":"a","uid":[]}`:                  notLearnt,
		`{"\u0075\u0069\u0064":"a"}`:            "a",
		`{"uid":"a","u\u0069d":"b"}`:            "b",
		`{"u\u0069d":"a","uid":"b"}`:            "b",
		`{"uid":"\u0061\/\"\\\u00e9"}`:          `a/"\é`,
		`{"uid":"none"}`:                        "none",
		`{"uid":"漢字\u2028"}`:                    "漢字\u2028",
		`{"uid":"\ud83d\ude00"}`:                "😀",
		`{"UID":"a","Uid":"b"}`:                 nobody,
		`{"x":"uid","y":"a","uid ":"b"}`:        nobody,
		`{"x":{"uid":"a"},"y":[{"uid":"b"}]}`:   nobody,
		`{"x":{"uid":"a"},"uid":"b","y":[1,2]}`: "b",
		`{"uid":"b","x":{"uid":"a"}}`:           "b",
		`{"x":"\"uid\":\"a\"","y":"}{]["}`:      nobody,
		`{"x":"\\","uid":"a"}`:                  "a",
		`{"x":"\\\"","uid":"a"}`:                "a",
		`{"__proto__":{"uid":"a"}}`:             nobody,
		`{"x":1e999,"uid":"a"}`:                 "a",
		`{}`:                                    nobody,
		`{"":""}`:                               nobody,
		`"uid"`:                                 nobody,
		`[{"uid":"a"}]`:                         nobody,
		`["uid","a"]`:                           nobody,
		`null`:                                  nobody,
		`1`:                                     nobody,
		``:                                      nobody,
		` `:                                     notLearnt,
		`uid=a`:                                 notLearnt,
		`{"uid":"a"`:                            notLearnt,
		`{"uid":"a"}}`:                          notLearnt,
		`{"uid":"a",}`:                          notLearnt,
		`{'uid':'a'}`:                           notLearnt,
		`{"uid":"a" /* none */}`:                notLearnt,
		"{\"uid\":\"a\nb\"}":                    notLearnt,
		"\ufeff{\"uid\":\"a\"}":                 "a",
		"\ufeff":                                notLearnt,
		"{\x00\"\x00u\x00i\x00d\x00\"\x00:\x00": notLearnt,
		`{"uid":null}`:                          nobody,
		`{"uid":""}`:                            nobody,
		`{"uid":7}`:                             "7",
		`{"uid":0}`:                             "0",
		`{"uid":-7}`:                            "-7",
		`{"uid":9007199254740993}`:              "9007199254740993",
		`{"uid":7.0}`:                           notLearnt,
		`{"uid":7e1}`:                           notLearnt,
		`{"uid":-0}`:                            notLearnt,
		`{"uid":true}`:                          notLearnt,
		`{"uid":["a"]}`:                         notLearnt,
		`{"uid":{"uid":"a"}}`:                   notLearnt,
		`{"uid":"a\u0000"}`:                     notLearnt,
		`{"uid":"a\u007f"}`:                     notLearnt,
		`{"uid":"\ud800"}`:                      notLearnt,
		"{\"uid\":\"a\xff\"}":                   notLearnt,
		`{"uid":"` + strings.Repeat("u", 255) + `"}`:                                        strings.Repeat("u", 255),
		`{"uid":"` + strings.Repeat("u", 256) + `"}`:                                        notLearnt,
		`{"uid":` + strings.Repeat("1", 256) + `}`:                                          notLearnt,
		`{"uid":"a","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`: notLearnt,
		strings.Repeat("[", 9000) + `{"uid":"a"}` + strings.Repeat("]", 9000):               nobody,
	} {
		if got := read(t, anyName, []byte(body)); got != want {
			t.Errorf("%.60q gives %s, want %s", body, got, want)
		}
	}
}

func TestPlacesOfNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ paths, body, want string }{
		{"data.uid", `{"data":{"uid":"a"},"uid":"b"}`, "a"},
		{"data.uid", `{"data":{"uid":"a"},"data":{}}`, nobody},
		{"data.uid", `{"data":{"uid":"a"},"data":null}`, nobody},
		{"data.uid", `{"data":{"uid":[]},"data":{"uid":"b"}}`, "b"},
		{"data.uid", `{"data":[{"uid":"a"}]}`, nobody},
		{"data.uid", `{"data":"uid"}`, nobody},
		{"uid data.uid", `{"data":{"uid":"a"},"uid":"b"}`, "a b"},
		{"uid data.uid", `{"uid":"b","data":{"uid":"a"},"data":{}}`, "b"},
		{"uid data.uid", `{"uid":"a","data":{"uid":"a"},"data":{}}`, "a"},
		{"uid uid.uid", `{"uid":{"uid":"a"}}`, notLearnt},
		{"uid uid.uid", `{"uid":{"uid":"a"},"uid":"b"}`, "b"},
		{"uid uid[]", `{"uid":["a"]}`, notLearnt},
		{"events[].user_id", `{"events":[{"user_id":"a"},{},{"user_id":7},[],"x",null,{"user_id":null},{"user_id":"a"}]}`, "7 a"},
		{"events[].user_id", `{"events":{"user_id":"a"}}`, nobody},
		{"events[].user_id", `{"events":[{"user_id":"a"}],"events":[]}`, nobody},
		{"events[].user_id", `{"events":[{"user_id":"a","user_id":"b"},{"user_id":"c"}]}`, "b c"},
		{"[].properties.distinct_id properties.distinct_id", `[{"properties":{"distinct_id":"a"}},{"properties":{"distinct_id":"b"}}]`, "a b"},
		{"[].properties.distinct_id properties.distinct_id", `{"properties":{"distinct_id":"a"}}`, "a"},
		{"[]", `["a","b"]`, "a b"},
		{"[][]", `[["a"],["b"],"c"]`, "a b"},
		{"a[].b[].c", `{"a":[{"b":[{"c":"1"},{"c":"2"}]},{"b":[{"c":"3"}]}]}`, "1 2 3"},
		{"[].$distinct_id", `[{"$distinct_id":"a"}]`, "a"},
		{"requests[]?uid", `{"requests":["?idsite=1&uid=a&x=%","uid=b%20c","x=uid","uid=&uid=d","uid",null]}`, "a b c d"},
		{"requests[]?uid", `{"requests":["uid=%00"]}`, notLearnt},
		{"requests[]?uid", `{"requests":[1]}`, notLearnt},
		{"requests[]?uid requests[]?user", `{"requests":["?user=b","?uid=\u0061"]}`, "a b"},
		{"uid", strings.Repeat(`{"uid":"a"}`, 2), "a"},
		{"uid", "{\"uid\":\"a\"}\n{\"uid\":\"b\"}\n\n{\"uid\":\"a\"}\r\n", "a b"},
		{"uid", "{\"uid\":\"a\"}\n{\"uid\":null}", "a"},
		{"uid", "{\"uid\":\"a\"} {\"uid\":", notLearnt},
		{"uid", "{\"uid\":\"a\"}\nuid=b", notLearnt},
		{"user.id", "{\"sdk\":1}\n{\"type\":\"event\"}\n{\"user\":{\"id\":\"a\"}}\n{\"type\":\"attachment\"}\n\x89PNG\r\n\x1a\n\x00{\"", "a"},
		{"user.id", "{\"sdk\":1}\n{\"type\":\"event\"}\n{\"user\":{\"id\":\"a\"}}\n{\"segment_id\":0}\nx\x9c\x01", "a"},
		{"user.id", "{\"sdk\":1}\n{\"user\":{\"id\":\"\x00\"}}", notLearnt},
		{"user.id", "{\"sdk\":1}\n{\"type\":\"attachment\"}\nlog\n\x00", notLearnt},
		{"user.id", "\x89PNG\r\n\x1a\n\x00", notLearnt},
	} {
		names := namesOf(session.NamesConfig{Body: strings.Fields(c.paths)})
		if got := read(t, names, []byte(c.body)); got != c.want {
			t.Errorf("%s in %q: %s, want %s", c.paths, c.body, got, c.want)
		}
	}
}

// TestAsManyNamesAsAllowed and not one more; a place that is named again is no
// new account, and neither is the same account at another place.
func TestAsManyNamesAsAllowed(t *testing.T) {
	t.Parallel()
	names := namesOf(session.NamesConfig{Body: []string{"[]", "[].uid"}})
	list := func(n int) string {
		var body []string
		for i := range 3 * n {
			body = append(body, fmt.Sprintf(`"%d",{"uid":%d}`, i%n, i%n))
		}
		return strings.ReplaceAll("["+strings.Join(body, ",")+"]", `{"uid"`, `{"x":0,"uid"`)
	}
	for n, learnt := range map[int]bool{1: true, session.MaxNames: true, session.MaxNames + 1: false} {
		body := list(n)
		names := namesOf(session.NamesConfig{Body: []string{"[].uid"}})
		if named, ok := names.Read(post(strings.NewReader(body), len(body))); ok != learnt || ok && len(named) != n {
			t.Errorf("%d accounts: %d, %t", n, len(named), ok)
		}
	}
	if got := read(t, names, []byte(`["a",{"uid":"a"}]`)); got != notLearnt {
		t.Errorf("an object where a name should be: %s", got)
	}
}

// TestBodiesOfPlacesOnly end before they take long.
func TestBodiesOfPlacesOnly(t *testing.T) {
	t.Parallel()
	names := namesOf(session.NamesConfig{Body: []string{"[].uid"}, Form: []string{"uid"}, Match: "^x"})
	for unit, few := range map[string]int{`{},`: 1000, `{"uid":1},`: 1000, `{"uid":"x"},`: 1000} {
		for n, learnt := range map[int]bool{few: true, 100_000: false} {
			body := "[" + strings.Repeat(unit, n) + "0]"
			if _, ok := names.Read(post(strings.NewReader(body), len(body))); ok != learnt {
				t.Errorf("%d of %s: %t", n, unit, ok)
			}
		}
	}
	if got := read(t, names, bytes.Repeat([]byte("a&"), 100_000)); got != notLearnt {
		t.Errorf("a form of 100,000 fields: %s", got)
	}
}

func TestNamesMatch(t *testing.T) {
	t.Parallel()
	for uid, want := range map[string]string{
		alice:                         alice,
		"none":                        nobody,
		strings.ToUpper(alice):        nobody,
		alice[1:]:                     nobody,
		alice + "0":                   nobody,
		alice + `\n`:                  nobody,
		alice + " ":                   nobody,
		"\xff":                        nobody,
		`\u0000`:                      nobody,
		strings.Repeat(alice, 100):    nobody,
		strings.Repeat(alice, 40_000): notLearnt,
	} {
		if got := read(t, fxaLarge, []byte(`{"uid":"`+uid+`"}`)); got != want {
			t.Errorf("%.40q is %s, want %s", uid, got, want)
		}
	}
	for body, want := range map[string]string{`{"uid":12}`: "12", `{"uid":7}`: nobody, `{"uid":1.5}`: notLearnt, `{"uid":{}}`: notLearnt, `{"uid":"11111111"}`: "11111111"} {
		if got := read(t, namesOf(session.NamesConfig{Body: []string{"uid"}, Match: "^1"}), []byte(body)); got != want {
			t.Errorf("%s is %s, want %s", body, got, want)
		}
	}
	long := namesOf(session.NamesConfig{Body: []string{"uid"}, Match: "^u*$"})
	if got := read(t, long, []byte(`{"uid":"`+strings.Repeat("u", 256)+`"}`)); got != notLearnt {
		t.Errorf("what matches and is longer than any account id: %s", got)
	}
}

var fxaLarge = namesOf(session.NamesConfig{Body: []string{"uid"}, Match: `^[0-9a-f]{32}$`, Limit: 2 << 19})

func TestQueryAndForm(t *testing.T) {
	t.Parallel()
	b64 := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	const mixpanel = `[{"event":"e?>","properties":{"distinct_id":"a"}},{"properties":{"distinct_id":"b"}}]`
	for _, c := range []struct {
		name              string
		config            session.NamesConfig
		query, kind, body string
		want              string
	}{
		{"query", session.NamesConfig{Query: []string{"uid"}}, "x=1&uid=a", "", `{"uid":"b"}`, "a"},
		{"query, no name", session.NamesConfig{Query: []string{"uid"}}, "x=uid&UID=a&uid=&uid", "", "", nobody},
		{"query, several", session.NamesConfig{Query: []string{"uid", "user"}}, "uid=a&user=b&uid=c", "", "", "a b c"},
		{"query, escapes", session.NamesConfig{Query: []string{"uid"}}, "%75i%64=a%2Bb+%c3%A9%", "", "", "a+b é%"},
		{"query, no Unicode", session.NamesConfig{Query: []string{"uid"}}, "uid=%ff", "", "", notLearnt},
		{"query and body", session.NamesConfig{Query: []string{"uid"}, Body: []string{"uid"}}, "uid=a", "", `{"uid":"b"}`, "a b"},
		{"query and what cannot be read", session.NamesConfig{Query: []string{"uid"}, Body: []string{"uid"}}, "uid=a", "", `{`, notLearnt},
		{"form", session.NamesConfig{Form: []string{"device_id"}}, "", "application/x-www-form-urlencoded", "x=1&device_id=a", "a"},
		{"form, called text", session.NamesConfig{Form: []string{"device_id"}}, "", "text/plain;charset=UTF-8", "x=1&device_id=a%20b", "a b"},
		{"form, lines", session.NamesConfig{Form: []string{"uid"}}, "", "text/plain", "en=x&uid=a\r\nen=y&uid=b", "a b"},
		{"form, empty", session.NamesConfig{Form: []string{"uid"}}, "", "", "", nobody},
		{"form, binary", session.NamesConfig{Form: []string{"uid"}}, "", "", "x=\x00&uid=a", notLearnt},
		{"form, multipart", session.NamesConfig{Form: []string{"uid"}}, "", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"uid\"\r\n\r\na\r\n--x--", notLearnt},
		{"form, JSON", session.NamesConfig{Form: []string{"data:[].properties.distinct_id"}}, "", "", "data=" + url.QueryEscape(mixpanel), "a b"},
		{"form, JSON unescaped", session.NamesConfig{Form: []string{"data:uid"}}, "", "", `data={"uid":"a"}`, "a"},
		{"form, base64", session.NamesConfig{Form: []string{"data:[].properties.distinct_id"}}, "", "", "ip=1&data=" + url.QueryEscape(b64(mixpanel)) + "&verbose=1", "a b"},
		{"form, base64 unescaped", session.NamesConfig{Form: []string{"data:[].properties.distinct_id"}}, "", "", "data=" + b64(mixpanel), "a b"},
		{"form, base64 of URLs", session.NamesConfig{Form: []string{"data:[].properties.distinct_id"}}, "", "", "data=" + base64.RawURLEncoding.EncodeToString([]byte(mixpanel)), "a b"},
		{"form, neither", session.NamesConfig{Form: []string{"data:uid"}}, "", "", "data=none", notLearnt},
		{"form, base64 of no JSON", session.NamesConfig{Form: []string{"data:uid"}}, "", "", "data=" + b64("none"), notLearnt},
		{"form, broken base64", session.NamesConfig{Form: []string{"data:uid"}}, "", "", "data=*", notLearnt},
		{"form, broken JSON", session.NamesConfig{Form: []string{"data:uid"}}, "", "", "data={", notLearnt},
		{"form, no value", session.NamesConfig{Form: []string{"data:uid"}}, "", "", "data=&x", nobody},
		{"form, two places of a field", session.NamesConfig{Form: []string{"data:uid", "data:user.id", "u"}}, "", "", "data=%7B%22uid%22:1,%22user%22:%7B%22id%22:2%7D%7D&u=%33", "1 2 3"},
		{"form, JSON that holds queries", session.NamesConfig{Form: []string{"data:[]?%"}}, "", "", "data=" + url.QueryEscape(`["%25=%61","\u0025=b","%25=c"]`), "a b c"},
		{"either, JSON", session.NamesConfig{Form: []string{"data:uid"}, Body: []string{"uid"}}, "", "", ` {"uid":"a"}`, "a"},
		{"either, form", session.NamesConfig{Form: []string{"data:uid"}, Body: []string{"uid"}}, "", "", `data={"uid":"a"}`, "a"},
		{"either, both", session.NamesConfig{Form: []string{"uid"}, Body: []string{"uid"}}, "", "application/x-www-form-urlencoded", `{"uid":"a","x":"&uid=b&"}`, "a b"},
		{"either, JSON for a form", session.NamesConfig{Form: []string{"uid"}}, "", "application/json", `{"uid":"a"}`, nobody},
		{"either, a form that begins as JSON does", session.NamesConfig{Form: []string{"uid"}, Body: []string{"uid"}}, "", "", `{}&uid=a`, notLearnt},
		{"Latin-1", session.NamesConfig{Body: []string{"uid"}}, "", "application/json; charset=ISO-8859-1", "{\"uid\":\"\xe9\"}", "é"},
		{"no Latin-1", session.NamesConfig{Body: []string{"uid"}}, "", "application/json", "{\"uid\":\"\xe9\"}", notLearnt},
	} {
		r := post(strings.NewReader(c.body), len(c.body))
		r.URL = &url.URL{RawQuery: c.query}
		r.Header.Set("Content-Type", c.kind)
		if got := outcome(namesOf(c.config).Read(r)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestCompressionThatNobodyMentions, as PostHog's.
func TestCompressionThatNobodyMentions(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"gzip", "deflate"} {
		for _, encodings := range [][]string{nil, {"identity"}} {
			if got := read(t, anyName, encoders[encoding]([]byte(`{"uid":"a"}`)), encodings...); got != "a" {
				t.Errorf("%s as %q: %s", encoding, encodings, got)
			}
		}
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]session.NamesConfig{
		`body: "a..b" is not a path; write one such as uid, data.uid, events[].user_id, [].uid or requests[]?uid`: {Body: []string{"a..b"}},
		`body: "" is not`:           {Body: []string{""}},
		`body: "." is not`:          {Body: []string{"."}},
		`body: "a.[]" is`:           {Body: []string{"a[].b[]", "a.[]"}},
		`body: "a[0]" is not`:       {Body: []string{"a[0]"}},
		`body: "a[" is not`:         {Body: []string{"a["}},
		`body: "a]b" is not`:        {Body: []string{"a]b"}},
		`body: "[]a" is not`:        {Body: []string{"[]a"}},
		`body: "a?" is not`:         {Body: []string{"a?"}},
		`body: "?a" is not`:         {Body: []string{"?a"}},
		`query: "" is not`:          {Query: []string{""}},
		`form: ":uid" has no`:       {Form: []string{":uid"}},
		`form: "" is not a path`:    {Form: []string{"data:"}},
		`match: "(" is not`:         {Body: []string{"uid"}, Match: "("},
		`limit: -1 is not`:          {Body: []string{"uid"}, Limit: -1},
		`limit: 1048577 is`:         {Body: []string{"uid"}, Limit: 1<<20 + 1},
		`nothing is read; write`:    {Match: "a"},
		`there are more than 16 pl`: {Query: strings.Fields(strings.Repeat("a ", 17))},
	} {
		if names, err := session.NewNames(config); err == nil || !strings.HasPrefix(err.Error(), want) || names != nil {
			t.Errorf("%v: error %v, want %s", config, err, want)
		}
	}
	if names, err := session.NewNames(session.NamesConfig{}); names != nil || err != nil {
		t.Errorf("nothing: %v, %v", names, err)
	}
}

// oracle decodes everything and walks through everything, with encoding/json,
// whose maps agree with JSON.parse in all that counts here.
func oracle(document []byte, paths []string) string {
	if len(document) == 0 {
		return nobody
	}
	document = bytes.TrimPrefix(document, []byte("\ufeff"))
	found := map[string]bool{}
	learnt := true
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	for first := true; ; first = false {
		start := d.InputOffset()
		var text any
		if err := d.Decode(&text); err != nil {
			rest := bytes.TrimLeft(document[start:], " \t\r\n")
			line := bytes.SplitN(rest, []byte("\n"), 2)[0]
			hasControl := bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\r", r) })
			isBinary := (hasControl || !utf8.Valid(line)) && line[0] != '{' && line[0] != '['
			if first || !errors.Is(err, io.EOF) && !isBinary {
				return notLearnt
			}
			break
		}
		for _, path := range paths {
			steps := strings.Split(strings.ReplaceAll(strings.TrimPrefix(strings.ReplaceAll(path, "[]", ".[]"), "."), "?", ".?"), ".")
			learnt = walk(text, steps, found) && learnt
		}
	}
	delete(found, "")
	if !learnt || len(found) > session.MaxNames {
		return notLearnt
	}
	return outcome(slices.Collect(maps.Keys(found)), true)
}

// walk adds the names at the end of the steps, and says whether all of them
// could be learnt.
func walk(value any, steps []string, found map[string]bool) (learnt bool) {
	name, isString := value.(string)
	number, isNumber := value.(json.Number)
	switch {
	case len(steps) > 0 && steps[0] == "[]":
		learnt = true
		list, _ := value.([]any)
		for _, element := range list {
			learnt = walk(element, steps[1:], found) && learnt
		}
		return learnt
	case value == nil:
		return true
	case len(steps) > 0 && steps[0][0] == '?':
		if !isString {
			return false
		}
		learnt = true
		for pair := range strings.FieldsFuncSeq(strings.TrimPrefix(name, "?"), func(r rune) bool { return strings.ContainsRune("&\r\n", r) }) {
			key, value, _ := strings.Cut(pair, "=")
			if unescaped(key) == steps[0][1:] {
				learnt = walk(unescaped(value), nil, found) && learnt
			}
		}
		return learnt
	case len(steps) > 0:
		object, isObject := value.(map[string]any)
		return !isObject || walk(object[steps[0]], steps[1:], found)
	case isNumber && (number == "0" || strings.Trim(strings.TrimPrefix(number.String(), "-"), "0123456789") == "" && number != "-0"):
		name = number.String()
	case !isString:
		return false
	}
	found[name] = true
	return name == "" || len(name) <= 255 && readable(name)
}

func readable(name string) bool {
	for _, r := range name {
		if r == utf8.RuneError || r < ' ' || r >= 0x7f && r < 0xa0 {
			return false
		}
	}
	return true
}

// unescaped undoes the encoding of forms one escape at a time.
func unescaped(text string) string {
	if text == "" {
		return ""
	}
	if n := min(3, len(text)); text[0] == '%' && n == 3 {
		if c, err := strconv.ParseUint(text[1:3], 16, 8); err == nil {
			return string([]byte{byte(c)}) + unescaped(text[3:])
		}
	}
	return strings.ReplaceAll(text[:1], "+", " ") + unescaped(text[1:])
}

var (
	oraclePaths = []string{"uid", "data.uid", "events[].uid", "[].uid", "[]", "uid.data[]", "events[]?uid"}
	oracleNames = namesOf(session.NamesConfig{Body: oraclePaths, Limit: 1 << 20})
)

// TestDocumentsAgreeWithTheOracle builds documents of the pieces that matter,
// valid ones for the most part, and has them arrive in all kinds of ways.
func TestDocumentsAgreeWithTheOracle(t *testing.T) {
	t.Parallel()
	text := rapid.SampledFrom([]string{
		`"uid"`, `"u\u0069d"`, `"\u0075\u0069\u0064"`, `"Uid"`, `"data"`, `"events"`, `"eve\u006ets"`, `"` + alice + `"`, `""`,
		`"\\"`, `"\""`, `"\\\""`, `"{"`, `"]"`, `":"`, `"\ud800"`, `"\u0000"`, `"é"`, "\"\xff\"", `"` + strings.Repeat("é", 128) + `"`, `"uid=%61&%75id=+"`,
	})
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n", "\t\r"})
	scalar := rapid.OneOf(text, rapid.SampledFrom([]string{"null", "null", "true", "0", "7", "-8", "-0", "-1.5e+9", "1e999"}))
	var value func(depth int) *rapid.Generator[string]
	object := func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			pairs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
				return space.Draw(t, "") + text.Draw(t, "key") + space.Draw(t, "") + ":" + space.Draw(t, "") +
					value(depth-1).Draw(t, "value") + space.Draw(t, "")
			}), 0, 4).Draw(t, "pairs")
			return "{" + strings.Join(pairs, ",") + "}"
		})
	}
	value = func(depth int) *rapid.Generator[string] {
		if depth <= 0 {
			return scalar
		}
		list := rapid.Custom(func(t *rapid.T) string {
			return "[" + strings.Join(rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list"), ",") + "]"
		})
		return rapid.OneOf(scalar, object(depth), list)
	}
	arrivals := map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
		"in halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
	}
	rapid.Check(t, func(t *rapid.T) {
		document := space.Draw(t, "") + rapid.OneOf(object(3), value(2)).Draw(t, "document") +
			rapid.SampledFrom([]string{"", "", "", "", " ", "x", "{}", "\n", "\nx\x9c"}).Draw(t, "behind") +
			rapid.OneOf(rapid.Just(""), object(2)).Draw(t, "another")
		want := oracle([]byte(document), oraclePaths)
		encoding := rapid.SampledFrom(slices.Sorted(maps.Keys(encoders))).Draw(t, "encoding")
		arrival := rapid.SampledFrom(slices.Sorted(maps.Keys(arrivals))).Draw(t, "arrival")
		body := encoders[encoding]([]byte(document))
		r := post(arrivals[arrival](bytes.NewReader(body)), -1, encoding)
		if got := outcome(oracleNames.Read(r)); got != want {
			t.Fatalf("%q names %s, want %s", document, got, want)
		}
		if next, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(next, body) {
			t.Fatalf("the next reader gets %q, %v, not %q", next, err, body)
		}
	})
}

// FuzzNames holds the reader against the oracle for any body, and makes sure
// that no encoding and no garbage keeps the next reader from its bytes.
func FuzzNames(f *testing.F) {
	for _, file := range []string{"sync_signup.json", "signed_in.json", "year_2015.json", "metrics_errors.json"} {
		f.Add(fixture(f, file), "")
		f.Add(gzipped(fixture(f, file)), "gzip")
	}
	for _, body := range []string{
		`{"uid":"a","uid":null}`, `{"u\u0069d":"\ud800"}`, `{"x":{"uid":"a"}}`, `[{"uid":"a"},"b",7]`, `{"uid":1.0}`, "{\"uid\":\"\xff\"}",
		` {"x":"\\","uid":"a"} `, `{"uid":"a"}x`, "\ufeff{}", `"`, `{"uid"`, `{"uid":`, `{"data":{"uid":"a"},"data":1}`,
		"{\"events\":[{\"uid\":1},\"?uid=%41\"]}\n{}\n\x89PNG", `{"uid":{"data":["a",[]]}}`,
	} {
		f.Add([]byte(body), "")
		f.Add(encoders["deflate"]([]byte(body)), "deflate")
		f.Add(encoders["deflate "]([]byte(body)), "deflate")
	}
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		got := read(t, oracleNames, body, encoding)
		read(t, formNames, body, encoding)
		if encoding != "" || bytes.HasPrefix(body, []byte("\x1f\x8b\x08")) || bytes.HasPrefix(body, []byte("x")) {
			return
		}
		// What comes to more than MaxNames on the way there is not learnt,
		// whatever a later duplicate takes back.
		if want := oracle(body, oraclePaths); got != want && (got != notLearnt || bytes.Count(body, []byte(`,`)) < session.MaxNames) {
			t.Errorf("%q names %s, want %s", body, got, want)
		}
	})
}

var formNames = namesOf(session.NamesConfig{Body: []string{"uid"}, Query: []string{"uid"}, Form: []string{"uid", "data:uid", "data:[]?uid"}, Match: "^a"})

// TestBodiesOfSDKs has the bodies of applications and SDKs with what is right,
// OUT being an account.
func TestBodiesOfSDKs(t *testing.T) {
	t.Parallel()
	file, err := os.Open("testdata/bodies.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	n := 0
	for ; lines.Scan(); n++ {
		var c struct {
			What, Want string
			Names      session.NamesConfig
			Body       json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		for encoding, encode := range map[string]func([]byte) []byte{"as it is": encoders["identity"], "gzip": gzipped} {
			if got := read(t, namesOf(c.Names), encode(c.Body)); got != c.Want {
				t.Errorf("%s, %s: %s, want %s", c.What, encoding, got, c.Want)
			}
		}
	}
	if n < 8 || lines.Err() != nil {
		t.Errorf("%d bodies, %v", n, lines.Err())
	}
}

func BenchmarkNames(b *testing.B) {
	body := fixture(b, "signed_in.json")
	for _, encoding := range []string{"identity", "gzip"} {
		b.Run(encoding, func(b *testing.B) {
			packed := encoders[encoding](body)
			source := bytes.NewReader(packed)
			r := post(source, len(packed), encoding)
			original := r.Body
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				source.Reset(packed)
				r.Body = original
				if named, learnt := fxa.Read(r); !learnt || len(named) != 1 {
					b.Fatal(named, learnt)
				}
			}
		})
	}
	b.Run("batch", func(b *testing.B) {
		events := namesOf(session.NamesConfig{Body: []string{"batch[].userId"}})
		packed := stub.Batch(stub.UID(1))
		b.ReportAllocs()
		for b.Loop() {
			if named, learnt := events.Read(post(bytes.NewReader(packed), len(packed), "gzip")); !learnt || len(named) != 1 {
				b.Fatal(named, learnt)
			}
		}
	})
	b.Run("oracle", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			oracle(body, []string{"uid"})
		}
	})
	// The most work that one body can ask for.
	const most = 1 << 20
	presets := namesOf(session.NamesConfig{
		Body: []string{"batch[].properties.distinct_id", "[].properties.distinct_id", "properties.distinct_id", "uid"},
		Form: []string{"data:[].properties.distinct_id", "uid"}, Match: "^[0-9a-f]{8}-[0-9a-f]{4}|@", Limit: most,
	})
	for name, worst := range map[string]struct{ begin, unit, end string }{
		"escapes":       {"{", `"\u0075":0,`, `"":0}`},
		"brackets":      {"{", `"":[],`, `"":0}`},
		"quotes":        {"{", `"\"":"",`, `"":0}`},
		"deep":          {"", "[", ""},
		"elements":      {"[", "{},", "0]"},
		"numbers":       {"[", "0,", "0]"},
		"texts":         {"", "{}\n", ""},
		"fields":        {"", "a&", ""},
		"escapedfields": {"", "%61=%61&", ""},
		"names":         {"[", `{"properties":{"distinct_id":"a"}},`, "0]"},
		"repeated":      {"{", `"uid":"abcdef01-2345",`, `"":0}`},
		"longnames":     {"[", `{"properties":{"distinct_id":"` + strings.Repeat("a", 4000) + `"}},`, "0]"},
		"base64":        {"data=", "eyJ1", ""},
		"lines":         {"", "\n", ""},
		"spaces":        {"[", " ", "]"},
	} {
		b.Run("worst="+name, func(b *testing.B) {
			hostile := []byte(worst.begin + strings.Repeat(worst.unit, (most-100)/len(worst.unit)) + worst.end)
			packed := gzipped(hostile)
			b.SetBytes(int64(len(hostile)))
			b.ReportAllocs()
			for b.Loop() {
				presets.Read(post(bytes.NewReader(packed), len(packed), "gzip"))
			}
		})
	}
}
