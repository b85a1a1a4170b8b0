package profileserver

import (
	"encoding/json"
	"net/http"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
)

// failure is a refusal in the shape of the existing server. All there are
// stand below, complete and constant: none is ever made from a request, so
// none can carry an account, a token or a payload to a caller or into the log
// of whoever stands between. What the old server adds from the outside (the
// cause of a failed verification, the name of an unknown key) is left out for
// that reason.
type failure struct {
	Code       int         `json:"code"`
	Errno      int         `json:"errno"`
	Error      string      `json:"error"`
	Message    string      `json:"message"`
	Reason     string      `json:"reason,omitempty"`
	Validation *validation `json:"validation,omitempty"`
}

// validation says which part of a request was not as it should be.
type validation struct {
	Source string   `json:"source"`
	Keys   []string `json:"keys"`
}

// The closed set, with the error numbers of the existing server. 999 is its
// number for what has none of its own.
var (
	badContentType     = &failure{Code: 400, Errno: 999, Error: "Bad Request", Message: "Invalid content-type header"}
	badJSON            = &failure{Code: 400, Errno: 999, Error: "Bad Request", Message: "Invalid request payload JSON format"}
	badParameter       = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"payload", []string{optoutapi.Preference}}}
	badLastEventID     = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"headers", []string{"last-event-id"}}}
	badAccount         = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"params", []string{"uid"}}}
	badFrom            = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"query", []string{"from"}}}
	badTo              = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"query", []string{"to"}}}
	badRange           = &failure{Code: 400, Errno: 101, Error: "Bad Request", Message: "Invalid request parameter", Validation: &validation{"query", []string{"from", "to"}}}
	noToken            = &failure{Code: 401, Errno: 100, Error: "Bad Request", Message: "Unauthorized", Reason: "Bearer token not provided"}
	badToken           = &failure{Code: 401, Errno: 100, Error: "Bad Request", Message: "Unauthorized", Reason: "Invalid token"}
	insufficientScope  = &failure{Code: 403, Errno: 999, Error: "Forbidden", Message: "Insufficient scope"}
	untrustedClient    = &failure{Code: 403, Errno: 999, Error: "Forbidden", Message: "Client is not trusted"}
	notOperator        = &failure{Code: 403, Errno: 999, Error: "Forbidden", Message: "Client is not an operator"}
	notFound           = &failure{Code: 404, Errno: 999, Error: "Not Found", Message: "Not Found"}
	preconditionFailed = &failure{Code: 412, Errno: 999, Error: "Precondition Failed", Message: "Precondition Failed"}
	tooLarge           = &failure{Code: 413, Errno: 999, Error: "Request Entity Too Large", Message: "Payload content length greater than maximum allowed"}
	badMediaType       = &failure{Code: 415, Errno: 999, Error: "Unsupported Media Type", Message: "Unsupported Media Type"}
	storeAway          = &failure{Code: 503, Errno: 999, Error: "Service Unavailable", Message: "Store not available"}
	keysAway           = &failure{Code: 503, Errno: 104, Error: "Service Unavailable", Message: "OAuth server error"}
)

func (f *failure) write(w http.ResponseWriter) {
	if f.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, 15.5.2
	}
	body, _ := json.Marshal(f) // numbers and strings always have a JSON form
	writeJSON(w, f.Code, body)
}
