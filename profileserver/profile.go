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

	"go.uber.org/zap"

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
// An answer that cannot be given the member passes as it is, and the log says
// why: one with another status is an error, and readers see that; the others
// are no JSON object, too large to be held, or encoded although nobody asked.
func (s *Server) Merge(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request) error) error {
	if r.URL.Path != profilePath || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return next(w, r)
	}
	who, refused := s.authorize(r, readScope, time.Now())
	if refused != nil && refused != keysAway {
		return next(w, r)
	}
	w = s.observe(w, r, "profile")
	preference := policy.Unknown
	if refused == nil {
		held, err := s.store.get(r.Context(), who.uid)
		if err != nil {
			refused = s.failed(r, err)
		}
		preference = held.preference
	}
	if refused != nil {
		s.setHeaders(w.Header(), r)
		refused.write(w)
		return nil
	}
	reply := &withheld{ResponseWriter: w, log: s.log}
	if err := next(reply, unconditional(r)); err != nil || !reply.holding {
		return err
	}
	merged, ok := withMember(reply.body.Bytes(), preference)
	if !ok {
		_ = reply.release("its body is no JSON object") // as for any body, nobody is left to tell
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
	for _, name := range []string{
		"Content-Length", "Last-Modified", "ETag", "Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest",
	} {
		h.Del(name)
	}
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
		if key != field {
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
	log     *zap.Logger
	began   bool
	holding bool
	body    bytes.Buffer
}

// WriteHeader decides, by the headers that are set, whether to hold the answer
// back.
func (w *withheld) WriteHeader(status int) {
	if status < http.StatusOK { // 103 Early Hints, and the like: the answer is still to come
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.began {
		return
	}
	w.began = true
	if status == http.StatusOK {
		why := unfit(w.Header())
		if w.holding = why == ""; w.holding {
			return
		}
		w.warn(why)
	}
	w.ResponseWriter.WriteHeader(status)
}

// unfit says why an answer with these headers cannot be given a member, or
// nothing where it may be.
func unfit(h http.Header) (why string) {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	length, _ := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	switch encoding := h.Get("Content-Encoding"); {
	case !jsonType.MatchString(media):
		return "its Content-Type is not application/json"
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return "it is encoded, although identity was asked for"
	case length > maxProfile:
		return tooLong
	}
	return ""
}

const tooLong = "it is longer than 1 MiB"

func (w *withheld) Write(p []byte) (int, error) {
	if !w.began {
		w.WriteHeader(http.StatusOK)
	}
	if w.holding && w.body.Len()+len(p) > maxProfile {
		if err := w.release(tooLong); err != nil {
			return 0, err
		}
	}
	if w.holding {
		return w.body.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

// release lets the answer pass, from where it was held.
func (w *withheld) release(why string) error {
	w.warn(why)
	w.holding = false
	w.ResponseWriter.WriteHeader(http.StatusOK)
	_, err := w.body.WriteTo(w.ResponseWriter)
	return err
}

func (w *withheld) warn(why string) {
	w.log.Warn("a profile of the server behind passes without metrics_optout, which readers take for no choice", zap.String("why", why))
}

// FlushError is for http.ResponseController. What is held back stays so.
func (w *withheld) FlushError() error {
	if !w.began {
		w.WriteHeader(http.StatusOK)
	}
	if w.holding {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *withheld) Unwrap() http.ResponseWriter { return w.ResponseWriter }
