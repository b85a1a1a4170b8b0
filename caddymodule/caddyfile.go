package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/browser"
	"github.com/metricsgate/metricsgate/gate"
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

	httpcaddyfile.RegisterHandlerDirective("profile_server", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		server := new(ProfileServer)
		return server, server.UnmarshalCaddyfile(h.Dispenser)
	})
	// Before reverse_proxy, so that it can stand in front of the profile
	// server that exists.
	httpcaddyfile.RegisterDirectiveOrder("profile_server", httpcaddyfile.Before, "reverse_proxy")
}

// UnmarshalCaddyfile sets up the gate:
//
//	metrics_gate [<matcher>] [enforce|shadow] {
//		preset     fxa
//		route      <METHOD>[,<METHOD>...] <path> [metrics|experiment] {
//			answer <status> [<content-type>] [<body>]
//		}
//		block_with drop|reject
//		on_unknown block|collect
//		on_unset   collect|block
//		session jwt {
//			cookie       <name>
//			header       <name> [<scheme>]
//			secret       <secret>
//			key          <pem>
//			jwks         <url|file>
//			issuer       <iss>...
//			audience     <aud>...
//			leeway       <duration>
//			typ          <type>
//			uid_claim    <claim>
//			optout_claim <claim>
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
//			timeout   <duration>
//			max_age   <duration>
//		}
//		session user <placeholder>
//		body_uid <json-field>
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
//		}
//		signal {
//			cookie <name>
//			header <name>
//			gpc
//			dnt
//		}
//		write_back  on|off
//		handshake {
//			timeout     <duration> [<context>]
//			inject      on|off
//			embedder    <origin>...
//			cookie_life <duration>
//			sticky      on|off
//			site_name   <text>
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
		if g.Mode = d.Val(); g.Mode != modeEnforce && g.Mode != modeShadow {
			return d.Errf("metrics_gate: unknown mode %q; write enforce, shadow, or nothing for enforce", g.Mode)
		}
	}
	if d.NextArg() {
		return d.Errf("metrics_gate: %q is too much; write: metrics_gate [<matcher>] [enforce|shadow]", d.Val())
	}
	return options{
		"preset":     choice(&g.Preset, "fxa"),
		"route":      {usage: routeUsage, repeats: true, parse: g.parseRoute},
		"block_with": choice(&g.BlockWith, blockDrop, blockReject),
		"on_unknown": choice(&g.OnUnknown, "block", "collect"),
		"on_unset":   choice(&g.OnUnset, "collect", "block"),
		"session":    {usage: "jwt { ... } | introspect <url> [{ ... }] | user <placeholder>", repeats: true, parse: g.parseSession},
		"body_uid":   text("<json-field>", &g.BodyUID),
		"profile":    {usage: "<url> { ... }", parse: g.parseProfile},
		"signal":     {usage: "{ cookie <name> | header <name> | gpc | dnt }", parse: g.parseSignal},
		"write_back": onOff(func(on bool) { g.WriteBack = &on }),
		"handshake":  {usage: "[{ ... }]", parse: g.parseHandshake},
		"experiment_params": {usage: "[<name>...]", parse: func(d *caddyfile.Dispenser) error {
			if g.ExperimentParams = d.RemainingArgs(); len(g.ExperimentParams) == 0 {
				g.ExperimentParams = []string{"forceExperiment", "forceExperimentGroup"}
			}
			return nil
		}},
		"feature_flags": {usage: "<meta-name> { <key> <json> }", parse: g.parseFeatureFlags},
		"log_blocked":   onOff(func(on bool) { g.LogBlocked = on }),
	}.parse(d, "metrics_gate")
}

const routeUsage = "<METHOD>[,<METHOD>...] <path> [metrics|experiment] { answer <status> [<content-type>] [<body>] }"

func (g *Gate) parseRoute(d *caddyfile.Dispenser) error {
	var methods string
	var route gate.Route
	if !d.Args(&methods, &route.Path) {
		return errUsage
	}
	route.Methods = strings.Split(methods, ",")
	if d.NextArg() {
		route.Class = d.Val()
	}
	err := options{
		"answer": {usage: "<status> [<content-type>] [<body>]", parse: func(d *caddyfile.Dispenser) error {
			args := d.RemainingArgs()
			if len(args) < 1 || len(args) > 3 {
				return errUsage
			}
			status, err := strconv.Atoi(args[0])
			if err != nil {
				return valueError(fmt.Sprintf("%q is not a status; write a number such as 204", args[0]))
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
	}.parse(d, "metrics_gate › route")
	if err != nil {
		return err
	}
	if err := route.Validate(); err != nil {
		return d.WrapErr(at(err, "metrics_gate", "route "+route.Path))
	}
	g.Routes = append(g.Routes, route)
	return nil
}

func (g *Gate) parseSession(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return errUsage
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
		err := configured.Introspect.parse(d, "metrics_gate › session introspect", configured.Introspect.Credential.options())
		if err != nil {
			return err
		}
	case "user":
		if !d.AllArgs(&configured.User) {
			return errUsage
		}
		if !isPlaceholder(configured.User) {
			return d.Errf("metrics_gate › session user: %q is not a placeholder; write one, such as {http.auth.user.id}", configured.User)
		}
	default:
		return d.Errf("metrics_gate: unknown session %q; write session jwt, session introspect or session user", kind)
	}
	g.Sessions = append(g.Sessions, configured)
	return nil
}

func (s *SessionJWT) parse(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › session jwt"
	words := s.JWT.options()
	maps.Copy(words, s.Credential.options())
	words["optout_claim"] = text("<claim>", &s.OptOutClaim)
	if err := words.parse(d, where); err != nil {
		return err
	}
	if err := s.JWT.validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	return nil
}

// options are the words that say where a token is found and whom it names.
func (c *Credential) options() options {
	return options{
		"cookie": text("<name>", &c.Cookie),
		"header": {usage: "<name> [<scheme>]", parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return errUsage
			}
			c.Header = d.Val()
			if d.NextArg() {
				c.Scheme = d.Val()
			}
			return nil
		}},
		"uid_claim": text("<claim>", &c.UIDClaim),
	}
}

// options are the words that say how a token is verified.
func (j *JWT) options() options {
	return options{
		"secret":   text("{env.NAME} or {file./path}", &j.Secret),
		"key":      list("{file./path/to/public.pem}", &j.Key),
		"jwks":     text("<url|file>", &j.JWKS),
		"issuer":   list("<iss>", &j.Issuer),
		"audience": list("<aud>", &j.Audience),
		"leeway":   duration(0, func(leeway caddy.Duration) { j.Leeway = &leeway }),
		"typ":      text("<type>", &j.Typ),
	}
}

func (g *Gate) parseProfile(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › profile"
	profile := new(Profile)
	if !d.NextArg() {
		return errUsage
	}
	profile.URL = d.Val()
	err := options{
		"api": choice(&profile.API, apiFxA),
		"field": {usage: "<name> [inverted]", parse: func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return errUsage
			}
			profile.Field = d.Val()
			if d.NextArg() {
				if d.Val() != "inverted" {
					return valueError(fmt.Sprintf("%q is not the word inverted", d.Val()))
				}
				profile.Inverted = true
			}
			return nil
		}},
		"auth":        {usage: "mint { ... } | forward | bearer <token>", parse: profile.parseAuth},
		"timeout":     duration(time.Millisecond, func(timeout caddy.Duration) { profile.Timeout = timeout }),
		"max_age":     duration(time.Millisecond, func(age caddy.Duration) { profile.MaxAge = age }),
		"max_entries": number(&profile.MaxEntries),
		"concurrency": number(&profile.Concurrency),
		"follow":      onOff(func(on bool) { profile.Follow = &on }),
	}.parse(d, where)
	if err != nil {
		return err
	}
	if err := profile.validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	g.Profile = profile
	return nil
}

func (p *Profile) parseAuth(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › profile › auth"
	if !d.NextArg() {
		return errUsage
	}
	p.Auth = new(ProfileAuth)
	switch kind := d.Val(); kind {
	case "mint":
		mint := new(MintAuth)
		p.Auth.Mint = mint
		err := options{
			"key":       text("{file./path/to/private.pem}", &mint.Key),
			"client_id": text("<id>", &mint.ClientID),
			"issuer":    text("<iss>", &mint.Issuer),
			"audience":  text("<aud>", &mint.Audience),
		}.parse(d, where+" mint")
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
			return errUsage
		}
	default:
		return d.Errf("%s: unknown kind %q; write auth mint, auth forward or auth bearer", where, kind)
	}
	return nil
}

func (g *Gate) parseSignal(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › signal"
	signal := new(gate.Signal)
	err := options{
		"cookie": list("<name>", &signal.Cookies),
		"header": list("<name>", &signal.Headers),
		"gpc":    flag(&signal.GPC),
		"dnt":    flag(&signal.DNT),
	}.parse(d, where)
	if err != nil {
		return err
	}
	if len(signal.Cookies)+len(signal.Headers) == 0 && !signal.GPC && !signal.DNT {
		return errUsage
	}
	if err := signal.Validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	g.Signal = *signal
	return nil
}

func (g *Gate) parseHandshake(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › handshake"
	h := new(Handshake)
	err := options{
		"timeout": {usage: "<duration> [<context>]", repeats: true, parse: func(d *caddyfile.Dispenser) error {
			var timeout caddy.Duration
			if err := duration(time.Millisecond, func(value caddy.Duration) { timeout = value }).parse(d); err != nil {
				return err
			}
			context := "" // of pages without one of those that have their own
			if d.NextArg() {
				context = d.Val()
			}
			if _, again := h.ContextTimeouts[context]; again || context == "" && h.Timeout != 0 {
				return valueError("is set twice for the same pages; leave one out")
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
		"inject":      onOff(func(on bool) { h.Inject = &on }),
		"embedder":    list("<origin>", &h.Embedders),
		"cookie_life": duration(time.Second, func(life caddy.Duration) { h.CookieLife = life }),
		"sticky":      onOff(func(on bool) { h.Sticky = &on }),
		"site_name":   text("<text>", &h.SiteName),
	}.parse(d, where)
	if err != nil {
		return err
	}
	if err := h.validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	g.Handshake = h
	return nil
}

func (g *Gate) parseFeatureFlags(d *caddyfile.Dispenser) error {
	const where = "metrics_gate › feature_flags"
	flags := &gate.FeatureFlags{Flags: make(map[string]json.RawMessage)}
	if !d.NextArg() {
		return errUsage
	}
	flags.Meta = d.Val()
	if d.NextArg() {
		return errUsage
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		key := d.Val()
		values := d.RemainingArgs()
		if len(values) != 1 {
			return d.Errf("%s: %q needs one value; write: <key> <json>", where, key)
		}
		if _, again := flags.Flags[key]; again {
			return d.Errf("%s: %s is set twice; leave one out", where, key)
		}
		flags.Flags[key] = json.RawMessage(values[0])
	}
	if err := flags.Validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	g.FeatureFlags = flags
	return nil
}

// UnmarshalCaddyfile sets up the profile server:
//
//	profile_server [<matcher>] {
//		store sqlite   <file>
//		store postgres <dsn>
//		tokens jwt {
//			secret   <secret>
//			key      <pem>
//			jwks     <url|file>
//			issuer   <iss>...
//			audience <aud>...
//			leeway   <duration>
//			typ      <type>
//		}
//		tokens introspect <url> {
//			manner   fxa|rfc7662
//			bearer   <token>
//			basic    <id> <secret>
//			issuer   <iss>...
//			audience <aud>...
//			timeout  <duration>
//			max_age  <duration>
//		}
//		trusted_client  <id>...
//		operator_client <id>...
//		cors            <origin>...
//		statsd          <host:port|unix:///path>
//		events {
//			issuer   <iss>...
//			key      <pem>
//			jwks     <url|file>
//			audience <aud>...
//		}
//		unset null|204
//		standalone
//	}
func (p *ProfileServer) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("profile_server: %q is too much; write: profile_server [<matcher>] { ... }", d.Val())
	}
	return options{
		"store":           {usage: "sqlite <file> | postgres <dsn>", parse: p.parseStore},
		"tokens":          {usage: "jwt { ... } | introspect <url> [{ ... }]", repeats: true, parse: p.parseTokens},
		"trusted_client":  list("<id>...", &p.TrustedClients),
		"operator_client": list("<id>...", &p.OperatorClients),
		"cors":            {usage: "<origin>...", repeats: true, parse: p.parseCORS},
		"statsd":          {usage: "<host>:<port> | unix:///<path>", parse: p.parseStatsD},
		"events":          {usage: "{ ... }", parse: p.parseEvents},
		"unset":           choice(&p.Unset, unsetNull, unset204),
		"standalone":      flag(&p.Standalone),
	}.parse(d, "profile_server")
}

func (p *ProfileServer) parseStore(d *caddyfile.Dispenser) error {
	var kind, target string
	if !d.AllArgs(&kind, &target) {
		return errUsage
	}
	switch kind {
	case "sqlite":
		p.Store = &Store{SQLite: target}
	case "postgres":
		p.Store = &Store{Postgres: target}
	default:
		return d.Errf("profile_server: unknown store %q; write store sqlite <file> or store postgres <dsn>", kind)
	}
	return nil
}

func (p *ProfileServer) parseTokens(d *caddyfile.Dispenser) error {
	const where = "profile_server › tokens"
	if !d.NextArg() {
		return errUsage
	}
	var tokens Tokens
	switch kind := d.Val(); kind {
	case "jwt":
		tokens.JWT = new(JWT)
		if err := tokens.JWT.options().parse(d, where+" jwt"); err != nil {
			return err
		}
		if err := tokens.JWT.validate(); err != nil {
			return d.WrapErr(at(err, where+" jwt"))
		}
	case "introspect":
		tokens.Introspect = new(Introspect)
		if err := tokens.Introspect.parse(d, where+" introspect", nil); err != nil {
			return err
		}
	default:
		return d.Errf("profile_server: unknown tokens %q; write tokens jwt or tokens introspect", kind)
	}
	p.Tokens = append(p.Tokens, tokens)
	return nil
}

func (p *ProfileServer) parseCORS(d *caddyfile.Dispenser) error {
	origins := d.RemainingArgs()
	if len(origins) == 0 {
		return errUsage
	}
	for _, origin := range origins {
		if isPlaceholder(origin) {
			continue // known when the configuration is loaded
		}
		if _, err := parseOrigin(origin); err != nil {
			return valueError(err.Error())
		}
	}
	p.CORS = append(p.CORS, origins...)
	return nil
}

func (p *ProfileServer) parseStatsD(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return errUsage
	}
	p.StatsD = d.Val()
	if strings.Contains(p.StatsD, "{") {
		return nil // known when the configuration is loaded
	}
	if err := checkAgentAddress(p.StatsD); err != nil {
		return valueError(fmt.Sprintf("%q %v", p.StatsD, err))
	}
	return nil
}

func (p *ProfileServer) parseEvents(d *caddyfile.Dispenser) error {
	const where = "profile_server › events"
	events := new(Events)
	err := options{
		"issuer":   list("<iss>...", &events.Issuer),
		"key":      list("{file./path/to/public.pem}", &events.Key),
		"jwks":     text("<url|file>", &events.JWKS),
		"audience": list("<aud>...", &events.Audience),
	}.parse(d, where)
	if err != nil {
		return err
	}
	if err := events.validate(); err != nil {
		return d.WrapErr(at(err, where))
	}
	p.Events = events
	return nil
}
