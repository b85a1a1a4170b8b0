package browser_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
)

// siteHere is what the page calls the site here. It looks like HTML and like a
// placeholder, and is neither.
const siteHere = `<b>"Ann & Bob"</b> {date}`

var (
	preferencePage = browser.NewPreferencePage()
	noon           = time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
)

// preferenceView is what the gate would say of a request.
func preferenceView(rules policy.Rules, s policy.Session, p policy.Preference, signal policy.Signal) browser.View {
	if s != policy.Verified {
		p = policy.Unknown
	}
	return browser.View{
		SiteName: siteHere, SignedIn: s == policy.Verified, CanChoose: s == policy.Verified,
		Preference: p, Signal: signal, Decision: rules.Decide(s, p, signal), ETag: `"v1"`,
	}
}

// shownPage is a page as a reader finds it.
type shownPage struct {
	response *http.Response
	root     *html.Node
	text     string // all that is there to read, with single spaces
}

func showPreference(t testing.TB, v browser.View) shownPage {
	t.Helper()
	recorder := httptest.NewRecorder()
	preferencePage.Render(recorder, http.StatusOK, v)
	page := shownPage{response: recorder.Result()}
	if page.response.StatusCode != http.StatusOK {
		t.Fatalf("%+v: %s", v, recorder.Body)
	}
	root, err := html.Parse(recorder.Body)
	if err != nil {
		t.Fatal(err)
	}
	page.root = root
	var text strings.Builder
	for node := range root.Descendants() {
		if node.Type == html.TextNode {
			text.WriteString(node.Data)
		}
	}
	page.text = strings.Join(strings.Fields(text.String()), " ")
	return page
}

// all returns the elements of a name, in their order.
func (p shownPage) all(name string) (found []*html.Node) {
	for node := range p.root.Descendants() {
		if node.Type == html.ElementNode && node.Data == name {
			found = append(found, node)
		}
	}
	return found
}

// value is an attribute's, or "absent".
func value(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return "absent"
}

// offers returns what the page's forms can send: the choices, * at the one
// that is marked, and "reload" for a form that only asks for the page again.
func (p shownPage) offers() (choices []string) {
	for node := range p.root.Descendants() {
		switch {
		case node.Type != html.ElementNode:
		case value(node, "name") == "choice":
			choice := value(node, "value")
			if value(node, "checked") != "absent" {
				choice += "*"
			}
			choices = append(choices, choice)
		case node.Data == "form" && value(node, "method") == "get":
			choices = append(choices, "reload")
		}
	}
	return choices
}

// texts are those of a locale, by key.
func texts(t testing.TB, language string) (all map[string]string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("locales", language+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func languages(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob("locales/*.json")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".json"))
	}
	return names
}

// TestLanguagesSayTheSame: every language has every text, with everything that
// is filled in.
func TestLanguagesSayTheSame(t *testing.T) {
	t.Parallel()
	english := texts(t, "en")
	for _, language := range languages(t) {
		translated := texts(t, language)
		for key, text := range translated {
			if _, found := english[key]; !found {
				t.Errorf("%s: %q is no text of the page", language, key)
			}
			if strings.TrimSpace(text) == "" || text != strings.TrimSpace(text) {
				t.Errorf("%s: %q is empty, or has space around it", language, key)
			}
		}
		for key, text := range english {
			if translated[key] == "" {
				t.Errorf("%s: %q is missing", language, key)
				continue
			}
			if diff := cmp.Diff(braces(text), braces(translated[key])); diff != "" {
				t.Errorf("%s: %q (-English +here):\n%s", language, key, diff)
			}
		}
		if months := strings.Split(translated["months"], " "); len(months) != 12 {
			t.Errorf("%s: %d months", language, len(months))
		}
		if direction := translated["direction"]; direction != "ltr" && direction != "rtl" {
			t.Errorf("%s: direction %q; write ltr or rtl", language, direction)
		}
	}
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// braces returns what is filled into a text, each once.
func braces(text string) []string {
	found := placeholder.FindAllString(text, -1)
	slices.Sort(found)
	return slices.Compact(found)
}

// TestEveryPage goes through all that the gate can say, in every language.
// There is a text for each, each text has its place, and each page holds what
// a keyboard or a screen reader needs.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	for _, language := range languages(t) {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			unseen := texts(t, language)
			verdict := map[policy.Action]string{policy.Block: unseen["not_measured"], policy.Collect: unseen["measured"]}
			undecided, elsewhere := unseen["undecided"], unseen["undecided_elsewhere"]
			for _, key := range []string{"months", "date", "direction"} {
				delete(unseen, key)
			}
			pieces := map[string][]string{} // of the texts, between what is filled in
			for key, text := range unseen {
				for _, piece := range placeholder.Split(text, -1) {
					pieces[key] = append(pieces[key], strings.TrimSpace(piece))
				}
			}
			views(func(v browser.View) {
				v.Locale = language
				page := showPreference(t, v)
				checkAccessible(t, page, language)
				want := verdict[v.Decision.Action]
				switch {
				case v.Undecided && v.NoAccounts:
					want = elsewhere
				case v.Undecided:
					want = undecided
				}
				for _, says := range []string{verdict[policy.Block], verdict[policy.Collect], undecided, elsewhere} {
					if got := strings.Contains(page.text, " "+says+" "); got != (says == want) {
						t.Errorf("%+v: says %q: %t:\n%s", v, says, got, page.text)
					}
				}
				if left := braces(strings.ReplaceAll(page.text, siteHere, "")); len(left) > 0 {
					t.Errorf("%+v: %s is not filled in:\n%s", v, left, page.text)
				}
				for key := range unseen {
					if !slices.ContainsFunc(pieces[key], func(piece string) bool { return !strings.Contains(page.text, piece) }) {
						delete(unseen, key)
					}
				}
			})
			for key := range unseen {
				t.Errorf("%q is on no page", key)
			}
		})
	}
}

// views calls use with all that the gate can say.
func views(use func(browser.View)) {
	actions := []policy.Action{policy.Block, policy.Collect}
	for _, unknown := range actions {
		for _, unset := range actions {
			rules := policy.Rules{OnUnknown: unknown, OnUnset: unset}
			for session := policy.Unverifiable; session <= policy.Verified; session++ {
				for preference := policy.Unknown; preference <= policy.OptedOut; preference++ {
					for signal := policy.SignalNone; signal <= policy.SignalOptedOut; signal++ {
						v := preferenceView(rules, session, preference, signal)
						variants(v, use)
					}
					if session != policy.Verified {
						break // it has no preference
					}
				}
			}
		}
	}
}

// variants calls use with what else can be said of one decision. Where nobody has
// proven an account, it may be that nobody can.
func variants(v browser.View, use func(browser.View)) {
	if !v.SignedIn {
		alone := v
		alone.NoAccounts, alone.AccountURL = true, "https://accounts.example.org/settings"
		variantsOf(alone, use)
	}
	variantsOf(v, use)
}

func variantsOf(v browser.View, use func(browser.View)) {
	if v.Decision.Action == policy.Collect {
		undecided := v
		undecided.Undecided = true
		undecided.Decision = policy.Decision{Action: policy.Collect, Reason: policy.ReasonUnknown}
		use(undecided)
		undecided.Decision.Action = policy.Block
		use(undecided)
	}
	for _, v.Sticky = range []bool{false, true} {
		if v.Sticky && v.Signal != policy.SignalOptedOut {
			break // it is what the browser says then
		}
		use(v)
		v.Result = browser.Saved
		use(v)
		v.Result = 0
		if !v.SignedIn {
			v.Result, v.Asked = browser.NotSaved, browser.Allow
			use(v)
			v.Result, v.Asked = 0, 0
			continue
		}
		v.CanChoose = false
		use(v)
		v.CanChoose = true
		for _, v.FromBrowser = range []bool{false, true} {
			for _, v.ChangedAt = range []time.Time{{}, noon} {
				use(v)
			}
		}
		for _, v.Result = range []browser.ChoiceResult{browser.Conflict, browser.NotSaved} {
			for v.Asked = browser.Follow; v.Asked <= browser.Allow; v.Asked++ {
				use(v)
			}
		}
		v.Result, v.Asked, v.FromBrowser, v.ChangedAt = 0, 0, false, time.Time{}
	}
}

func checkAccessible(t *testing.T, page shownPage, language string) {
	t.Helper()
	root := page.all("html")[0]
	if value(root, "lang") != language || page.response.Header.Get("Content-Language") != language {
		t.Errorf("language %s, Content-Language %s", value(root, "lang"), page.response.Header.Get("Content-Language"))
	}
	if n := len(page.all("h1")); n != 1 {
		t.Errorf("%d h1", n)
	}
	if len(page.all("main")) != 1 || len(page.all("title")) != 1 || page.all("title")[0].FirstChild == nil {
		t.Error("no main, or no title")
	}
	ids := map[string]bool{}
	for node := range page.root.Descendants() {
		if id := value(node, "id"); id != "absent" {
			if ids[id] {
				t.Errorf("id %q twice", id)
			}
			ids[id] = true
		}
		for _, forbidden := range []string{"style", "onclick", "autofocus", "tabindex"} {
			if value(node, forbidden) != "absent" {
				t.Errorf("%s on %s", forbidden, node.Data)
			}
		}
	}
	for _, section := range page.all("section") {
		if label := value(section, "aria-labelledby"); label != "absent" && !ids[label] {
			t.Errorf("nothing is called %q", label)
		}
	}
	if len(page.all("script"))+len(page.all("style"))+len(page.all("img")) > 0 {
		t.Error("the page has what its policy does not let it have")
	}
	for _, form := range page.all("form") {
		if got := value(form, "action"); got != "/.well-known/metrics-gate/preference" {
			t.Errorf("a form is sent to %q", got)
		}
	}
	radios := 0
	for _, input := range page.all("input") {
		if value(input, "type") == "radio" {
			radios++
			if input.Parent.Data != "label" || value(input, "required") == "absent" {
				t.Error("a choice without its label, or that can be left out")
			}
		}
	}
	if legends := len(page.all("legend")); (radios == 3) != (legends == 1) || radios%3 != 0 {
		t.Errorf("%d choices in a form with %d legends", radios, legends)
	}
}

// TestWhichWins: what the page says of account and browser, and which of the
// two counts.
func TestWhichWins(t *testing.T) {
	t.Parallel()
	defaults := policy.DefaultRules()
	consentFirst := policy.Rules{OnUnknown: policy.Block, OnUnset: policy.Block}
	open := policy.Rules{OnUnknown: policy.Collect, OnUnset: policy.Collect}
	for name, test := range map[string]struct {
		view browser.View
		want []string
	}{
		"an opt-out before a browser without objection": {
			preferenceView(defaults, policy.Verified, policy.OptedOut, policy.SignalNoObjection),
			[]string{"You are not measured.", "Your account says “Do not measure me”", "Your account Do not measure me", "This browser Does not object"},
		},
		"allowed before a browser that objects": {
			preferenceView(defaults, policy.Verified, policy.Allowed, policy.SignalOptedOut),
			[]string{"You are measured.", "This browser asks not to be measured, but your account says “Allow”", "Your account Allow", "This browser Asks not to be measured"},
		},
		"allowed": {
			preferenceView(defaults, policy.Verified, policy.Allowed, policy.SignalNone),
			[]string{"You are measured.", "Your account says “Allow”, and a choice in the account counts before", "This browser Does not say anything"},
		},
		"the browser before no choice": {
			preferenceView(defaults, policy.Verified, policy.Unset, policy.SignalUnrecorded),
			[]string{"You are not measured.", "Your account follows the browser, and this browser asks", "Your account Follow this browser's setting", "Global Privacy Control"},
		},
		"no choice anywhere": {
			preferenceView(defaults, policy.Verified, policy.Unset, policy.SignalNone),
			[]string{"You are measured.", "Nobody chose: your account follows the browser"},
		},
		"no choice where consent comes first": {
			preferenceView(consentFirst, policy.NoSession, 0, policy.SignalNoObjection),
			[]string{"You are not measured.", "Nobody chose: there is no account signed in", "Your account Not signed in", "That is not taken for consent"},
		},
		"only the browser": {
			preferenceView(defaults, policy.Expired, 0, policy.SignalOptedOut),
			[]string{"You are not measured.", "there is no account signed in that says otherwise"},
		},
		"a profile server that is away": {
			preferenceView(defaults, policy.Verified, policy.Unknown, policy.SignalNone),
			[]string{"You are not measured.", "Until it is known, nothing is measured", "Your account Could not be learnt just now", "does not answer"},
		},
		"a profile server that is away, where that collects": {
			preferenceView(open, policy.Verified, policy.Unknown, policy.SignalNone),
			[]string{"You are measured.", "Until it is known, " + siteHere + " measures"},
		},
		"a profile server that is away, and a browser that objects": {
			preferenceView(open, policy.Verified, policy.Unknown, policy.SignalOptedOut),
			[]string{"You are not measured.", "This browser asks not to be measured. What your account says could not be learnt"},
		},
		"a session that cannot be verified": {
			preferenceView(defaults, policy.Unverifiable, 0, policy.SignalNone),
			[]string{"You are not measured.", "You seem to be signed in", "Your account Could not be verified"},
		},
		"a browser that is being asked": {
			preferenceView(defaults, policy.NoSession, 0, policy.SignalProbing),
			[]string{"You are not measured.", "has not answered yet. Until it has, nothing is measured"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page := showPreference(t, test.view)
			for _, want := range test.want {
				if !strings.Contains(page.text, want) {
					t.Errorf("not %q:\n%s", want, page.text)
				}
			}
		})
	}
}

// TestWhereTheChoiceCameFrom: people learn what their browser wrote for them.
func TestWhereTheChoiceCameFrom(t *testing.T) {
	t.Parallel()
	view := preferenceView(policy.DefaultRules(), policy.Verified, policy.OptedOut, policy.SignalNone)
	late := time.Date(2026, 12, 31, 23, 30, 0, 0, time.FixedZone("west", -3600)) // a day later in UTC
	for want, change := range map[string]func(*browser.View){
		"Do not measure me Set from your browser on 9 March 2026 This browser":          func(v *browser.View) { v.FromBrowser, v.ChangedAt = true, noon },
		"Do not measure me Set from your browser on 1 January 2027 This browser":        func(v *browser.View) { v.FromBrowser, v.ChangedAt = true, late },
		"Do not measure me Set from your browser This browser":                          func(v *browser.View) { v.FromBrowser = true },
		"Do not measure me Set on 9 March 2026 This browser":                            func(v *browser.View) { v.ChangedAt = noon },
		"Do not measure me This browser":                                                func(*browser.View) {},
		"Mich nicht messen Am 9. März 2026 von Ihrem Browser übernommen Dieser Browser": func(v *browser.View) { v.FromBrowser, v.ChangedAt, v.Locale = true, noon, "de" },
	} {
		shown := view
		change(&shown)
		if page := showPreference(t, shown); !strings.Contains(page.text, want) {
			t.Errorf("not %q:\n%s", want, page.text)
		}
	}
}

// TestOffers: who can choose what.
func TestOffers(t *testing.T) {
	t.Parallel()
	type change = func(*browser.View)
	for name, test := range map[string]struct {
		session    policy.Session
		preference policy.Preference
		change     change
		want       []string
	}{
		"no choice yet":                  {policy.Verified, policy.Unset, func(*browser.View) {}, []string{"follow*", "optout", "allow"}},
		"opted out":                      {policy.Verified, policy.OptedOut, func(*browser.View) {}, []string{"follow", "optout*", "allow"}},
		"allowed":                        {policy.Verified, policy.Allowed, func(*browser.View) {}, []string{"follow", "optout", "allow*"}},
		"in a browser that opted out":    {policy.Verified, policy.Unset, func(v *browser.View) { v.Sticky = true }, []string{"follow*", "optout", "allow", "browser_undo"}},
		"nothing to write into":          {policy.Verified, policy.Unset, func(v *browser.View) { v.CanChoose = false }, []string{"browser_optout"}},
		"the profile is away":            {policy.Verified, policy.Unknown, func(*browser.View) {}, []string{"reload", "browser_optout"}},
		"the profile is away, undoing":   {policy.Verified, policy.Unknown, func(v *browser.View) { v.Sticky = true }, []string{"reload", "browser_undo"}},
		"not saved":                      {policy.Verified, policy.Unset, func(v *browser.View) { v.Result, v.Asked = browser.NotSaved, browser.Allow }, []string{"follow", "optout", "allow*"}},
		"not saved, and still away":      {policy.Verified, policy.Unknown, func(v *browser.View) { v.Result, v.Asked = browser.NotSaved, browser.OptOut }, []string{"follow", "optout*", "allow"}},
		"changed elsewhere":              {policy.Verified, policy.OptedOut, func(v *browser.View) { v.Result, v.Asked = browser.Conflict, browser.Allow }, []string{"allow", "reload"}},
		"changed elsewhere, then away":   {policy.Verified, policy.Unknown, func(v *browser.View) { v.Result, v.Asked = browser.Conflict, browser.Allow }, []string{"follow", "optout", "allow*"}},
		"nobody":                         {policy.NoSession, 0, func(*browser.View) {}, []string{"browser_optout"}},
		"nobody, in one that opted out":  {policy.NoSession, 0, func(v *browser.View) { v.Sticky = true }, []string{"browser_undo"}},
		"nobody any more":                {policy.NoSession, 0, func(v *browser.View) { v.Result, v.Asked = browser.NotSaved, browser.Allow }, []string{"browser_optout"}},
		"a session that has expired":     {policy.Expired, 0, func(*browser.View) {}, []string{"browser_optout"}},
		"a session that is not verified": {policy.Unverifiable, 0, func(*browser.View) {}, []string{"browser_optout"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			view := preferenceView(policy.DefaultRules(), test.session, test.preference, policy.SignalNone)
			test.change(&view)
			page := showPreference(t, view)
			if diff := cmp.Diff(test.want, page.offers()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestResults: what became of a choice is said first, in a place that screen
// readers tell of, and in the title.
func TestResults(t *testing.T) {
	t.Parallel()
	view := preferenceView(policy.DefaultRules(), policy.Verified, policy.OptedOut, policy.SignalNone)
	view.Asked = browser.Allow
	for result, want := range map[browser.ChoiceResult]struct{ role, text, title string }{
		browser.Saved:    {"status", "Saved. It holds from now on.", "Saved – "},
		browser.NotSaved: {"alert", "“Allow” is not saved: the service that keeps your choice did not confirm it. Please try again.", "Not saved – "},
		browser.Conflict: {"alert", "Your choice was changed elsewhere to “Do not measure me” meanwhile. Save “Allow” all the same? Save “Allow” Keep “Do not measure me”", "A question – "},
		0:                {"", "", "Being measured"},
	} {
		view.Result = result
		page := showPreference(t, view)
		var roles []string
		for node := range page.root.Descendants() {
			if role := value(node, "role"); role != "absent" {
				roles = append(roles, role)
			}
		}
		if got := strings.Join(roles, " "); got != want.role {
			t.Errorf("%v: roles %q, want %q", result, got, want.role)
		}
		if !strings.Contains(page.text, "how you use it? "+want.text) {
			t.Errorf("%v: not %q:\n%s", result, want.text, page.text)
		}
		if title := page.all("title")[0].FirstChild.Data; !strings.HasPrefix(title, want.title) {
			t.Errorf("%v: title %q", result, title)
		}
	}
}

// TestFormsCanBeRead: what the page's forms send is what was chosen, with the
// version that the page was made with, whatever is in it.
func TestFormsCanBeRead(t *testing.T) {
	t.Parallel()
	const version = `"a&b<c>'+%20é"`
	for _, result := range []browser.ChoiceResult{0, browser.Conflict, browser.NotSaved} {
		view := preferenceView(policy.DefaultRules(), policy.Verified, policy.OptedOut, policy.SignalOptedOut)
		view.Result, view.Asked, view.ETag, view.Sticky = result, browser.Allow, version, true
		for _, form := range showPreference(t, view).all("form") {
			for node := range form.Descendants() {
				if value(node, "name") != "choice" {
					continue
				}
				sent, want := url.Values{"choice": {value(node, "value")}}, ""
				for other := range form.Descendants() {
					if value(other, "type") == "hidden" {
						sent.Set(value(other, "name"), value(other, "value"))
						want = version
					}
				}
				choice, etag, err := browser.ParseChoice(formRequest("application/x-www-form-urlencoded", sent.Encode()))
				if err != nil || choice.String() != value(node, "value") || etag != want {
					t.Errorf("%v: %v, %q, %v", sent, choice, etag, err)
				}
				if _, forAccount := choice.Preference(); forAccount != (etag != "") {
					t.Errorf("%v goes with version %q", choice, etag)
				}
			}
		}
	}
}

func formRequest(kind, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, browser.Base+"preference", strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	return r
}

// TestParseChoice: what a form may hold, and that what is wrong is not
// repeated to anybody.
func TestParseChoice(t *testing.T) {
	t.Parallel()
	const form = "application/x-www-form-urlencoded"
	for _, test := range []struct {
		kind, body string
		choice     browser.Choice
		etag       string
	}{
		{form, "choice=follow", browser.Follow, ""},
		{form, "choice=optout&etag=", browser.OptOut, ""},
		{form + "; charset=utf-8", "choice=allow&etag=%22v1%22", browser.Allow, `"v1"`},
		{form, "etag=%22%22&choice=allow", browser.Allow, `""`},
		{form, "choice=browser_optout&more=of+it", browser.BrowserOptOut, ""},
		{form, "choice=browser_undo", browser.BrowserUndo, ""},

		{form, "", 0, ""},
		{form, "choice=", 0, ""},
		{form, "choice=none", 0, ""},
		{form, "choice=s3cret", 0, ""},
		{form, "choice=Allow", 0, ""},
		{form, "choice=allow&choice=allow", 0, ""},
		{form, "choice=allow&etag=s3cret", 0, ""},
		{form, "choice=allow&etag=*", 0, ""},
		{form, "choice=allow&etag=%22", 0, ""},
		{form, "choice=allow&etag=W/%22s3cret%22", 0, ""},
		{form, "choice=allow&etag=%22a%22,%22b%22", 0, ""},
		{form, "choice=allow&etag=%22a%0d%0aX:s3cret%22", 0, ""},
		{form, "choice=allow&etag=%22a%22&etag=%22a%22", 0, ""},
		{form, "choice=allow&etag=%22" + strings.Repeat("s3cret", 100) + "%22", 0, ""},
		{form, "choice=%zz", 0, ""},
		{"text/plain", "choice=allow", 0, ""},
		{"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=choice\r\n\r\nallow\r\n--x--", 0, ""},
		{"application/json", `{"choice":"allow"}`, 0, ""},
		{"", "choice=allow", 0, ""},
	} {
		choice, etag, err := browser.ParseChoice(formRequest(test.kind, test.body))
		if choice != test.choice || etag != test.etag || (err == nil) != (test.choice != 0) {
			t.Errorf("%s %q: %v, %q, %v", test.kind, test.body, choice, etag, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s %q: %v", test.kind, test.body, err)
		}
	}
	elsewhere := formRequest(form, "")
	elsewhere.URL.RawQuery = "choice=allow"
	if choice, _, err := browser.ParseChoice(elsewhere); err == nil {
		t.Errorf("%v from the address", choice)
	}
}

// TestPreferencesOfChoices: what each choice writes.
func TestPreferencesOfChoices(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"none": "unknown", "follow": "null", "optout": "true", "allow": "false", "browser_optout": "unknown", "browser_undo": "unknown",
	}
	got := map[string]string{}
	for c := range browser.ChoiceCount {
		preference, forAccount := c.Preference()
		got[c.String()] = preference.String()
		if forAccount == (preference == policy.Unknown) {
			t.Errorf("%v: %v, %t", c, preference, forAccount)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var results []string
	for r := range browser.ChoiceResultCount {
		results = append(results, r.String())
	}
	if diff := cmp.Diff([]string{"none", "saved", "conflict", "not_saved"}, results); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPreferenceHeaders: the page is nobody else's, and cannot be framed.
func TestPreferenceHeaders(t *testing.T) {
	t.Parallel()
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Vary", "Accept-Encoding")
	preferencePage.Render(recorder, http.StatusConflict, browser.View{Locale: "de-CH"})
	if recorder.Code != http.StatusConflict {
		t.Errorf("status %d", recorder.Code)
	}
	want := http.Header{
		"Content-Type":            {"text/html; charset=utf-8"},
		"Content-Language":        {"de"},
		"Cache-Control":           {"no-store"},
		"Content-Security-Policy": {"default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"},
		"X-Frame-Options":         {"DENY"},
		"X-Content-Type-Options":  {"nosniff"},
		"Referrer-Policy":         {"same-origin"},
		"Vary":                    {"Accept-Encoding", "Accept-Language"},
	}
	if diff := cmp.Diff(want, recorder.Header()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLanguageOfThePage(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":                                 "en",
		"*":                                "en",
		"de":                               "de",
		"DE-at, en;q=0.5":                  "de",
		"tlh-AQ, tlh;q=0.9, de;q=0.4":      "de", // a language that the page will hardly get
		"en-GB, de;q=0.9":                  "en",
		"xx, tlh":                          "en",
		"de;q=0":                           "en",
		";;;,,,q=de":                       "en",
		strings.Repeat("x-", 1000):         "en",
		strings.Repeat("tlh,", 800) + "de": "de",
	} {
		if got := showPreference(t, browser.View{Locale: accept}).response.Header.Get("Content-Language"); got != want {
			t.Errorf("%.40q: %s, want %s", accept, got, want)
		}
	}
}

// TestPreferenceCSS: the style sheet asks for nothing else, and browsers keep
// it until it changes.
func TestPreferenceCSS(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(browser.ServePreferenceCSS)
	first := serve(t, handler, http.MethodGet, browser.Base+"preference.css")
	text := body(t, first)
	if first.StatusCode != http.StatusOK || first.Header.Get("Content-Type") != "text/css; charset=utf-8" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("status %d, %v", first.StatusCode, first.Header)
	}
	for _, forbidden := range []string{"url(", "@import", "@font-face"} {
		if strings.Contains(text, forbidden) {
			t.Errorf("it holds %s", forbidden)
		}
	}
	again := serve(t, handler, http.MethodGet, browser.Base+"preference.css", "If-None-Match: "+first.Header.Get("ETag"))
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("status %d for what the browser has", again.StatusCode)
	}
	if put := serve(t, handler, http.MethodPost, browser.Base+"preference.css"); put.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("status %d for POST", put.StatusCode)
	}
	page := showPreference(t, browser.View{})
	if got := value(page.all("link")[0], "href"); got != browser.Base+"preference.css" {
		t.Errorf("the page asks for %s", got)
	}
}

// TestNoAccounts: where no request can prove an account, the page claims nothing
// of any, and says where an account's choice is made.
func TestNoAccounts(t *testing.T) {
	t.Parallel()
	view := browser.View{SiteName: siteHere, NoAccounts: true, AccountURL: "https://accounts.example.org/settings?a=1&b=2"}
	view.Decision = policy.Decision{Action: policy.Collect, Reason: policy.ReasonDefault}
	recorder := httptest.NewRecorder()
	browser.NewPreferencePage().Render(recorder, http.StatusOK, view)
	page := recorder.Body.String()
	if !strings.Contains(page, `<a href="https://accounts.example.org/settings?a=1&amp;b=2">`) {
		t.Errorf("the page does not lead to the account's settings:\n%s", page)
	}
	for _, claim := range []string{"signed in", "Sign in", "sign in", "Your account"} {
		now, _, _ := strings.Cut(page, `aria-labelledby="about"`)
		if strings.Contains(now, claim) {
			t.Errorf("the page speaks of accounts that it cannot see (%q):\n%s", claim, now)
		}
	}
	if strings.Count(page, `name="choice"`) != 1 || !strings.Contains(page, `value="browser_optout"`) {
		t.Errorf("the page offers another choice than this browser's:\n%s", page)
	}
}
