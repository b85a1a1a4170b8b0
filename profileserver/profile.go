package profileserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/policy"
)

// maxProfile bounds the profiles that a member is added to. The existing
// server's have a dozen short ones.
const maxProfile = 1 << 20

// profile answers GET /v1/profile where there is no other profile server: with
// the preference, which is left out while it is unset.
func (s *Server) profile(w http.ResponseWriter, r *http.Request) *failure {
	return s.tell(w, r, func(preference policy.Preference) []byte {
		if preference == policy.Unset {
			return []byte(`{}`)
		}
		return []byte(`{` + member(preference) + `}`)
	})
}

// Merge is for the requests that the server does not Own: it passes them to
// next, which is whoever stands behind. Of one kind of answer it makes another:
// a profile that is read with a token which may also read the preference gets
// it as a member, left out while it is unset. A member that is missing means
// that no choice was made; so where it cannot be learnt, be it from the store
// or because nobody could be asked about the token, there is no profile
// either.
//
// An answer of another status, or that is no JSON object, passes as it is: no
// reader takes it for a profile. One that may be, and cannot be given the
// member because it is encoded although nobody asked, or too large to be held,
// is answered with 503, and the log says why.
func (s *Server) Merge(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request) error) error {
	if r.URL.Path != profilePath || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return next(w, r)
	}
	who, refused := s.authorize(r, optoutapi.ReadScope, time.Now())
	if refused != nil && refused != keysAway {
		return next(w, r)
	}
	w = s.observe(w, r, "profile")
	preference := policy.Unknown
	if refused == nil {
		held, err := s.store.Get(r.Context(), who.uid)
		if err != nil {
			refused = s.failed(r, err)
		}
		preference = held.Preference
	}
	if refused != nil {
		s.setHeaders(w.Header(), r)
		refused.write(w)
		return nil
	}
	reply := &withheld{ResponseWriter: w}
	if err := next(reply, unconditional(r)); err != nil || reply.state == passing {
		return err
	}
	if reply.state == unusable {
		s.log.Warn("a profile of the server behind was answered with 503, since no preference can be added to it: it is compressed, although that was not asked for, or longer than 1 MiB")
		disown(w.Header())
		s.setHeaders(w.Header(), r)
		storeAway.write(w)
		return nil
	}
	merged, ok := withMember(reply.body.Bytes(), preference)
	if !ok {
		w.WriteHeader(http.StatusOK)
		_, _ = reply.body.WriteTo(w) // whoever asked is gone: nobody is left to tell
		return nil
	}
	if refused := serve(w, r, merged); refused != nil {
		refused.write(w)
	}
	return nil
}

// unconditional returns the request for the whole profile, as it is: whether
// the caller has it already can only be said of the merged one. HEAD becomes
// GET, since without the profile there is no tag and no length of it.
func unconditional(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Method = http.MethodGet
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"} {
		r.Header.Del(name)
	}
	r.Header.Set("Accept-Encoding", "identity")
	return r
}

// serve answers with a merged profile, in place of the one whose headers are
// set. The tag is a hash of the whole, as the existing server's is; a date
// cannot tell both parts.
func serve(w http.ResponseWriter, r *http.Request, profile []byte) *failure {
	h := w.Header()
	contentType := h.Get("Content-Type")
	disown(h)
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", noStore)
	sum := sha256.Sum256(profile)
	tag := fmt.Sprintf(`"%x"`, sum[:16])
	if !ifMatch(r.Header, tag) {
		return preconditionFailed
	}
	h.Set("ETag", tag)
	if !ifNoneMatch(r.Header, tag) {
		h.Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Length", strconv.Itoa(len(profile)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(profile) // whoever asked is gone: nobody is left to tell
	return nil
}

// disown takes out what headers say of an answer that is not given.
func disown(h http.Header) {
	for _, name := range []string{
		"Content-Type", "Content-Encoding", "Content-Length", "Last-Modified", "ETag", "Accept-Ranges",
		"Content-MD5", "Digest", "Content-Digest", "Repr-Digest",
	} {
		h.Del(name)
	}
}

// withMember returns the JSON object with the preference as its last member,
// or without it where it is unset. The other members stay as they are, byte
// for byte.
func withMember(profile []byte, preference policy.Preference) (merged []byte, ok bool) {
	if !json.Valid(profile) {
		return nil, false
	}
	// From here on no error is left to happen.
	tokens := json.NewDecoder(bytes.NewReader(profile))
	if first, _ := tokens.Token(); first != json.Delim('{') {
		return nil, false
	}
	var members [][]byte
	for tokens.More() {
		from := tokens.InputOffset()
		key, _ := tokens.Token()
		var value json.RawMessage
		_ = tokens.Decode(&value)
		if key != optoutapi.Preference {
			members = append(members, bytes.TrimLeft(profile[from:tokens.InputOffset()], ", \t\r\n"))
		}
	}
	if preference != policy.Unset {
		members = append(members, []byte(member(preference)))
	}
	return append(append([]byte("{"), bytes.Join(members, []byte(","))...), '}'), true
}

// withheld holds back an answer that may get a member, whole, and lets every
// other pass as it comes. It has no ReadFrom, so that io.Copy goes through
// Write.
type withheld struct {
	http.ResponseWriter
	state state
	body  bytes.Buffer
}

// state is what becomes of an answer.
type state uint8

const (
	awaited  state = iota // it has not begun
	passing               // it is no profile
	held                  // it is kept until its end
	unusable              // it is a profile that nothing can be added to
)

// WriteHeader decides, by the headers that are set, what becomes of the answer.
func (w *withheld) WriteHeader(status int) {
	if status < http.StatusOK { // 103 Early Hints, and the like: the answer is still to come
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.state != awaited {
		return
	}
	w.state = fate(status, w.Header())
	if w.state == passing {
		w.ResponseWriter.WriteHeader(status)
	}
}

// fate says what becomes of an answer that begins so.
func fate(status int, h http.Header) state {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	length, _ := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	encoding := h.Get("Content-Encoding")
	switch {
	case status != http.StatusOK || !jsonType.MatchString(media):
		return passing
	case encoding != "" && !strings.EqualFold(encoding, "identity"), length > maxProfile:
		return unusable
	}
	return held
}

func (w *withheld) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK) // unless it has begun
	if w.state == held && w.body.Len()+len(p) > maxProfile {
		w.state = unusable
	}
	if w.state == passing {
		return w.ResponseWriter.Write(p)
	}
	if w.state == held {
		return w.body.Write(p)
	}
	return len(p), nil
}

// FlushError is for http.ResponseController. What is held back stays so.
func (w *withheld) FlushError() error {
	w.WriteHeader(http.StatusOK) // unless it has begun
	if w.state != passing {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *withheld) Unwrap() http.ResponseWriter { return w.ResponseWriter }
