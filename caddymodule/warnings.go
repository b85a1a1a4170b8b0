package caddymodule

import (
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/session"
)

// troubles are what a gate looks like from the inside when it is bypassed or
// recognises nobody, and what to do.
var troubles = [...]struct{ message, advice string }{
	gate.NobodyRecognised: {
		"no account is recognised in any gated request, so nobody's preference is asked for",
		"compare the names with what the application sends, letter by letter; caddy metrics-gate trace says what it finds in one request",
	},
	gate.NobodyRecognisedOnRoute: {
		"no account is recognised in any request of this route, while they are on others",
		"look whether its requests carry the credential: another host, another path of the cookie, credentials omitted",
	},
	gate.RouteSilent: {
		"pages come, and not one request of this route",
		"look which way they take: past the edge to another host, by another path, through a handle without a gate (metrics_gate_tripwire finds it)",
	},
	gate.SessionsFail: {
		"more credentials fail to verify than verify, so on_unknown decides about the accounts of those that fail",
		"", // by outcome
	},
	gate.EverybodyExpired: {
		"all credentials have expired, so they can block and nothing else",
		"", // by outcome
	},
}

// detail is what a warning says besides its message.
type detail struct {
	name  string
	value any
}

// explain says what a warning of the gate is about, and what to do. It is nothing
// for a gate that recognises nobody by design, since it is for signals only.
func (g *Gate) explain(w gate.Warning) (message, advice string, details []detail) {
	if w.Trouble == gate.NobodyRecognised && len(g.lookedFor) == 0 {
		return "", "", nil
	}
	trouble, rules := troubles[w.Trouble], g.rules()
	details = []detail{{"requests", w.Requests}}
	switch w.Trouble {
	case gate.NobodyRecognised:
		trouble.advice = g.harm(rules.OnUnset) + trouble.advice
		details = append(details, detail{"looked_for", g.lookedFor})
	case gate.NobodyRecognisedOnRoute:
		trouble.advice = g.harm(rules.OnUnset) + trouble.advice
		details = append(details, detail{"route", g.gate.Routes()[w.Route].Path})
	case gate.RouteSilent: // which may be nobody's loss
		details = append(details, detail{"route", g.gate.Routes()[w.Route].Path})
	case gate.SessionsFail:
		if w.Outcome == session.TooLong || w.Outcome == session.TooMany {
			rules.OnUnknown = policy.Block // since whoever sends them can cause it
		}
		trouble.advice = adviceOn[w.Outcome] + "; caddy metrics-gate trace says more of one request"
		if w.Outcome == session.NotYetValid {
			trouble.advice = issuersFaultFirst("nbf is after exp") + adviceOn[w.Outcome]
		}
		if len(g.watched.kinds) == 1 { // else another may prove the same people
			trouble.advice = g.harm(rules.OnUnknown) + trouble.advice
		}
		details = append(details, detail{"kind", g.watched.kinds[w.Source]}, detail{"outcome", w.Outcome.String()})
		if keys := g.watched.keysOf(w.Source); keys != "" && (w.Outcome == session.BadSignature || w.Outcome == session.UnknownKey) {
			details = append(details, detail{"verified_with", keys})
		}
	case gate.EverybodyExpired:
		trouble.advice = g.harmOfExpired() + issuersFaultFirst("exp is before iat") + adviceOn[w.Outcome]
		details = append(details, detail{"kind", g.watched.kinds[w.Source]})
	}
	return trouble.message, trouble.advice, details
}

// harm says what becomes of people about whom a rule decides, where it is certain.
// Shadow mode stops nothing, which is said elsewhere.
func (g *Gate) harm(rule policy.Action) string {
	switch {
	case g.shadow:
		return ""
	case rule == policy.Collect:
		return "whoever of these people opted out in the account is being measured; "
	default:
		return "none of these people is measured, and their metrics are lost; "
	}
}

// harmOfExpired says what becomes of people who have expired sessions only, which name
// their accounts, where it is certain. The profile server can be asked about them unless
// that takes a session which holds.
func (g *Gate) harmOfExpired() string {
	switch {
	case len(g.watched.kinds) != 1 || g.watched.kinds[0] != "jwt":
		return ""
	case g.rules().OnUnset == policy.Block:
		return g.harm(policy.Block)
	case g.shadow || g.Profile == nil || g.Profile.Auth.Forward:
		return ""
	default:
		return "people who opted out stay blocked, and most metrics arrive; lost are those of people who allowed in the account while their browser says no; "
	}
}

// issuersFaultFirst sends to what shows that it is no clock.
func issuersFaultFirst(times string) string {
	return "see first whether " + times + " in them, which no clock can cause: caddy metrics-gate trace says so of one request, and then whoever issues them writes it so; else "
}

// logWarning logs a trouble when it begins, and when it is over. That nothing comes by
// a route was said at start where it is known that nothing can.
func (g *Gate) logWarning(w gate.Warning) {
	message, advice, details := g.explain(w)
	if message == "" || g.isExplained(w) {
		return
	}
	fields := make([]zap.Field, 0, len(details)+1)
	for _, d := range details {
		fields = append(fields, zap.Any(d.name, d.value))
	}
	if w.Ended {
		g.logger.Info("it is over: "+message, fields...)
		return
	}
	g.logger.Warn(message, append(fields, zap.String("advice", advice))...)
}

// adviceOn says what to do where most credentials end in this way.
var adviceOn = [session.OutcomeCount]string{
	session.Expired:         "look whether the application still renews its sessions, and compare the clocks of whoever issues them and of this machine",
	session.NotYetValid:     "compare the clocks of whoever issues them and of this machine; where both are right, the issuer writes an nbf that is still to come",
	session.Malformed:       "look whether cookie or header holds the token itself and nothing else, and which claim names the account (uid_claim)",
	session.BadSignature:    "the key or secret is another than the issuer's: has it been rotated? Ask the issuer for the fingerprint of its own (the first eight digits of the SHA-256) and compare it with that of what is loaded; write the new one and reload, with --force where only a file has changed",
	session.WrongIssuer:     "if the iss that tokens have is an issuer of yours, write it into issuer beside the old one, and reload",
	session.WrongAudience:   "if the aud that tokens have stands for your application, write it into audience beside the old one, and reload",
	session.UnknownKey:      "the key set lacks the key that they name: has the issuer rotated it, or is jwks that of another issuer?",
	session.KeysUnavailable: "the key set, or whoever is asked about opaque tokens, does not answer; the cause is in the log",
	session.TooLong:         "they are longer than 8 KiB and are not read",
	session.TooMany:         "requests carry more than four credentials; look who sends them",
}

// Advice says what to do about credentials with an outcome, by its name, and
// nothing where nothing has to be done.
func Advice(outcome string) string {
	for known, advice := range adviceOn {
		if session.Outcome(known).String() == outcome {
			return advice
		}
	}
	return ""
}
