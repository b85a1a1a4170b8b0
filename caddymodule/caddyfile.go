package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
)

func init() {
	// What RegisterHandlerDirective does, and a look at the matcher, which no
	// handler ever gets to see.
	httpcaddyfile.RegisterDirective("metrics_gate", func(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
		if !h.Next() {
			return nil, h.ArgErr()
		}
		matcher, err := h.ExtractMatcherSet()
		if err != nil {
			return nil, err
		}
		module := new(Gate)
		if err := module.UnmarshalCaddyfile(h.Dispenser); err != nil {
			return nil, err
		}
		if hidden := hiddenBy(matcher); module.Handshake != nil && hidden != "" {
			return nil, h.Errf("metrics_gate: its matcher hides %s, which handshake needs; leave the matcher out "+
				"(what is not gated passes anyway), or have it match %s* as well", hidden, browser.Base)
		}
		return h.NewRoute(matcher, module), nil
	})
	// After encode, so that the gate sees the application's own bytes and its
	// answers are encoded like any other.
	httpcaddyfile.RegisterDirectiveOrder("metrics_gate", httpcaddyfile.After, "encode")
}

// UnmarshalCaddyfile sets up the gate:
//
//	metrics_gate [<matcher>] [enforce|shadow] {
//		label      <word>
//		preset     <name> [<prefix>]
//		route      <METHOD>[,<METHOD>...] <path> [metrics|experiment|essential] {
//			answer <status> [<content-type>] [<body>]
//			reply  hide|show
//			names  off|{ ... }
//		}
//		reply      hide|show
//		cors       <origin>...
//		block_with drop|reject
//		on_unknown block|collect
//		on_unset   collect|block
//		session jwt {
//			cookie       <name>
//			header       <name> [<scheme>]
//			secret       <secret>
//			key          <pem>
//			jwks         <url|file>
//			allow_http
//			issuer       <iss>...
//			audience     <aud>...
//			leeway       <duration>
//			typ          <type>
//			uid_claim    <claim>
//			optout_claim <claim>
//			local_storage   <key> [<json-path>]
//			session_storage <key> [<json-path>]
//		}
//		session introspect <url> {
//			cookie    <name>
//			header    <name> [<scheme>]
//			uid_claim <claim>
//			manner    fxa|rfc7662
//			bearer    <token>
//			basic     <id> <secret>
//			issuer    <iss>...
//			audience  <aud>...
//			client    <id>...
//			timeout   <duration>
//			max_age   <duration>
//			allow_http
//			local_storage   <key> [<json-path>]
//			session_storage <key> [<json-path>]
//		}
//		session fxa <public-url> {
//			hawk
//			dial    <url>
//			timeout <duration>
//			allow_http
//		}
//		session user <placeholder>
//		session_key <key>...
//		names {
//			body  <path>...
//			query <parameter>...
//			form  <field>[:<path>]...
//			match <regexp>
//			limit <size>
//		}
//		profile <url> {
//			api         fxa
//			field       <name> [inverted]
//			auth        mint {
//				key       <key>
//				client_id <id>
//				issuer    <iss>
//				audience  <aud>
//			}
//			auth        forward
//			auth        bearer <token>
//			timeout     <duration>
//			max_age     <duration>
//			max_entries <number>
//			concurrency <number>
//			follow      on|off
//			not_found   unknown|null
//			allow_http
//		}
//		signal {
//			cookie <name> [<regexp>]
//			header <name> [<regexp>]
//			gpc
//			dnt
//		}
//		write_back  on|off
//		handshake {
//			timeout     <duration> [<context>]
//			inject      on|off
//			embedder    <origin>...
//			cookie_life <duration>
//			session_life <duration>
//			sticky      on|off
//			site_name   <text>
//			account_url <url>
//		}
//		experiment_params [<name>...]
//		feature_flags     <meta-name> {
//			<key> <json>
//		}
//		log_blocked on|off
//	}
func (g *Gate) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		if g.Mode = d.Val(); g.Mode != ModeEnforce && g.Mode != ModeShadow {
			return d.Errf("metrics_gate: unknown mode %q; write enforce, shadow, or nothing for enforce", g.Mode)
		}
	}
	if d.NextArg() {
		return d.Errf("metrics_gate: unexpected %q; write: metrics_gate [<matcher>] [enforce|shadow]", d.Val())
	}
	return grammar.Options{
		ModeEnforce: {Elsewhere: "metrics_gate enforce { ... }"},
		ModeShadow:  {Elsewhere: "metrics_gate shadow { ... }"},
		"label": {Usage: "<word>", Parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() || d.Val() == "" {
				return grammar.ErrUsage
			}
			if err := checkLabel(d.Val()); err != nil {
				return grammar.ValueError(err.Error())
			}
			g.Label = d.Val()
			return nil
		}},
		"preset":     {Usage: "<name> [<prefix>]", Repeats: true, Parse: g.parsePreset},
		"route":      {Usage: routeUsage, Repeats: true, Parse: g.parseRoute},
		"reply":      grammar.Choice(&g.Reply, gate.ReplyHide, gate.ReplyShow),
		"cors":       grammar.List("<origin>...", &g.CORS),
		"block_with": grammar.Choice(&g.BlockWith, blockDrop, blockReject),
		"on_unknown": grammar.Choice(&g.OnUnknown, "block", "collect"),
		"on_unset":   grammar.Choice(&g.OnUnset, "collect", "block"),
		"session":    {Usage: "jwt { ... } | introspect <url> [{ ... }] | fxa <public-url> [{ ... }] | user <placeholder>", Repeats: true, Parse: g.parseSession},
		"session_key": {Usage: "<key>...", Repeats: true, Parse: func(d *caddyfile.Dispenser) error {
			keys := d.RemainingArgs()
			if len(keys) == 0 {
				return grammar.ErrUsage
			}
			g.SessionKey = append(g.SessionKey, keys...)
			return nil
		}},
		"names":      {Usage: namesUsage, Parse: func(d *caddyfile.Dispenser) error { return parseNames(d, "metrics_gate › names", &g.Names) }},
		"profile":    {Usage: "<url> { ... }", Parse: g.parseProfile},
		"signal":     {Usage: "{ cookie|header <name> [<regexp>] | gpc | dnt }", Parse: g.parseSignal},
		"write_back": grammar.OnOff(func(on bool) { g.WriteBack = &on }),
		"handshake":  {Usage: "[{ ... }]", Parse: g.parseHandshake},
		"experiment_params": {Usage: "[<name>...]", Parse: func(d *caddyfile.Dispenser) error {
			if g.ExperimentParams = d.RemainingArgs(); len(g.ExperimentParams) == 0 {
				g.ExperimentParams = []string{"forceExperiment", "forceExperimentGroup"}
			}
			return nil
		}},
		"feature_flags": {Usage: "<meta-name> { <key> <json> }", Repeats: true, Parse: g.parseFeatureFlags},
		"log_blocked":   grammar.OnOff(func(on bool) { g.LogBlocked = on }),
	}.Parse(d, "metrics_gate")
}

func (g *Gate) parsePreset(d *caddyfile.Dispenser) error {
	var used gate.UsedPreset
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	used.Name = d.Val()
	if d.NextArg() {
		used.Prefix = d.Val()
	}
	err := grammar.OneOf("preset", used.Name, gate.PresetNames())
	if err == nil {
		err = used.Validate()
	}
	for i := 0; err == nil && i < len(g.Presets); i++ {
		err = used.ValidateAfter(&g.Presets[i])
	}
	if err != nil {
		return d.WrapErr(at(err, "metrics_gate", "preset "+used.Name))
	}
	g.Presets = append(g.Presets, used)
	return nil
}

const routeUsage = "<METHOD>[,<METHOD>...] <path> [metrics|experiment|essential] { answer <status> [<content-type>] [<body>] ; reply hide|show ; names off|{ ... } }"

func (g *Gate) parseRoute(d *caddyfile.Dispenser) error {
	var methods string
	var route gate.Route
	if !d.Args(&methods, &route.Path) {
		return grammar.ErrUsage
	}
	route.Methods = strings.Split(methods, ",")
	options := grammar.Options{
		"answer": {Usage: "<status> [<content-type>] [<body>]", Parse: func(d *caddyfile.Dispenser) error {
			args := d.RemainingArgs()
			if len(args) < 1 || len(args) > 3 {
				return grammar.ErrUsage
			}
			status, err := strconv.Atoi(args[0])
			if err != nil {
				return grammar.ValueError(fmt.Sprintf("%q is not a status; write a number such as 204", args[0]))
			}
			route.Answer = &gate.Answer{Status: status}
			if len(args) > 1 {
				route.Answer.ContentType = args[1]
			}
			if len(args) > 2 {
				route.Answer.Body = args[2]
			}
			return nil
		}},
		"reply": grammar.Choice(&route.Reply, gate.ReplyHide, gate.ReplyShow),
		"names": {Usage: "off|" + namesUsage, Parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return parseNames(d, "metrics_gate › route › names", &route.Names)
			}
			if d.Val() != "off" {
				return grammar.ErrUsage
			}
			route.Names = new(session.NamesConfig)
			return nil
		}},
	}
	if d.NextArg() {
		if _, isOption := options[d.Val()]; isOption {
			d.Prev() // which the block refuses
		} else {
			route.Class = d.Val()
		}
	}
	if err := options.Parse(d, "metrics_gate › route "+route.Path); err != nil {
		return err
	}
	err := route.Validate()
	for i := 0; err == nil && i < len(g.Routes); i++ {
		err = route.ValidateAfter(&g.Routes[i])
	}
	if err != nil {
		return d.WrapErr(at(err, "metrics_gate", "route "+route.Path))
	}
	g.Routes = append(g.Routes, route)
	return nil
}

const namesUsage = "{ body <path>... ; query <parameter>... ; form <field>[:<path>]... ; match <regexp> ; limit <size> }"

func parseNames(d *caddyfile.Dispenser, where string, target **session.NamesConfig) error {
	var names session.NamesConfig
	err := grammar.Options{
		"body":  grammar.List("<path>...", &names.Body),
		"query": grammar.List("<parameter>...", &names.Query),
		"form":  grammar.List("<field>[:<path>]...", &names.Form),
		"match": grammar.Text("<regexp>", &names.Match),
		"limit": grammar.Size(&names.Limit),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	switch read, err := session.NewNames(names); {
	case err != nil && !placeholder.Has(names.Match):
		return d.WrapErr(at(err, where))
	case err == nil && read == nil:
		return grammar.ErrUsage
	}
	*target = &names
	return nil
}

func (g *Gate) parseSession(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	var configured Session
	switch kind := d.Val(); kind {
	case "jwt":
		configured.JWT = new(SessionJWT)
		if err := configured.JWT.parse(d); err != nil {
			return err
		}
	case "introspect":
		configured.Introspect = new(SessionIntrospect)
		err := configured.Introspect.Parse(d, "metrics_gate › session introspect", configured.Introspect.Credential.options())
		if err != nil {
			return err
		}
	case "fxa":
		configured.FxA = new(SessionFxA)
		if err := configured.FxA.parse(d); err != nil {
			return err
		}
	case "user":
		if !d.AllArgs(&configured.User) {
			return grammar.ErrUsage
		}
		if !placeholder.Is(configured.User) {
			return d.Errf("metrics_gate › session user: %q is not a placeholder; write one, such as {http.auth.user.id}", configured.User)
		}
		if err := checkUser(configured.User); err != nil {
			return d.WrapErr(at(err, "metrics_gate", "session user"))
		}
	default:
		return d.Errf("metrics_gate: unknown session %q; write session jwt, session introspect, session fxa or session user", kind)
	}
	g.Sessions = append(g.Sessions, configured)
	return nil
}

func (s *SessionJWT) parse(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › session jwt"
	words := s.JWT.Options()
	maps.Copy(words, s.Credential.options())
	words["optout_claim"] = grammar.Text("<claim>", &s.OptOutClaim)
	if err := words.Parse(d, where); err != nil {
		return err
	}
	if err := s.JWT.Validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	return nil
}

// options are the words that say where a token is found and whom it names.
func (c *Credential) options() grammar.Options {
	return grammar.Options{
		"cookie": grammar.Text("<name>", &c.Cookie),
		"header": {Usage: "<name> [<scheme>]", Parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return grammar.ErrUsage
			}
			c.Header = d.Val()
			if d.NextArg() {
				c.Scheme = d.Val()
			}
			return nil
		}},
		"uid_claim":       grammar.Text("<claim>", &c.UIDClaim),
		"local_storage":   storageWord(&c.LocalStorage),
		"session_storage": storageWord(&c.SessionStorage),
	}
}

// storageWord is an item of a storage, and the way to the token in it.
func storageWord(item **StorageItem) grammar.Option {
	return grammar.Option{Usage: "<key> [<json-path>]", Parse: func(d *caddyfile.Dispenser) error {
		*item = new(StorageItem)
		if !d.NextArg() || d.Val() == "" {
			return grammar.ErrUsage
		}
		(*item).Key = d.Val()
		if d.NextArg() {
			(*item).Path = d.Val()
		}
		return nil
	}}
}

func (s *SessionFxA) parse(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › session fxa"
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	s.URL = d.Val()
	err := grammar.Options{
		"hawk":       grammar.Flag(&s.Hawk),
		"dial":       grammar.Text("<url>", &s.Dial),
		"timeout":    grammar.Duration(time.Millisecond, func(timeout caddy.Duration) { s.Timeout = timeout }),
		"allow_http": grammar.Flag(&s.AllowHTTP),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	if err := s.validate(); err != nil && !placeholder.Has(s.URL, s.Dial) {
		return d.WrapErr(at(err, where))
	}
	return nil
}

func (g *Gate) parseProfile(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › profile"
	profile := new(Profile)
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	profile.URL = d.Val()
	err := grammar.Options{
		"api": grammar.Choice(&profile.API, apiFxA),
		"field": {Usage: "<name> [inverted]", Parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return grammar.ErrUsage
			}
			profile.Field = d.Val()
			if d.NextArg() {
				if d.Val() != "inverted" {
					return grammar.ValueError(fmt.Sprintf("%q is not the word inverted", d.Val()))
				}
				profile.Inverted = true
			}
			return nil
		}},
		"auth":        {Usage: "mint { ... } | forward | bearer <token>", Parse: profile.parseAuth},
		"timeout":     grammar.Duration(time.Millisecond, func(timeout caddy.Duration) { profile.Timeout = timeout }),
		"max_age":     grammar.Duration(time.Millisecond, func(age caddy.Duration) { profile.MaxAge = age }),
		"max_entries": grammar.Number(&profile.MaxEntries),
		"concurrency": grammar.Number(&profile.Concurrency),
		"follow":      grammar.OnOff(func(on bool) { profile.Follow = &on }),
		"not_found":   grammar.Choice(&profile.NotFound, notFoundUnknown, notFoundNull),
		"allow_http":  grammar.Flag(&profile.AllowHTTP),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	if err := profile.validate(); err != nil && !placeholder.Has(profile.URL) {
		return d.WrapErr(at(err, where))
	}
	g.Profile = profile
	return nil
}

func (p *Profile) parseAuth(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › profile › auth"
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	p.Auth = new(ProfileAuth)
	switch kind := d.Val(); kind {
	case "mint":
		mint := new(MintAuth)
		p.Auth.Mint = mint
		err := grammar.Options{
			"key":       grammar.Text("{file./path/to/private.pem}", &mint.Key),
			"client_id": grammar.Text("<id>", &mint.ClientID),
			"issuer":    grammar.Text("<iss>", &mint.Issuer),
			"audience":  grammar.Text("<aud>", &mint.Audience),
		}.Parse(d, where+" mint")
		if err != nil {
			return err
		}
		if mint.Key == "" {
			return d.Errf("%s mint: no key is set; write key {file./path/to/private.pem}", where)
		}
	case "forward":
		p.Auth.Forward = true
	case "bearer":
		if !d.AllArgs(&p.Auth.Bearer) {
			return grammar.ErrUsage
		}
	default:
		return d.Errf("%s: unknown kind %q; write auth mint, auth forward or auth bearer", where, kind)
	}
	return nil
}

func (g *Gate) parseSignal(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › signal"
	signal := new(gate.Signal)
	err := grammar.Options{
		"cookie": signalWord(&signal.Cookies, func(name, optedOut string) {
			signal.Consents = append(signal.Consents, gate.Consent{Cookie: name, OptedOut: optedOut})
		}),
		"header": signalWord(&signal.Headers, func(name, optedOut string) {
			signal.Consents = append(signal.Consents, gate.Consent{Header: name, OptedOut: optedOut})
		}),
		"gpc": grammar.Flag(&signal.GPC),
		"dnt": grammar.Flag(&signal.DNT),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	if len(signal.Cookies)+len(signal.Headers)+len(signal.Consents) == 0 && !signal.GPC && !signal.DNT {
		return grammar.ErrUsage
	}
	if err := signal.Validate(); err != nil && !signalHasPlaceholder(signal) {
		return d.WrapErr(at(err, where))
	}
	g.Signal = *signal
	return nil
}

// signalHasPlaceholder says whether a name or an expression is known only when
// the configuration is loaded.
func signalHasPlaceholder(signal *gate.Signal) bool {
	values := slices.Concat(signal.Cookies, signal.Headers)
	for _, consent := range signal.Consents {
		values = append(values, consent.Cookie, consent.Header, consent.OptedOut)
	}
	return placeholder.Has(values...)
}

// signalWord is a name of a cookie or header, alone or with the regular
// expression of those that have words of their own.
func signalWord(names *[]string, consent func(name, optedOut string)) grammar.Option {
	return grammar.Option{Usage: "<name> [<regexp>]", Repeats: true, Parse: func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return grammar.ErrUsage
		}
		name := d.Val()
		if d.NextArg() {
			consent(name, d.Val())
		} else {
			*names = append(*names, name)
		}
		return nil
	}}
}

func (g *Gate) parseHandshake(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › handshake"
	h := new(Handshake)
	err := grammar.Options{
		"timeout": {Usage: "<duration> [<context>]", Repeats: true, Parse: func(d *caddyfile.Dispenser) error {
			var timeout caddy.Duration
			if err := grammar.Duration(time.Millisecond, func(value caddy.Duration) { timeout = value }).Parse(d); err != nil {
				return err
			}
			context := "" // of pages without one of those that have their own
			if d.NextArg() {
				context = d.Val()
			}
			if _, again := h.ContextTimeouts[context]; again || context == "" && h.Timeout != 0 {
				return grammar.ValueError("is set twice for the same pages; leave one out")
			}
			if context == "" {
				h.Timeout = timeout
				return nil
			}
			if h.ContextTimeouts == nil {
				h.ContextTimeouts = make(map[string]caddy.Duration)
			}
			h.ContextTimeouts[context] = timeout
			return nil
		}},
		"inject":       grammar.OnOff(func(on bool) { h.Inject = &on }),
		"embedder":     grammar.List("<origin>", &h.Embedders),
		"cookie_life":  grammar.Duration(time.Second, func(life caddy.Duration) { h.CookieLife = life }),
		"session_life": grammar.Duration(time.Second, func(life caddy.Duration) { h.SessionLife = life }),
		"sticky":       grammar.OnOff(func(on bool) { h.Sticky = &on }),
		"site_name":    grammar.Text("<text>", &h.SiteName),
		"account_url":  grammar.Text("<url>", &h.AccountURL),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	if err := h.config().Validate(); err != nil && !placeholder.Has(append(slices.Clone(h.Embedders), h.AccountURL)...) {
		return d.WrapErr(at(err, where))
	}
	g.Handshake = h
	return nil
}

func (g *Gate) parseFeatureFlags(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › feature_flags"
	flags := gate.FeatureFlags{Flags: make(map[string]json.RawMessage)}
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	flags.Meta = d.Val()
	if d.NextArg() {
		return grammar.ErrUsage
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		key := d.Val()
		values := d.RemainingArgs()
		if len(values) != 1 {
			return d.Errf("%s: %q needs one value; write: <key> <json>", where, key)
		}
		if placeholder.Has(key, values[0]) {
			return d.Errf("%s: a placeholder cannot stand in %q; write the value itself", where, key)
		}
		if _, again := flags.Flags[key]; again {
			return d.Errf("%s: %s is set twice; leave one out", where, key)
		}
		flags.Flags[key] = json.RawMessage(values[0])
	}
	if err := flags.Validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	g.FeatureFlags = append(g.FeatureFlags, flags)
	return nil
}
