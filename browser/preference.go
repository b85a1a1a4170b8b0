package browser

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/policy"
)

// Choice is what somebody chose on the preference page. The zero value is no
// choice.
type Choice uint8

const (
	// Follow this browser's setting: the account holds no choice of its own.
	Follow Choice = iota + 1
	// OptOut: the account is not measured.
	OptOut
	// Allow: the account is measured.
	Allow
	// BrowserOptOut: this browser is not measured, whoever uses it.
	BrowserOptOut
	// BrowserUndo takes BrowserOptOut back.
	BrowserUndo

	// ChoiceCount is one more than the last choice, for tables indexed by
	// Choice.
	ChoiceCount
)

var choiceNames = [ChoiceCount]string{
	0: "none", Follow: "follow", OptOut: "optout", Allow: "allow",
	BrowserOptOut: "browser_optout", BrowserUndo: "browser_undo",
}

// String returns the choice as the form and metrics spell it.
func (c Choice) String() string { return choiceNames[c] }

// Preference returns what the choice makes of the account's preference, and
// false for one that is not about an account.
func (c Choice) Preference() (policy.Preference, bool) {
	switch c {
	case Follow:
		return policy.Unset, true
	case OptOut:
		return policy.OptedOut, true
	case Allow:
		return policy.Allowed, true
	default:
		return policy.Unknown, false
	}
}

// choiceOf is the choice that an account made, or the zero value.
func choiceOf(p policy.Preference) Choice {
	switch p {
	case policy.Unset:
		return Follow
	case policy.OptedOut:
		return OptOut
	case policy.Allowed:
		return Allow
	default:
		return 0
	}
}

// ChoiceResult says what became of a choice. The zero value says that there was
// none.
type ChoiceResult uint8

const (
	// Saved: the choice holds.
	Saved ChoiceResult = iota + 1
	// Conflict: the account's choice was changed meanwhile; nothing is saved
	// before the user has decided.
	Conflict
	// NotSaved: the profile server did not confirm the choice, or nobody is
	// signed in any more whose choice it could be.
	NotSaved

	// ChoiceResultCount is one more than the last result, for tables indexed
	// by ChoiceResult.
	ChoiceResultCount
)

var choiceResultNames = [ChoiceResultCount]string{0: "none", Saved: "saved", Conflict: "conflict", NotSaved: "not_saved"}

// String returns the result as metrics spell it.
func (r ChoiceResult) String() string { return choiceResultNames[r] }

// maxFormETag is far more than a version takes.
const maxFormETag = 256

// ParseChoice reads the preference page's form: what was chosen, and the
// version of the account's choice that the user saw, if any. The caller
// bounds the body. The error says nothing of what was sent.
func ParseChoice(r *http.Request) (choice Choice, etag string, err error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return 0, "", errors.New("send the form of the preference page, as application/x-www-form-urlencoded")
	}
	if r.ParseForm() != nil {
		return 0, "", errors.New("the form cannot be read; send it from the preference page")
	}
	chosen, versions := r.PostForm["choice"], r.PostForm["etag"]
	for c := Follow; c < ChoiceCount; c++ {
		if len(chosen) == 1 && chosen[0] == c.String() {
			choice = c
		}
	}
	if choice == 0 {
		names := strings.Join(choiceNames[Follow:], ", ")
		return 0, "", fmt.Errorf("the form holds no choice; send one of %s", names)
	}
	if len(versions) > 0 {
		etag = versions[0]
	}
	if len(versions) > 1 || etag != "" && !isStrongETag(etag) {
		return 0, "", errors.New("the form's etag is not an ETag; send the form of the preference page as it is")
	}
	return choice, etag, nil
}

// isStrongETag says whether a text is one strong entity tag (RFC 9110, section
// 8.8.3), so that nothing else gets into a header.
func isStrongETag(text string) bool {
	opaque, opened := strings.CutPrefix(text, `"`)
	opaque, closed := strings.CutSuffix(opaque, `"`)
	return opened && closed && len(text) <= maxFormETag && !strings.ContainsFunc(opaque, func(r rune) bool {
		return r <= ' ' || r == '"' || r == 0x7f
	})
}

// View is all that the preference page shows. Its zero value is somebody who
// is not signed in and nothing is known of.
type View struct {
	// SiteName is what the page calls the site.
	SiteName string

	// Locale is the request's Accept-Language.
	Locale string

	// SignedIn says that the session is verified; Preference is that
	// account's, as it is now. FromBrowser and ChangedAt say where it came
	// from and when, as far as that is known.
	SignedIn    bool
	Preference  policy.Preference
	FromBrowser bool
	ChangedAt   time.Time

	// CanChoose says that there is a profile to write into, though it may be
	// out of reach now. ETag is the version of Preference or, where that is
	// unknown, the one that the form brought, so that the next try does not
	// overwrite what the user never saw.
	CanChoose bool
	ETag      string

	// FormAccount goes into the form and comes back as its field account: which
	// account the form was made for.
	FormAccount string

	// Signal is what this browser asks for; it is shown even where the
	// account decides. Sticky says that BrowserOptOut holds.
	Signal policy.Signal
	Sticky bool

	// Decision is what all of this leads to. Undecided says that it may not be
	// told: the choice of an account decides that nobody has proven, such as
	// one whose sign-in has expired.
	Decision  policy.Decision
	Undecided bool

	// NoAccounts says that no request can prove an account here, so that the page
	// speaks of this browser alone. AccountURL is where the choice of an account
	// is made then, or empty.
	NoAccounts bool
	AccountURL string

	// Result says what became of the choice Asked, where one was made.
	Result ChoiceResult
	Asked  Choice
}

//go:embed preference.html
var preferenceHTML string

//go:embed preference.css
var preferenceCSS []byte

// PreferencePage is the page on which people see what is decided for them,
// and choose. It has no script.
type PreferencePage struct {
	template *template.Template
}

// NewPreferencePage makes a PreferencePage.
func NewPreferencePage() *PreferencePage {
	return &PreferencePage{template.Must(template.New("preference").Parse(preferenceHTML))}
}

// Render answers with the page. It is for one person at one moment, so nobody
// keeps it, and nobody can put it into a frame to have a click go astray. The
// referrer stays within the site: without one, browsers send the form with
// Origin: null, which is refused.
func (p *PreferencePage) Render(w http.ResponseWriter, status int, v View) {
	locale := localeFor(v.Locale)
	var page bytes.Buffer
	if err := p.template.Execute(&page, newPreferenceText(v, locale)); err != nil {
		http.Error(w, "this page is broken; nothing was changed by showing it", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Language", locale.tag.String())
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'")
	header.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	header.Add("Vary", "Accept-Language")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // whoever asked is gone: nobody is left to tell
}

// ServePreferenceCSS serves the page's style sheet.
func ServePreferenceCSS(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256(preferenceCSS)
	serveAsset(w, r, "text/css; charset=utf-8", "no-cache", base64.RawURLEncoding.EncodeToString(sum[:12]), preferenceCSS)
}

// preferenceText is a View in words: what the template asks for, mostly keys
// of a locale's texts.
type preferenceText struct {
	View
	locale locale
	fill   *strings.Replacer
}

func newPreferenceText(v View, l locale) *preferenceText {
	// Nobody can be asked whether to overwrite what nobody knows.
	if v.Result == Conflict && v.Preference == policy.Unknown {
		v.Result = NotSaved
	}
	values := []string{"{site}", v.SiteName}
	if !v.ChangedAt.IsZero() {
		values = append(values, "{date}", l.date(v.ChangedAt))
	}
	for name, choice := range map[string]Choice{"{held}": choiceOf(v.Preference), "{asked}": v.Asked} {
		if choice != 0 {
			values = append(values, name, l.text["choice_"+choice.String()])
		}
	}
	return &preferenceText{v, l, strings.NewReplacer(values...)}
}

// T returns a text of the locale, filled in.
func (p *preferenceText) T(key string) (string, error) {
	text, found := p.locale.text[key]
	if !found {
		return "", fmt.Errorf("there is no text %q in %v", key, p.locale.tag)
	}
	return p.fill.Replace(text), nil
}

// Tag is the language.
func (p *preferenceText) Tag() string { return p.locale.tag.String() }

// Base is where the forms are sent to.
func (p *preferenceText) Base() string { return Base }

// Message is the text about what became of a choice, or empty.
func (p *preferenceText) Message() string {
	switch {
	case p.Result == 0:
		return ""
	case p.Result == NotSaved && !p.SignedIn:
		return "not_saved_signed_out"
	}
	return p.Result.String()
}

// Question says that the user is asked whether to overwrite a choice that was
// made elsewhere. Nothing else can be chosen before that is answered.
func (p *preferenceText) Question() bool { return p.Result == Conflict }

// OffersChoice says that there is something to choose for the account: not
// while nobody knows what it holds, except to try again what was not saved.
func (p *preferenceText) OffersChoice() bool {
	return p.SignedIn && p.CanChoose && (p.Preference != policy.Unknown || p.Result == NotSaved)
}

// Choices are those for an account, with equal weight.
func (p *preferenceText) Choices() []Choice { return []Choice{Follow, OptOut, Allow} }

// Selected is the choice that is marked in the form.
func (p *preferenceText) Selected() Choice {
	if p.Result == NotSaved {
		return p.Asked
	}
	return choiceOf(p.Preference)
}

// Verdict says what the decision comes to.
func (p *preferenceText) Verdict() string {
	if p.Undecided {
		return p.elsewhere("undecided")
	}
	if p.Decision.Action == policy.Collect {
		return "measured"
	}
	return "not_measured"
}

// Why says which of account and browser decided, and why that one.
func (p *preferenceText) Why() string {
	if p.Undecided {
		return p.elsewhere("why_undecided")
	}
	switch p.Decision.Reason {
	case policy.ReasonPreference:
		return "why_account_optout"
	case policy.ReasonExplicitAllow:
		if p.asksNotToBeMeasured() {
			return "why_account_over_browser"
		}
		return "why_account_allow"
	case policy.ReasonSignal:
		switch {
		case p.NoAccounts:
			return "why_browser_only"
		case !p.SignedIn:
			return "why_browser"
		case p.Preference == policy.Unknown:
			return "why_browser_alone"
		}
		return "why_browser_followed"
	case policy.ReasonDefault:
		switch {
		case p.NoAccounts:
			return "why_default_only"
		case p.SignedIn:
			return "why_default_followed"
		}
		return "why_default"
	case policy.ReasonUnverifiedSession:
		return "why_unverified_" + p.Verdict()
	case policy.ReasonProbing:
		return "why_probing_" + p.Verdict()
	default:
		return "why_unknown_" + p.Verdict()
	}
}

// elsewhere is the text for where accounts are out of this page's sight.
func (p *preferenceText) elsewhere(key string) string {
	if p.NoAccounts {
		return key + "_elsewhere"
	}
	return key
}

func (p *preferenceText) asksNotToBeMeasured() bool {
	return p.Signal == policy.SignalOptedOut || p.Signal == policy.SignalUnrecorded
}

// Account says what the account's choice is.
func (p *preferenceText) Account() string {
	switch {
	case p.Decision.Reason == policy.ReasonUnverifiedSession:
		return "account_unverified"
	case !p.SignedIn:
		return "account_none"
	case p.Preference == policy.Unknown:
		return "account_unknown"
	}
	return "choice_" + choiceOf(p.Preference).String()
}

// AccountWhy says where that choice came from, as far as it is known.
func (p *preferenceText) AccountWhy() string {
	dated := !p.ChangedAt.IsZero()
	switch {
	case !p.SignedIn || p.Preference == policy.Unknown:
		return ""
	case p.FromBrowser && dated:
		return "from_browser_on"
	case p.FromBrowser:
		return "from_browser"
	case dated:
		return "changed_on"
	}
	return ""
}

// Browser says what this browser asks for.
func (p *preferenceText) Browser() string {
	switch p.Signal {
	case policy.SignalOptedOut, policy.SignalUnrecorded:
		return "browser_optout"
	case policy.SignalNoObjection:
		return "browser_no_objection"
	case policy.SignalProbing:
		return "browser_probing"
	default:
		return "browser_none"
	}
}

// BrowserWhy says how it does so, where there is more to say.
func (p *preferenceText) BrowserWhy() string {
	switch {
	case p.Signal == policy.SignalNoObjection:
		return "browser_no_objection_why"
	case p.Signal == policy.SignalUnrecorded:
		return "browser_optout_header"
	case p.Signal == policy.SignalOptedOut && p.Sticky:
		return "browser_optout_sticky"
	}
	return ""
}
