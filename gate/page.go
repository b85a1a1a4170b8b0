package gate

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
)

// FeatureFlags overrides the features that a page announces in a <meta>
// whose content is URL-encoded JSON, such as FxA's fxa-config.
type FeatureFlags struct {
	// Meta is the name of the <meta>. Required.
	Meta string `json:"meta,omitempty"`

	// Flags are the keys to set and their JSON values. A dotted key reaches into
	// nested objects, and leaves their other members. Keys that are not named keep
	// what the page says. At least one is required.
	Flags map[string]json.RawMessage `json:"flags,omitempty"`
}

// Validate finds what is missing or not JSON.
func (f *FeatureFlags) Validate() error {
	switch {
	case f.Meta == "":
		return errors.New("no <meta> is named; write feature_flags <meta-name> { <key> <json> }")
	case len(f.Flags) == 0:
		return errors.New("no flag is set; write a line <key> <json> for each")
	}
	for key, value := range f.Flags {
		if slices.Contains(strings.Split(key, "."), "") {
			return wrongf(key, "a part of this key is empty; write names with dots between, such as glean.enabled")
		}
		if !json.Valid(value) {
			return wrongf(key, "its value is not JSON; write a number, true, false, null, or other JSON in backquotes, such as `{}`")
		}
	}
	return nil
}

// validateFlags finds what is wrong with all of them, such as two for one <meta>.
func validateFlags(all []FeatureFlags) error {
	problems := make([]error, len(all))
	for i := range all {
		err := all[i].Validate()
		if err == nil && slices.ContainsFunc(all[:i], func(other FeatureFlags) bool { return other.Meta == all[i].Meta }) {
			err = wrongf(all[i].Meta, "there is a block for this <meta> already; write all keys into one")
		}
		problems[i] = err
	}
	return errors.Join(problems...)
}

// pages says what the gate does to pages on their way.
type pages struct {
	// private: documents are changed for those who opted out, so they are not
	// the same for everyone, and wait for a preference.
	private bool
	params  []string
	script  *browser.Script // nil: none is injected
	flags   []browser.MetaFlags
	// heads are those of pages in which flags are set, and plain those of others.
	heads, plain browser.Heads
}

func newPages(config *Config, h *handshake) *pages {
	p := new(pages)
	if h != nil && h.inject {
		p.script = h.script
	}
	if config.Shadow {
		return p
	}
	p.params = config.ExperimentParams
	flags := config.FeatureFlags
	if h != nil {
		for _, used := range config.Presets {
			preset := presets[used.Name]
			isPresets := func(name string) bool { return slices.Contains(preset.ExperimentParams, name) }
			p.params = append(slices.Clone(preset.ExperimentParams), slices.DeleteFunc(slices.Clone(p.params), isPresets)...)
			flags = append(slices.Clone(preset.FeatureFlags), flags...) // so that one's own win
		}
	}
	for _, f := range flags {
		p.flags = append(p.flags, browser.MetaFlags{Name: f.Meta, Flags: f.Flags})
	}
	p.private = len(p.params) > 0 || len(p.flags) > 0
	return p
}

// isPage says whether the browser asks for a document to show. Browsers that
// do not send Fetch metadata are recognised by what they accept.
func isPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if dest := r.Header["Sec-Fetch-Dest"]; len(dest) > 0 {
		return dest[0] == "document" || dest[0] == "iframe" || dest[0] == "frame"
	}
	for _, accept := range r.Header["Accept"] {
		if strings.Contains(accept, "text/html") {
			return true
		}
	}
	return false
}

// servePage passes a page, with what the gate has to change about it.
func (g *Gate) servePage(w http.ResponseWriter, r *http.Request, trace *Trace, next Next) error {
	v := g.engine.Page(r, trace)
	decision := v.decision
	g.observer.Decided(r, NoRoute, decision, false)
	g.write(trace, TracePage, TraceShown)
	ask := g.asksForReport(r, &v)
	blocked := decision.Action == policy.Block
	remembered := !g.shadow && v.optedOut() && g.remember(w, r)
	var tag browser.TagOptions
	if blocked && stripParams(r, g.pages.params) {
		tag.Strip = g.pages.params
	}
	tag.Report = ask
	edit := g.pages.edit(tag, blocked)
	// Such a page is not the same for everyone, and not for ever.
	edit.Private = g.pages.private || remembered || ask && g.pages.script != nil
	switch {
	case len(edit.Insert) == 0 && !edit.Private:
		return g.pass(w, r, decision, next)
	case r.Method == http.MethodGet:
		browser.PrepareRequest(r.Header)
	default: // the header of HEAD is all that there is
		edit = browser.Edit{Private: edit.Private}
	}
	return g.passEdited(w, r, decision, edit, next)
}

// asksForReport says whether the browser's half of the handshake should report,
// even if it has nothing new.
func (g *Gate) asksForReport(r *http.Request, v *verdict) bool {
	if g.handshake == nil {
		return false
	}
	// An own session that is missing or no longer verified is proven anew.
	if g.engine.wantsProof(r, v.found.Own) {
		return true
	}
	// Somebody who signed in since the browser reported is not written back
	// yet; and a browser that lost its cookie believes that it has reported.
	signedInSince := v.decision.Reason == policy.ReasonSignal && v.found.Session == policy.Verified && !v.found.Several && g.engine.writeBack
	return signedInSince && reportedOptOut(r.Header) || g.engine.signals.Read(r.Header) == policy.SignalProbing
}

// passEdited hands a page on and edits its document on the way back.
func (g *Gate) passEdited(w http.ResponseWriter, r *http.Request, decision policy.Decision, edit browser.Edit, next Next) error {
	document, complete := browser.NewResponse(w, edit), false
	defer func() {
		// A panic, which is how Caddy's proxy ends a reply that broke off, goes
		// on when what was held has been sent. A client that has gone leaves
		// nobody to tell.
		result, _ := document.Close(complete)
		if result != browser.Untouched {
			g.observer.Page(result)
		}
		if document.FlagsMissed() {
			g.observer.FlagsMissed()
		}
	}()
	err := g.pass(document, r, decision, next)
	complete = err == nil
	if err != nil && edit.Private { // for what an error page answers in its place
		w.Header().Set("Cache-Control", "private, no-cache")
	}
	return err
}

// edit is what is changed in the documents of a decision.
func (p *pages) edit(tag browser.TagOptions, blocked bool) (edit browser.Edit) {
	if p.script != nil {
		edit.Insert = p.script.Tag(tag)
	}
	edit.Heads = &p.plain
	if blocked {
		edit.Metas, edit.Heads = p.flags, &p.heads
	}
	return edit
}

// stripParams takes parameters out of a request's query and says whether
// there were any. The rest of the query stays as it was written.
func stripParams(r *http.Request, names []string) bool {
	if len(names) == 0 || r.URL.RawQuery == "" {
		return false
	}
	isStripped := func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		decoded, err := url.QueryUnescape(name)
		return err == nil && slices.Contains(names, decoded)
	}
	pairs := strings.Split(r.URL.RawQuery, "&")
	kept := slices.DeleteFunc(slices.Clone(pairs), isStripped)
	if len(kept) == len(pairs) {
		return false
	}
	r.URL.RawQuery = strings.Join(kept, "&")
	r.RequestURI = r.URL.RequestURI()
	return true
}
