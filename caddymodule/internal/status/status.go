// Package status is what an operator is told of a running configuration: the
// words that handlers report themselves in, the admin API serves and the command
// prints. Nothing in it is about an account.
package status

import (
	"context"
	"fmt"
	"time"

	"github.com/metricsgate/metricsgate/token"
)

// Path is where the admin API serves a Status.
const Path = "/metrics_gate/status"

// AlwaysOK is the query of who wants a 200 also where something is wrong, because
// the body of an error is lost on the way.
const AlwaysOK = "code=200"

// Reporter is a handler that has something to report. It adds to the status what
// it is and, to Wrong, what is wrong with it. It returns when the context ends.
type Reporter interface {
	Report(ctx context.Context, s *Status)
}

// Status is how everything does.
type Status struct {
	// Wrong says what is wrong, and is empty where nothing is.
	Wrong []Problem `json:"wrong"`

	// Version is that of Metrics Gate in this binary.
	Version string `json:"version"`

	// Ports are those that its sites listen on, and none where not all can be told.
	Ports []string `json:"ports,omitempty"`

	// Gates are those of the running configuration.
	Gates []Gate `json:"gates"`

	// ProfileServers are those of the running configuration.
	ProfileServers []ProfileServer `json:"profile_servers"`
}

// Problem is something that is wrong.
type Problem struct {
	// Where is what it is wrong with, such as "gate default".
	Where string `json:"where"`

	// What is wrong, in the words of the log.
	What string `json:"what"`

	// Advice is what to do; it may be empty.
	Advice string `json:"advice,omitempty"`

	// Since is when it began; it may not be known.
	Since time.Time `json:"since,omitzero"`

	// Traffic says that it was seen in what pages send, so that what somebody else sends
	// may be decided otherwise.
	Traffic bool `json:"traffic,omitempty"`

	// Requests are those that do not come to a gate, such as "POST /metrics", where
	// that is what is wrong, and Hosts and Ports are whose; none are all.
	Requests []string `json:"requests,omitempty"`
	Hosts    []string `json:"hosts,omitempty"`
	Ports    []string `json:"ports,omitempty"`
}

// Gate is a gate.
type Gate struct {
	// Label is what it is called.
	Label string `json:"label"`

	// Mode is enforce or shadow.
	Mode string `json:"mode"`

	// Hosts are those of the sites that gates of this label stand in, and Ports what
	// these listen on; none are all.
	Hosts []string `json:"hosts,omitempty"`
	Ports []string `json:"ports,omitempty"`

	// WouldBlock is how many requests gates of this label would have blocked in shadow
	// mode since Caddy was started.
	WouldBlock int64 `json:"would_block,omitempty"`

	// Since is when its configuration was loaded, since when it counts.
	Since time.Time `json:"since"`

	// Pages is how many it has decided.
	Pages int64 `json:"pages"`

	// Routes are its gated routes.
	Routes []Route `json:"routes"`

	// Sessions is what came of credentials since Window began.
	Sessions []Session `json:"sessions,omitempty"`

	// Window is when the present window of its warnings began.
	Window time.Time `json:"window"`

	// Profile is the profile server that it asks, if any.
	Profile *Profile `json:"profile,omitempty"`

	// Asked are those whom it asks about tokens, or for keys.
	Asked []Asked `json:"asked,omitempty"`

	// Tokens is how many verified ones it remembers, own sessions included.
	Tokens int `json:"tokens"`
}

// Route is a gated route.
type Route struct {
	// Methods are those that it takes.
	Methods []string `json:"methods"`

	// Path is as the configuration has it.
	Path string `json:"path"`

	// Class is metrics or experiment.
	Class string `json:"class"`

	// Requests is how many the gate has decided.
	Requests int64 `json:"requests"`
}

// Session is a kind of session.
type Session struct {
	// Kind is that of the counters.
	Kind string `json:"kind"`

	// Outcomes is how often each outcome came; those that did not are left out.
	Outcomes map[string]int64 `json:"outcomes"`
}

// Profile is a profile server, as a gate knows it.
type Profile struct {
	// URL is as the configuration has it.
	URL string `json:"url"`

	// Failure is why lookups fail.
	Failure *Failure `json:"failure,omitempty"`

	// Preferences and NamedPreferences are how many are cached.
	Preferences      int `json:"preferences"`
	NamedPreferences int `json:"named_preferences"`

	// Feed is its change feed, where that is followed.
	Feed *Feed `json:"feed,omitempty"`
}

// Feed is a change feed, as a gate follows it.
type Feed struct {
	// Connected says that there is a connection.
	Connected bool `json:"connected"`

	// AgeSeconds is for how long nothing was heard of it.
	AgeSeconds float64 `json:"age_seconds"`

	// Failure is why it cannot be followed.
	Failure *Failure `json:"failure,omitempty"`
}

// Asked is somebody who is asked for keys, or about tokens.
type Asked struct {
	// For is what it is asked for: KeySet or Introspection.
	For string `json:"for"`

	// Source is its URL without the query.
	Source string `json:"source"`

	// Fetched is when the last good key set came, and zero where none has.
	Fetched time.Time `json:"fetched,omitzero"`

	// Outcome is how the last fetch of the key set ended.
	Outcome string `json:"outcome,omitempty"`

	// Failure is why asking fails.
	Failure *Failure `json:"failure,omitempty"`
}

// What somebody is asked for.
const (
	KeySet        = "key set"
	Introspection = "introspection"
)

// ProfileServer is a profile server of ours.
type ProfileServer struct {
	// Store is where it keeps preferences: sqlite and the path, or postgres.
	Store string `json:"store"`

	// ReadError and WriteError say why it cannot read or write; empty: it can.
	ReadError  string `json:"read_error,omitempty"`
	WriteError string `json:"write_error,omitempty"`

	// Notified says that the feed learns of changes as they are made. If not, it
	// asks for them every second.
	Notified bool `json:"notified"`

	// Followers is how many follow its feed now.
	Followers int64 `json:"followers"`

	// Asked are those whom it asks about tokens, or for keys.
	Asked []Asked `json:"asked,omitempty"`
}

// Failure is why something fails.
type Failure struct {
	// Since is when it began.
	Since time.Time `json:"since"`

	// Last is when it last showed: who does not ask sees no failure.
	Last time.Time `json:"last"`

	// Error is how it last showed.
	Error string `json:"error"`
}

// FailureOf is a failure as the status has it, and nil where all is well.
func FailureOf(f token.Failure) *Failure {
	if f.Since.IsZero() {
		return nil
	}
	return &Failure{f.Since.UTC(), f.Last.UTC(), f.Err.Error()}
}

// stepsFor is what to do where somebody cannot be asked, by what for.
var stepsFor = map[string]string{
	KeySet:        "look whether that address answers from this machine, and with a key set. Until it does, tokens are verified with the keys that are known",
	Introspection: "look whether that address answers from this machine. Until it does, tokens that are not remembered prove nothing",
}

// AskedFor is how those do who are asked for keys or about tokens. What is wrong
// is added to the status, with where it is.
func (s *Status) AskedFor(where string, all ...*token.Standing) (asked []Asked) {
	for _, one := range all {
		if one == nil {
			continue
		}
		a := Asked{For: Introspection, Source: one.Source, Failure: FailureOf(one.Failure)}
		if one.KeySet {
			a.For, a.Fetched = KeySet, one.Fetched.UTC()
			if a.Outcome = one.Outcome.String(); one.Fetched.IsZero() && a.Failure == nil {
				a.Outcome = "" // the first fetch is under way
			}
		}
		if a.Failure != nil {
			s.Wrong = append(s.Wrong, Problem{
				Where: where, What: fmt.Sprintf("%s %s: %s", a.For, a.Source, a.Failure.Error), Advice: stepsFor[a.For], Since: a.Failure.Since,
			})
		}
		asked = append(asked, a)
	}
	return asked
}
