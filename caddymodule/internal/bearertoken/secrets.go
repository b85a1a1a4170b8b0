package bearertoken

import (
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
	"github.com/metricsgate/metricsgate/token"
)

// WarnOfLiterals says at start that one of the secrets, as they are written,
// stands in the configuration. Empty ones are not set.
func WarnOfLiterals(logger *zap.Logger, where string, written ...string) {
	for _, secret := range written {
		if secret != "" && !placeholder.Is(secret) {
			logger.Warn("the secret stands in the configuration itself, where GET /config shows it; write {env.NAME} or {file./path}",
				zap.String("where", where))
			return
		}
	}
}

// inUse are the secrets and keys of the configurations that run, each by where it
// is used.
var inUse = pool.New[use]()

// use is that a secret is in use.
type use struct{}

// Close has nothing to close.
func (use) Close() {}

// LogSecrets says that a module uses secrets and keys that were not in use there
// before, by their fingerprints. They are in use as long as the module holds what
// it holds.
func LogSecrets(held *pool.Leases, logger, where string, secrets ...[]byte) {
	if fingerprints := takeSecrets(held, where, secrets...); len(fingerprints) > 0 {
		caddy.Log().Named(logger).Info("these secrets and keys were not in use before; they are called by their fingerprints",
			zap.String("where", where), zap.Strings("fingerprints", fingerprints))
	}
}

// takeSecrets has secrets in use, and returns the fingerprints of those that were
// not. Empty ones are not set.
func takeSecrets(held *pool.Leases, where string, secrets ...[]byte) (fingerprints []string) {
	for _, secret := range secrets {
		if len(secret) == 0 {
			continue
		}
		// Such settings always have a JSON, so this cannot fail.
		_, _ = inUse.Acquire(held, []any{where, secret}, func() (use, error) {
			fingerprints = append(fingerprints, token.Fingerprint(secret))
			return use{}, nil
		})
	}
	return fingerprints
}

// demoKey is how the keys begin that the demonstration brings in examples/keys.
const demoKey = "DEMO-ONLY-"

// WarnOfDemoKey says at start that a secret is one of the demonstration's, which
// everybody can read, in a site that others than this machine can reach.
func WarnOfDemoKey(ctx caddy.Context, logger *zap.Logger, where, secret string) {
	server, known := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if known && strings.HasPrefix(secret, demoKey) && IsPublic(server) {
		logger.Warn("the secret is the demonstration's, which everybody can read, and this site listens to more than this machine; make one of your own",
			zap.String("where", where))
	}
}

// IsPublic says whether more than this machine can reach a site.
func IsPublic(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(server.Listen, func(listen string) bool { return !isLoopback(listen) })
}

// isLoopback says whether only this machine can reach a listener.
func isLoopback(listen string) bool {
	address, err := caddy.ParseNetworkAddress(listen)
	return err == nil && (address.IsUnixNetwork() || address.Host == "localhost" || net.ParseIP(address.Host).IsLoopback())
}
