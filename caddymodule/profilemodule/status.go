package profilemodule

import (
	"context"
	"errors"

	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
	"github.com/metricsgate/metricsgate/token"
)

// Report adds the profile server to a status. It asks the store, for as long as a
// scrape does.
func (p *ProfileServer) Report(ctx context.Context, s *status.Status) {
	ctx, cancel := context.WithTimeout(ctx, storeUpTimeout)
	defer cancel()
	report := status.ProfileServer{Store: p.Store.name(), Notified: p.store.Notified(), Followers: p.followers.Load()}
	where := "profile_server " + report.Store
	wrong := func(what string, err error) string {
		if err == nil {
			return ""
		}
		cause, advice := err.Error(), "check that its database answers, or that its disk has space and its file can be written"
		if known, ok := errors.AsType[*prefstore.HealthError](err); ok {
			cause, advice = known.State+": "+known.Err.Error(), known.Advice
		}
		s.Wrong = append(s.Wrong, status.Problem{Where: where, What: what + ": " + cause, Advice: advice})
		return cause
	}
	_, err := p.store.Get(ctx, nobody)
	report.ReadError = wrong("the store cannot be read, so gates learn no preference", err)
	report.WriteError = wrong("the store cannot be written, so no choice is recorded", p.store.Ping(ctx))
	standings := make([]*token.Standing, len(p.asked))
	for i, verifier := range p.asked {
		standings[i] = verifier.Standing()
	}
	report.Asked = s.AskedFor(where, standings...)
	s.ProfileServers = append(s.ProfileServers, report)
}

// nobody is an account that is nobody's, by which it is seen whether the store can
// be read.
const nobody = "metrics-gate-status"

// name is what a store is called where others read it: a database's name may hold
// a password.
func (s *Store) name() string {
	if s.Postgres != "" {
		return "postgres"
	}
	return "sqlite " + s.SQLite
}

var _ status.Reporter = (*ProfileServer)(nil)
