package session_test

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/session"
)

func TestCookie(t *testing.T) {
	t.Parallel()
	type result struct {
		value              string
		found, conflicting bool
	}
	for _, test := range []struct {
		name  string
		lines []string
		want  result
	}{
		{"no header", nil, result{}},
		{"empty header", []string{""}, result{}},
		{"alone", []string{"session=a.b-c_d"}, result{value: "a.b-c_d", found: true}},
		{"among others", []string{"canGoBack=1; session=abc; tooyoung=1"}, result{value: "abc", found: true}},
		{"no space between", []string{"canGoBack=1;session=abc;tooyoung=1"}, result{value: "abc", found: true}},
		{"on a later line, as HTTP/2 may split it", []string{"canGoBack=1", "session=abc"}, result{value: "abc", found: true}},
		{"quoted", []string{`session="abc"`}, result{value: "abc", found: true}},
		{"one quote is part of the value", []string{`session="`}, result{value: `"`, found: true}},
		{"equals signs belong to the value", []string{"session=YWJj==; x=y"}, result{value: "YWJj==", found: true}},
		{"spaces around", []string{" session \t= abc ;"}, result{value: "abc", found: true}},
		{"another letter case is another cookie", []string{"Session=abc; SESSION=def"}, result{}},
		{"a longer name is another cookie", []string{"xsession=abc; sessions=def; session.sig=ghi"}, result{}},
		{"the name as a value", []string{"other=session=abc; session"}, result{}},
		{"an empty value is none", []string{"session=; a=b"}, result{}},
		{"an empty quoted value is none", []string{`session=""`}, result{}},
		{"an empty value does not hide another", []string{"session=; session=abc"}, result{value: "abc", found: true}},
		{"twice the same", []string{"session=abc; session=abc"}, result{value: "abc", found: true}},
		{"twice the same, once quoted", []string{`session=abc`, `session="abc"`}, result{value: "abc", found: true}},
		{"two values", []string{"session=abc; session=def"}, result{value: "def", found: true, conflicting: true}},
		{"two values on two lines", []string{"session=abc", "a=b; session=def"}, result{value: "def", found: true, conflicting: true}},
		{"once conflicting, always conflicting", []string{"session=abc; session=def; session=def"}, result{value: "def", found: true, conflicting: true}},
		{"nothing but separators", []string{";;; = ;=;"}, result{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got result
			got.value, got.found, got.conflicting = session.Cookie(http.Header{"Cookie": test.lines}, "session")
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestCookieFindsWhatWasSent writes lists of cookies as browsers do, in one
// line or several, and expects them back.
func TestCookieFindsWhatWasSent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"session", "Session", "session2", "a"})
		values := rapid.StringMatching(`[!#-+\--:<-\[\]-~]{0,3}`) // RFC 6265, cookie-octet
		lines := []string{""}
		var sent []string
		for range rapid.IntRange(0, 8).Draw(t, "cookies") {
			name, value := names.Draw(t, "name"), values.Draw(t, "value")
			if name == "session" && value != "" {
				sent = append(sent, value)
			}
			pair := name + "=" + value
			if rapid.Bool().Draw(t, "quoted") {
				pair = name + `="` + value + `"`
			}
			last := &lines[len(lines)-1]
			switch {
			case *last == "":
				*last = pair
			case rapid.Bool().Draw(t, "new line"):
				lines = append(lines, pair)
			default:
				*last += "; " + pair
			}
		}
		value, found, conflicting := session.Cookie(http.Header{"Cookie": lines}, "session")
		if found != (len(sent) > 0) {
			t.Fatalf("found is %v in %q", found, lines)
		}
		differ := false
		for _, each := range sent {
			differ = differ || each != sent[0]
		}
		if conflicting != differ {
			t.Fatalf("conflicting is %v in %q", conflicting, lines)
		}
		if found && !differ && value != sent[0] {
			t.Fatalf("found %q in %q", value, lines)
		}
	})
}

// FuzzCookie holds the scanner against net/http, which is stricter: whatever
// that finds has to be found here as well, or be reported as a conflict.
func FuzzCookie(f *testing.F) {
	for _, seed := range []string{
		"session=abc", `session="abc"; a=b`, "session=a; session=b", "session = a", "=session=x", "session=;session",
		"a;b;;session=\x00", `session=" a "`, "sessio\u00f1=a; session\t=\"",
	} {
		f.Add(seed, "session=second")
		f.Add("a=b", seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		r := &http.Request{Header: http.Header{"Cookie": {first, second}}}
		value, found, conflicting := session.Cookie(r.Header, "session")
		switch {
		case found != (value != ""):
			t.Errorf("%q is found %v", value, found)
		case conflicting && !found:
			t.Error("a conflict of nothing")
		case found && !strings.Contains(first, value) && !strings.Contains(second, value):
			t.Errorf("%q was never sent", value)
		}
		for _, cookie := range r.CookiesNamed("session") {
			if theirs := textproto.TrimString(cookie.Value); theirs != "" && !conflicting && theirs != textproto.TrimString(value) {
				t.Errorf("%q was not found, but %q was", theirs, value)
			}
		}
	})
}

func TestCookieAllocatesNothing(t *testing.T) {
	h := manyCookies(50)
	if n := testing.AllocsPerRun(100, func() { session.Cookie(h, "session") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// manyCookies is a header of so many cookies, with the session in the end.
func manyCookies(n int) http.Header {
	var line strings.Builder
	for i := range n {
		fmt.Fprintf(&line, "_tracker_%d=GA1.2.%010d.1479980400; ", i, i)
	}
	line.WriteString("session=" + strings.Repeat("x", 500))
	return http.Header{"Cookie": {line.String()}}
}

func BenchmarkCookie(b *testing.B) {
	for _, n := range []int{0, 10, 50} {
		b.Run(fmt.Sprintf("among=%d", n), func(b *testing.B) {
			h := manyCookies(n)
			b.ReportAllocs()
			for b.Loop() {
				session.Cookie(h, "session")
			}
		})
	}
}
