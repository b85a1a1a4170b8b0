package profilemodule

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/caddymodule/internal/grammar"
	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("profile_server", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		server := new(ProfileServer)
		return server, server.UnmarshalCaddyfile(h.Dispenser)
	})
	// Before reverse_proxy, so that it can stand in front of the profile
	// server that exists.
	httpcaddyfile.RegisterDirectiveOrder("profile_server", httpcaddyfile.Before, "reverse_proxy")
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
//			allow_http
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
//			client   <id>...
//			timeout  <duration>
//			max_age  <duration>
//			allow_http
//		}
//		trusted_client  <id>...
//		operator_client <id>...
//		cors            <origin>...
//		statsd          <host:port|unix:///path>
//		events {
//			issuer   <iss>...
//			key      <pem>
//			jwks     <url|file>
//			allow_http
//			audience <aud>...
//		}
//		unset null|204
//		standalone
//	}
func (p *ProfileServer) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("profile_server: unexpected %q; write: profile_server [<matcher>] { ... }", d.Val())
	}
	return grammar.Options{
		"store":           {Usage: "sqlite <file> | postgres <dsn>", Parse: p.parseStore},
		"tokens":          {Usage: "jwt { ... } | introspect <url> [{ ... }]", Repeats: true, Parse: p.parseTokens},
		"trusted_client":  grammar.List("<id>...", &p.TrustedClients),
		"operator_client": grammar.List("<id>...", &p.OperatorClients),
		"cors":            {Usage: "<origin>...", Repeats: true, Parse: p.parseCORS},
		"statsd":          {Usage: "<host>:<port> | unix:///<path>", Parse: p.parseStatsD},
		"events":          {Usage: "{ ... }", Parse: p.parseEvents},
		"unset":           grammar.Choice(&p.Unset, unsetNull, unset204),
		"standalone":      grammar.Flag(&p.Standalone),
	}.Parse(d, "profile_server")
}

func (p *ProfileServer) parseStore(d *caddyfile.Dispenser) error {
	var kind, target string
	if !d.AllArgs(&kind, &target) {
		return grammar.ErrUsage
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
		return grammar.ErrUsage
	}
	var tokens Tokens
	switch kind := d.Val(); kind {
	case "jwt":
		tokens.JWT = new(JWT)
		if err := tokens.JWT.Options().Parse(d, where+" jwt"); err != nil {
			return err
		}
		if err := tokens.JWT.Validate(); err != nil {
			return d.WrapErr(located.At(err, where+" jwt"))
		}
	case "introspect":
		tokens.Introspect = new(Introspect)
		if err := tokens.Introspect.Parse(d, where+" introspect", nil); err != nil {
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
		return grammar.ErrUsage
	}
	for _, origin := range origins {
		if placeholder.Has(origin) {
			continue // known when the configuration is loaded
		}
		if _, err := parseOrigin(origin); err != nil {
			return grammar.ValueError(err.Error())
		}
	}
	p.CORS = append(p.CORS, origins...)
	return nil
}

func (p *ProfileServer) parseStatsD(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return grammar.ErrUsage
	}
	p.StatsD = d.Val()
	if placeholder.Has(p.StatsD) {
		return nil // known when the configuration is loaded
	}
	if err := checkAgentAddress(p.StatsD); err != nil {
		return grammar.ValueError(fmt.Sprintf("%q %v", p.StatsD, err))
	}
	return nil
}

func (p *ProfileServer) parseEvents(d *caddyfile.Dispenser) error {
	const where = "profile_server › events"
	events := new(Events)
	err := grammar.Options{
		"issuer":     grammar.List("<iss>...", &events.Issuer),
		"key":        grammar.List("{file./path/to/public.pem}", &events.Key),
		"jwks":       grammar.Text("<url|file>", &events.JWKS),
		"allow_http": grammar.Flag(&events.AllowHTTP),
		"audience":   grammar.List("<aud>...", &events.Audience),
	}.Parse(d, where)
	if err != nil {
		return err
	}
	if err := events.validate(); err != nil {
		return d.WrapErr(located.At(err, where))
	}
	p.Events = events
	return nil
}
