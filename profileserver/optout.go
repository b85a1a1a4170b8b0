package profileserver

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// maxBody is far more than {"metrics_optout":false} needs, however it is
// indented.
const maxBody = 4 << 10

// read answers GET with the preference. An account that nobody wrote anything
// of holds null, like any other that made no choice.
func (s *Server) read(w http.ResponseWriter, r *http.Request) *failure {
	return s.tell(w, r, func(preference policy.Preference) []byte {
		if preference == policy.Unset && s.noContentWhenUnset {
			return nil
		}
		return []byte(`{` + member(preference) + `}`)
	})
}

// member is the preference as a member of a JSON object.
func member(preference policy.Preference) string {
	return `"` + optoutapi.Preference + `":` + preference.String()
}

// tell answers with the caller's preference in the form that show gives it,
// which is 204 where it gives nothing.
func (s *Server) tell(w http.ResponseWriter, r *http.Request, show func(policy.Preference) []byte) *failure {
	who, refused := s.authorize(r, optoutapi.ReadScope, time.Now())
	if refused != nil {
		return refused
	}
	held, err := s.store.Get(r.Context(), who.uid)
	if err != nil {
		return s.failed(r, err)
	}
	tag := held.ETag()
	if !ifMatch(r.Header, tag) {
		return preconditionFailed
	}
	w.Header().Set("ETag", tag)
	if held.Source != "" {
		// For whoever shows people their choice. Conditions are about the tag
		// alone: two changes may share the second that a date tells.
		w.Header().Set("Last-Modified", held.Changed().Format(http.TimeFormat))
		w.Header().Set(optoutapi.SourceHeader, held.Source)
		tellChanged(w.Header(), held)
	}
	body := show(held.Preference)
	switch {
	case !ifNoneMatch(r.Header, tag):
		w.WriteHeader(http.StatusNotModified)
	case body == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, body)
	}
	return nil
}

// write answers POST: it records the preference, if the request's
// preconditions hold at the moment of writing.
func (s *Server) write(w http.ResponseWriter, r *http.Request) *failure {
	who, refused := s.authorize(r, optoutapi.WriteScope, time.Now())
	if refused != nil {
		return refused
	}
	preference, refused := readBody(w, r)
	if refused != nil {
		return refused
	}
	held, came, err := s.store.Set(r.Context(), who.uid, prefstore.Choice{Preference: preference, Source: who.source, OnlyIf: func(tag string) bool {
		return ifMatch(r.Header, tag) && ifNoneMatch(r.Header, tag)
	}})
	switch {
	case err != nil:
		return s.failed(r, err)
	case came == prefstore.Refused:
		return preconditionFailed
	case came == prefstore.Changed:
		s.observer.Change(preference.String(), who.source)
	}
	s.health.wrote()
	tellChanged(w.Header(), held)
	writeJSON(w, http.StatusOK, []byte(`{}`))
	return nil
}

// tellChanged says when the preference last changed, to the millisecond: a gate
// compares it with what the feed of changes tells.
func tellChanged(h http.Header, held prefstore.Record) {
	if held.Source != "" {
		h.Set(optoutapi.ChangedHeader, held.Changed().Format(optoutapi.TimeLayout))
	}
}

// readBody reads {"metrics_optout":null|false|true} and nothing else.
func readBody(w http.ResponseWriter, r *http.Request) (policy.Preference, *failure) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return policy.Unknown, badMediaType
	}
	if r.ContentLength > maxBody {
		return policy.Unknown, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			return policy.Unknown, tooLarge
		}
		return policy.Unknown, badJSON // cut off
	}
	return parseBody(r.Header.Get("Content-Type"), body)
}

var (
	jsonType = regexp.MustCompile(`^application/(?:.+\+)?json$`)
	// rawType is what the existing server takes for a payload, only never for
	// an object: the payload then fails as a parameter, not as a media type.
	rawType = regexp.MustCompile(`^(?:text/.+|application/(?:octet-stream|x-www-form-urlencoded))$`)
)

// parseBody tells apart what the existing server tells apart. As there, no
// Content-Type at all means JSON, and the last of duplicate keys wins, as
// JSON.parse has it. Keys are compared exactly, which encoding/json does for
// maps and not for structs.
func parseBody(contentType string, body []byte) (policy.Preference, *failure) {
	if contentType != "" {
		media, _, err := mime.ParseMediaType(contentType)
		switch {
		case err != nil:
			return policy.Unknown, badContentType
		case rawType.MatchString(media):
			return policy.Unknown, badParameter
		case !jsonType.MatchString(media):
			return policy.Unknown, badMediaType
		}
	}
	if len(body) == 0 {
		return policy.Unknown, badParameter
	}
	if !json.Valid(body) {
		return policy.Unknown, badJSON
	}
	var object map[string]json.RawMessage
	var preference policy.Preference
	if json.Unmarshal(body, &object) != nil || len(object) != 1 || preference.UnmarshalJSON(object[optoutapi.Preference]) != nil {
		return policy.Unknown, badParameter
	}
	return preference, nil
}
