package gate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileclient"
	"github.com/metricsgate/metricsgate/session"
)

// maxForm bounds the preference page's form.
const maxForm = 4 << 10

// savedQuery is where the browser is sent when a choice is saved.
const savedQuery = "saved"

// servePreference shows the page on which people choose, and takes what they
// choose on it.
func (g *Gate) servePreference(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead, http.MethodPost) {
		return
	}
	if r.Method != http.MethodPost {
		var view browser.View
		// Not where another site's link says so.
		site := r.Header.Get("Sec-Fetch-Site")
		if r.URL.RawQuery == savedQuery && (site == "" || site == "same-origin") {
			view.Result = browser.Saved
		}
		g.showPreference(w, r, http.StatusOK, view)
		return
	}
	if !g.fromHere(r) {
		refuse(w, http.StatusForbidden, "only this site's own page may choose")
		return
	}
	limitBody(w, r, maxForm)
	choice, etag, err := browser.ParseChoice(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	status, result := g.choose(w, r, choice, etag)
	g.observer.Choice(choice, result)
	if result == browser.Saved {
		// The browser then asks for the page, so that loading it again does not
		// choose again.
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Location", browser.Base+"preference?"+savedQuery)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	g.showPreference(w, r, status, browser.View{Result: result, Asked: choice, ETag: etag})
}

// choose saves a choice, and says with which status a page is shown where it
// is not saved.
func (g *Gate) choose(w http.ResponseWriter, r *http.Request, choice browser.Choice, etag string) (status int, result browser.ChoiceResult) {
	preference, isAccounts := choice.Preference()
	if isAccounts {
		found := g.engine.sessions.Find(r, time.Now(), g.engine.observeSession)
		if !g.canChoose(&found) {
			return http.StatusForbidden, browser.NotSaved // it has expired meanwhile
		}
		subject := found.Subject
		if form := r.PostForm.Get("account"); form != "" && form != formAccount(subject.UID) {
			return http.StatusConflict, browser.Conflict // somebody else has signed in meanwhile
		}
		err := g.engine.profile.Choose(r.Context(), account(&subject), preference, etag)
		switch {
		case errors.Is(err, profileclient.ErrConflict):
			return http.StatusConflict, browser.Conflict
		case err != nil:
			return http.StatusServiceUnavailable, browser.NotSaved
		}
	}
	switch choice {
	case browser.BrowserOptOut:
		if !chosenCookie(r.Header) {
			setCookie(w, g.handshake.cookies.chosen)
		}
	case browser.OptOut:
		g.remember(w, r)
	case browser.BrowserUndo:
		if chosenCookie(r.Header) || rememberedCookie(r.Header) {
			setCookie(w, g.handshake.cookies.removed)
		}
	default: // the account allows, or follows this browser
		g.forget(w, r)
	}
	return 0, browser.Saved
}

// canChoose says whether there is a profile that a choice can be saved in: one,
// and no more, or whose choice would it be?
func (g *Gate) canChoose(found *session.Found) bool {
	return found.Session == policy.Verified && !found.Several && g.engine.profile != nil && !g.engine.profile.ReadOnly()
}

// formAccount is what a form remembers of the account that it was made for, so
// that it does not choose for another one that signed in meanwhile: all
// accounts without a choice have the same ETag. Every instance makes the same.
func formAccount(uid string) string {
	sum := sha256.Sum256([]byte("metrics gate, preference form: " + uid))
	return hex.EncodeToString(sum[:8])
}

// showPreference renders the page for the request's own subject; result and
// what was asked for are in the view already.
func (g *Gate) showPreference(w http.ResponseWriter, r *http.Request, status int, view browser.View) {
	v := g.engine.Standing(r, func(account profileclient.Account) policy.Preference {
		return g.readPreference(r, account, &view)
	})
	view.SiteName = cmp.Or(g.handshake.siteName, r.Host)
	view.Locale = r.Header.Get("Accept-Language")
	view.Signal = g.engine.signal(r, &v.found)
	view.Sticky = chosenCookie(r.Header) || rememberedCookie(r.Header)
	view.Preference = v.preference
	if g.engine.provesNobody() {
		view.NoAccounts, view.AccountURL = true, g.handshake.account
	}
	view.Decision, view.Undecided = v.decision, v.withheld
	if v.found.Session == policy.Verified {
		view.SignedIn = true
		view.FormAccount = formAccount(v.found.Subject.UID)
		view.CanChoose = g.canChoose(&v.found)
	}
	g.handshake.page.Render(w, status, view)
}

// readPreference asks the profile server itself: what is cached may be older
// than what somebody chose elsewhere a moment ago.
func (g *Gate) readPreference(r *http.Request, account profileclient.Account, view *browser.View) policy.Preference {
	held, err := g.engine.profile.Read(r.Context(), account)
	if err != nil {
		return policy.Unknown // the client has logged why
	}
	view.ETag = held.ETag
	view.FromBrowser = held.Source == profileclient.SourceBrowser
	view.ChangedAt = held.Changed
	return held.Preference
}
