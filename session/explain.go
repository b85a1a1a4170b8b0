package session

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/token"
)

// Explainer is a Source that can say of a credential why it proves nothing.
type Explainer interface {
	// Explain says in what a credential that does not hold, or no longer, differs
	// from one that would, and nothing where there is no more to say than its
	// outcome. It names no account, and holds nothing of the credential but, bounded,
	// who issued it and for whom.
	Explain(credential string, now time.Time) string
}

// Explain says in what a token differs from one that holds: the claim and what is
// accepted there, or its times. Who has issued it and for whom is no account; where
// one of them has the account's id in it, it is left out.
func (b *Bearer) Explain(raw string, now time.Time) string {
	claims, err := b.verifier.Verify(raw, now)
	if err == nil {
		if uid, _ := claims.String(b.config.UIDClaim); !policy.IsUID(uid) {
			return "its claim " + b.config.UIDClaim + " names no account: that is a text of 1 to 255 bytes"
		}
		return ""
	}
	if errors.Is(err, token.ErrMalformed) {
		return strings.TrimPrefix(strings.TrimPrefix(err.Error(), token.ErrMalformed.Error()), ": ")
	}
	differs, ok := errors.AsType[*token.DifferenceError](err)
	switch {
	case !ok:
		return ""
	case differs.Claim != "":
		uid, _ := differs.String(b.config.UIDClaim)
		found := slices.DeleteFunc(slices.Clone(differs.Found), func(text string) bool { return uid != "" && strings.Contains(text, uid) })
		return fmt.Sprintf("its %s is %s; accepted is %s", differs.Claim, quoted(found), quoted(differs.Wanted))
	}
	var times []string
	for _, at := range []struct {
		claim string
		time  time.Time
	}{{"nbf", differs.NotBefore}, {"iat", differs.Issued}, {"exp", differs.Expires}} {
		if !at.time.IsZero() {
			times = append(times, at.claim+" is "+fromNow(at.time.Sub(now)))
		}
	}
	said := strings.Join(times, ", ") + ", by this machine's clock"
	switch {
	case !differs.Issued.IsZero() && differs.Expires.Before(differs.Issued):
		said += "; exp is before iat, and " + IssuersFault
	case differs.NotBefore.After(differs.Expires):
		said += "; nbf is after exp, and " + IssuersFault
	}
	return said
}

// IssuersFault ends what is said of a token that could hold at no time.
const IssuersFault = "no clock can cause that: whoever issues it writes it so"

// fromNow is how far a time is away.
func fromNow(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d > 0:
		return d.String() + " ahead"
	case d < 0:
		return (-d).String() + " ago"
	default:
		return "now"
	}
}

const (
	// explained and explainedBytes bound what is told of claims and cookies.
	explained      = 32
	explainedBytes = 128
)

// quoted is a list of texts that anybody may have written.
func quoted(texts []string) string {
	if len(texts) == 0 {
		return "missing"
	}
	var words []string
	for _, text := range texts[:min(len(texts), explained)] {
		if len(text) > explainedBytes {
			text = text[:explainedBytes] + "…"
		}
		words = append(words, fmt.Sprintf("%+q", text))
	}
	if len(texts) > explained {
		words = append(words, "…")
	}
	return strings.Join(words, " or ")
}

// CookieNames returns the names of the cookies that a request carries, each once, for
// whoever is to find out why none of them is looked at. What could be an identifier
// within a name is a *, and what is too much is left out.
func CookieNames(h http.Header) (names []string) {
	for _, line := range h["Cookie"] {
		for line != "" && len(names) < explained {
			var pair cookie
			pair, line = nextCookie(line)
			if name := withoutIDs(pair.name); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// withoutIDs puts a * in the place of what could be an identifier in the name of a
// cookie, as WordPress has the number of an account in one, and of bytes that no name
// has. That is a number, or a longer word with a digit in it.
func withoutIDs(name string) string {
	if len(name) > explainedBytes {
		name = name[:explainedBytes]
	}
	var out strings.Builder
	for name != "" {
		n := 0
		for n < len(name) && isAlphanumeric(name[n]) {
			n++
		}
		word := name[:n]
		switch digits := strings.IndexFunc(word, isDigit) >= 0; {
		case digits && (len(word) >= 12 || strings.TrimFunc(word, isDigit) == ""):
			out.WriteByte('*')
		default:
			out.WriteString(word)
		}
		if name = name[n:]; name != "" {
			if c := name[0]; c > ' ' && c < 0x7f {
				out.WriteByte(c)
			} else {
				out.WriteByte('*')
			}
			name = name[1:]
		}
	}
	return out.String()
}

func isDigit(r rune) bool { return '0' <= r && r <= '9' }

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Interface guards
var _ Explainer = (*Bearer)(nil)
