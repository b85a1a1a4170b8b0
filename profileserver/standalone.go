package profileserver

import (
	"cmp"
	"encoding/json"
	"net/http"

	"github.com/metricsgate/metricsgate/internal/build"
)

// version is the body of /__version__: indented, and with a line end, as the
// existing server has it.
func version(named string) []byte {
	version, revision := build.Of()
	body := struct {
		Version string `json:"version"`
		Commit  string `json:"commit"`
		Source  string `json:"source"`
	}{cmp.Or(named, version), revision, "https://" + build.ModulePath}
	text, _ := json.MarshalIndent(body, "", "  ") // strings always have a JSON form
	return append(text, '\n')
}

func (s *Server) showVersion(w http.ResponseWriter, _ *http.Request) *failure {
	writeJSON(w, http.StatusOK, s.version)
	return nil
}

// heartbeat says whether this instance can do its work: with an empty 200, if
// the store can be written.
func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request) *failure {
	if err := s.store.Ping(r.Context()); err != nil {
		return s.failed(r, err)
	}
	s.health.wrote()
	w.WriteHeader(http.StatusOK)
	return nil
}

// balancerHeartbeat says only that the process answers.
func (s *Server) balancerHeartbeat(w http.ResponseWriter, _ *http.Request) *failure {
	writeJSON(w, http.StatusOK, []byte(`{"http":"okay"}`))
	return nil
}
