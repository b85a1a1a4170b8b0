package profileserver

import (
	"net/http"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// deleteAccount forgets the account that the path names. That there is nothing
// to forget is as good.
func (s *Server) deleteAccount(w http.ResponseWriter, r *http.Request) *failure {
	if refused := s.mayOperate(r, optoutapi.WriteScope, time.Now()); refused != nil {
		return refused
	}
	// A uid may hold any slash that is escaped; one that is not begins another
	// address, and it would be bad to say that an account is gone because of
	// a slash too many.
	if strings.Contains(strings.TrimPrefix(r.URL.EscapedPath(), accountPath), "/") {
		return notFound
	}
	uid := strings.TrimPrefix(r.URL.Path, accountPath) // unescaped, once
	if !policy.IsUID(uid) {
		return badAccount
	}
	came, err := s.store.Delete(r.Context(), uid, "")
	if err != nil {
		return s.failed(r, err)
	}
	s.health.wrote()
	if came == prefstore.Changed {
		s.observer.Change("deleted", optoutapi.SourceAdmin)
	}
	writeJSON(w, http.StatusOK, []byte(`{}`))
	return nil
}
