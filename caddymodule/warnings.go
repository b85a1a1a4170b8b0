package caddymodule

import (
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/session"
)

// troubles are what a gate looks like from the inside when it is bypassed or
// recognises nobody, and what to do.
var troubles = [...]struct{ message, advice string }{
	gate.NobodyRecognised: {
		"no account is recognised in any gated request, so nobody's preference is asked for",
		"check the names, letter by letter",
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
		"more credentials fail to verify than verify, so nobody's preference is asked for whose credential does",
		"", // by outcome
	},
	gate.EverybodyExpired: {
		"all credentials have expired, so they can block and nothing else",
		"look whether the application still renews its sessions, and compare the clocks of whoever issues them and of this machine",
	},
}

// logWarning logs a trouble when it begins, and when it is over. Kinds are those
// of the sessions.
func (g *Gate) logWarning(kinds []string, w gate.Warning) {
	if w.Trouble == gate.NobodyRecognised && len(g.lookedFor) == 0 {
		return // a gate for signals only recognises nobody by design
	}
	trouble, fields := troubles[w.Trouble], []zap.Field{zap.Int("requests", w.Requests)}
	switch w.Trouble {
	case gate.NobodyRecognised:
		fields = append(fields, zap.Strings("looked_for", g.lookedFor))
	case gate.NobodyRecognisedOnRoute, gate.RouteSilent:
		fields = append(fields, zap.String("route", g.gate.Routes()[w.Route].Path))
	case gate.SessionsFail:
		trouble.advice = adviceOn[w.Outcome]
		fields = append(fields, zap.String("kind", kinds[w.Source]), zap.String("outcome", w.Outcome.String()))
	case gate.EverybodyExpired:
		fields = append(fields, zap.String("kind", kinds[w.Source]))
	}
	if w.Ended {
		g.logger.Info("it is over: "+trouble.message, fields...)
		return
	}
	g.logger.Warn(trouble.message, append(fields, zap.String("advice", trouble.advice))...)
}

// adviceOn says what to do where most credentials fail in this way.
var adviceOn = [session.OutcomeCount]string{
	session.NotYetValid:     "compare the clocks of whoever issues them and of this machine",
	session.Malformed:       "look whether cookie or header holds the token itself and nothing else, and which claim names the account (uid_claim)",
	session.BadSignature:    "the key or secret is another than the issuer's: has it been rotated?",
	session.WrongIssuer:     "compare issuer with the claim iss of a token",
	session.WrongAudience:   "compare audience with the claim aud of a token",
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
