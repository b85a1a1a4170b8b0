package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/policy"
)

// FeatureFlags overrides the features that a page announces in a <meta>
// whose content is URL-encoded JSON, such as FxA's fxa-feature-flags.
type FeatureFlags struct {
	// Meta is the name of the <meta>. Required.
	Meta string `json:"meta,omitempty"`

	// Flags are the keys to set and their JSON values. Keys that are not
	// named keep what the page says. At least one is required.
	Flags map[string]json.RawMessage `json:"flags,omitempty"`
}

func (f *FeatureFlags) validate() error {
	switch {
	case f == nil:
		return nil
	case f.Meta == "":
		return errors.New("no <meta> is named; write feature_flags <meta-name> { <key> <json> }")
	case len(f.Flags) == 0:
		return errors.New("no flag is set; write a line <key> <json> for each")
	}
	for key, value := range f.Flags {
		if !json.Valid(value) {
			return wrongAt(key, "its value is not JSON; write a number, true, false, null, or other JSON in backquotes, such as `{}`")
		}
	}
	return nil
}

// defaultExperimentParams are the ones of the Firefox Accounts content server.
var defaultExperimentParams = []string{"forceExperiment", "forceExperimentGroup"}

// pages says what the gate does to pages on their way.
type pages struct {
	// wait has pages wait for a preference, as experiments do.
	wait   bool
	params []string
	script *browser.Script // nil: none is injected
	flags  *FeatureFlags
}

func newPages(g *Gate) pages {
	p := pages{
		wait:   len(g.ExperimentParams) > 0 || g.FeatureFlags != nil,
		params: g.ExperimentParams,
		flags:  g.FeatureFlags,
	}
	if g.handshake != nil && g.handshake.inject {
		p.script = g.handshake.script
	}
	return p
}

// servePage passes a page, with what the gate has to change about it.
func (g *Gate) servePage(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	decision, ask := g.decidePage(r)
	g.publish(r, decision)
	if g.shadow {
		return next.ServeHTTP(w, r)
	}
	blocked := decision.Action == policy.Block
	var tag browser.TagOptions
	if blocked && stripParams(r, g.pages.params) {
		tag.Strip = g.pages.params
	}
	tag.Report = ask
	edit := g.pages.edit(tag, blocked)
	// Such a page is not the same for everyone, and not for ever.
	edit.Private = g.pages.wait || ask && g.pages.script != nil
	switch {
	case len(edit.Insert) == 0 && !edit.Private:
		return g.pass(w, r, decision, next)
	case r.Method == http.MethodGet:
		browser.PrepareRequest(r.Header)
	default: // the header of HEAD is all that there is
		edit = browser.Edit{Private: edit.Private}
	}
	document, complete := browser.NewResponse(w, edit), false
	defer func() {
		// A panic, which is how Caddy's proxy ends a reply that broke off, goes
		// on when what was held has been sent. A client that has gone leaves
		// nobody to tell.
		result, _ := document.Close(complete)
		if result != browser.Untouched {
			pagesTotal.WithLabelValues(result.String()).Inc()
		}
		if document.FlagsMissed() {
			pagesTotal.WithLabelValues(resultNoFlags).Inc()
		}
	}()
	err := g.pass(document, r, decision, next)
	complete = err == nil
	if err != nil && edit.Private { // for what handle_errors answers in its place
		w.Header().Set("Cache-Control", "private, no-cache")
	}
	return err
}

// resultNoFlags counts documents, besides their other result, in which the
// <meta> with the feature flags is missing or cannot be read.
const resultNoFlags = "no_flags"

// edit is what is changed in the documents of a decision.
func (p *pages) edit(tag browser.TagOptions, blocked bool) (edit browser.Edit) {
	if p.script != nil {
		edit.Insert = p.script.Tag(tag)
	}
	if p.flags != nil && blocked {
		edit.Meta, edit.Flags = p.flags.Meta, p.flags.Flags
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
