package session_test

import (
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/metricsgate/metricsgate/session"
)

// cookies returns the values of the session's cookie, as a source finds them.
func cookies(h http.Header) (values []string) {
	source := session.NewBearer(nil, session.BearerConfig{Cookie: "session"})
	first, more := source.Credentials(&http.Request{Header: h})
	if first == "" {
		return nil
	}
	return append([]string{first}, more...)
}

func TestCookie(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"no header", nil, nil},
		{"empty header", []string{""}, nil},
		{"alone", []string{"session=a.b-c_d"}, []string{"a.b-c_d"}},
		{"among others", []string{"canGoBack=1; session=abc; tooyoung=1"}, []string{"abc"}},
		{"no space between", []string{"canGoBack=1;session=abc;tooyoung=1"}, []string{"abc"}},
		{"on a later line, as HTTP/2 may split it", []string{"canGoBack=1", "session=abc"}, []string{"abc"}},
		{"quoted", []string{`session="abc"`}, []string{"abc"}},
		{"one quote is part of the value", []string{`session="`}, []string{`"`}},
		{"equals signs belong to the value", []string{"session=YWJj==; x=y"}, []string{"YWJj=="}},
		{"spaces around", []string{" session \t= abc ;"}, []string{"abc"}},
		{"another letter case is another cookie", []string{"Session=abc; SESSION=def"}, nil},
		{"a longer name is another cookie", []string{"xsession=abc; sessions=def; session.sig=ghi"}, nil},
		{"the name as a value", []string{"other=session=abc; session"}, nil},
		{"an empty value is none", []string{"session=; a=b"}, nil},
		{"an empty quoted value is none", []string{`session=""`}, nil},
		{"an empty value does not hide another", []string{"session=; session=abc"}, []string{"abc"}},
		{"twice the same", []string{"session=abc; session=abc"}, []string{"abc"}},
		{"twice the same, once quoted", []string{`session=abc`, `session="abc"`}, []string{"abc"}},
		{"two values", []string{"session=abc; session=def"}, []string{"abc", "def"}},
		{"two values on two lines", []string{"session=abc", "a=b; session=def"}, []string{"abc", "def"}},
		{"two values, one of them twice", []string{"session=abc; session=def; session=abc; session=def"}, []string{"abc", "def"}},
		{"one more than counts", []string{"session=1; session=2; session=3; session=4; session=5; session=6"}, []string{"1", "2", "3", "4", "5"}},
		{"nothing but separators", []string{";;; = ;=;"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := cookies(http.Header{"Cookie": test.lines}); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
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
		values := rapid.StringMatching(`[!#$&-+\--:<-\[\]-~]{0,3}`) // RFC 6265, cookie-octet, but for the % of escapes, which are undone
		lines := []string{""}
		var sent []string
		for range rapid.IntRange(0, 8).Draw(t, "cookies") {
			name, value := names.Draw(t, "name"), values.Draw(t, "value")
			if name == "session" && value != "" && !slices.Contains(sent, value) && len(sent) <= session.MaxCredentials {
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
		if got := cookies(http.Header{"Cookie": lines}); !slices.Equal(got, sent) {
			t.Fatalf("found %q in %q, sent %q", got, lines, sent)
		}
	})
}

// FuzzCookie holds the scanner against net/http, which is stricter: whatever
// that finds has to be found here as well, unless it is one too many.
func FuzzCookie(f *testing.F) {
	for _, seed := range []string{
		"session=abc", `session="abc"; a=b`, "session=a; session=b", "session = a", "=session=x", "session=;session",
		"a;b;;session=\x00", `session=" a "`, "sessio\u00f1=a; session\t=\"", "session=1;session=2;session=3;session=4;session=5;session=6",
	} {
		f.Add(seed, "session=second")
		f.Add("a=b", seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		r := &http.Request{Header: http.Header{"Cookie": {first, second}}}
		found := cookies(r.Header)
		for _, value := range found {
			if value == "" || !strings.Contains(first, value) && !strings.Contains(second, value) {
				t.Errorf("%q was never sent", value)
			}
		}
		if len(found) > session.MaxCredentials {
			return
		}
		for _, cookie := range r.CookiesNamed("session") {
			theirs := textproto.TrimString(cookie.Value)
			if theirs != "" && !slices.ContainsFunc(found, func(value string) bool { return textproto.TrimString(value) == theirs }) {
				t.Errorf("%q was not found, but %q were", theirs, found)
			}
		}
	})
}

func TestCookieAllocatesNothing(t *testing.T) {
	source := session.NewBearer(nil, session.BearerConfig{Cookie: "session"})
	r := &http.Request{Header: manyCookies(50)}
	if n := testing.AllocsPerRun(100, func() { source.Credentials(r) }); n != 0 {
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
			source := session.NewBearer(nil, session.BearerConfig{Cookie: "session"})
			r := &http.Request{Header: manyCookies(n)}
			b.ReportAllocs()
			for b.Loop() {
				source.Credentials(r)
			}
		})
	}
}
