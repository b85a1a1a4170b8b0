package survey

import (
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/gate"
)

// Why something looks like metrics.
const (
	WhySDK    = "sdk"    // it is that of a preset, by one of its hints
	WhyBeacon = "beacon" // as navigator.sendBeacon and <a ping> send it
	WhyPath   = "path"   // a word of its path
	WhyTiny   = "tiny"   // next to nothing is answered
)

// surely are words that a path has for hardly anything but measuring, also as
// parts of a segment: page-views, client_metrics.
var surely = []string{
	"analytics", "beacon", "beacons", "clickstream", "impression", "impressions", "metric", "metrics", "pageview", "pageviews", "piwik", "matomo",
	"pixel", "rum", "telemetry", "vitals", "webvitals",
}

// perhaps are words that other things have as well, such as a calendar's events.
// They count where a path ends in one, or in one and what may be an identifier.
// What is not among them: ping, which is also a health check, and report, which
// is also a document.
var perhaps = []string{
	"batch", "collect", "collector", "event", "events", "hit", "hits", "log", "logs", "navigation-timing", "perf", "stat", "stats", "tr", "track",
	"tracker", "tracking", "tunnel", "usage", "views",
}

// otherwise are words that stand in paths of something else, whatever the rest
// of them says: somebody's choice about being measured, what other servers call,
// what a page sends as it closes and has to arrive.
var otherwise = []string{
	".well-known", "autosave", "config", "consent", "csp", "draft", "drafts", "hooks", "leave", "login", "logout", "optin", "optout", "preference",
	"preferences", "privacy", "setting", "settings", "signin", "signout", "unlock", "unsubscribe", "webhook", "webhooks",
}

// maxTiny is how long the answer to a beacon is at most, such as
// {"success":true}.
const maxTiny = 64

// pixels are the sizes of the images that beacons are answered with.
var pixels = []int64{35, 37, 42, 43, 44, 49, 67, 68, 70, 85, 95}

// isEssential says what measures nobody, whatever else it looks like: documents,
// preflights, and what browsers and servers report of security.
func isEssential(r *Request) bool {
	switch mediaType(r) {
	case "application/csp-report", "application/reports+json", "application/secevent+jwt":
		return true
	}
	return r.Method == http.MethodOptions || r.Header.Get("Sec-Fetch-Dest") == "document"
}

func mediaType(r *Request) string {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return media
}

// isBeacon says whether the browser sent it as navigator.sendBeacon or <a ping>
// do: these are the only ones whose pages cannot read the answer. A page's own
// fetch can be told to do so, which hardly anybody does otherwise.
func isBeacon(r *Request) bool {
	return r.Ping || r.Method == http.MethodPost && (r.Header.Get("Sec-Fetch-Mode") == "no-cors" || mediaType(r) == "text/ping")
}

// likeness is how much a word of a path says.
type likeness int

const (
	unlike  likeness = iota // the path is one of something else
	unknown                 // there is no such word
	perhapsMetrics
	surelyMetrics
)

// like looks at the words of a path, and at those of another site's host.
func like(r *Request) likeness {
	is := unknown
	segments := strings.Split(strings.Trim(r.Path, "/"), "/")
	if r.Elsewhere {
		segments = append(strings.Split(r.Host, "."), segments...)
	}
	for i, segment := range segments {
		switch wordOf(segment) {
		case unlike:
			return unlike
		case surelyMetrics:
			is = surelyMetrics
		case perhapsMetrics:
			if last := len(segments) - 1; is == unknown && (i == last || i == last-1 && r.Method == http.MethodPost) {
				is = perhapsMetrics
			}
		default:
			// Many an SDK ends in /i or /e, which nothing else does.
			if is == unknown && i == len(segments)-1 && len(segment) == 1 && segment >= "a" && segment <= "z" {
				is = perhapsMetrics
			}
		}
	}
	return is
}

// wordOf looks at a segment without what may follow a dot, such as .gif.
func wordOf(segment string) likeness {
	segment = strings.ToLower(segment)
	name, _, _ := strings.Cut(segment, ".")
	parts := strings.FieldsFunc(name, func(c rune) bool { return c == '-' || c == '_' })
	isIn := func(words []string) bool {
		return slices.Contains(words, segment) || slices.Contains(words, strings.Join(parts, "")) ||
			slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(words, part) })
	}
	switch {
	case isIn(otherwise):
		return unlike
	case isIn(surely):
		return surelyMetrics
	case slices.Contains(perhaps, name):
		return perhapsMetrics
	}
	return unknown
}

// isTiny says whether next to nothing was answered: to what was sent, or to a
// query, of which a pixel is made.
func isTiny(r *Request, is likeness) bool {
	tiny := r.Status == http.StatusNoContent || r.Received >= 0 && r.Received <= maxTiny
	switch r.Method {
	case http.MethodPost:
		// What was created is more than counted, unless it is called so.
		return tiny && r.Sent != 0 && (is == surelyMetrics || r.Status != http.StatusCreated && isBrowser(r))
	case http.MethodPut, http.MethodPatch:
		return tiny && r.Sent != 0 && is == surelyMetrics
	case http.MethodGet:
		isImage := r.Header.Get("Sec-Fetch-Dest") == "image" || slices.Contains([]string{".gif", ".png", ".webp"}, path.Ext(r.Path))
		return r.Status == http.StatusNoContent ||
			r.Query != "" && (r.Received == 0 || slices.Contains(pixels, r.Received) || isImage && r.Received > 0 && r.Received <= 2*maxTiny)
	}
	return false
}

// isBrowser says whether it may come from a browser, or from nobody knows whom:
// what other servers send, such as Slack's events, measures nobody.
func isBrowser(r *Request) bool {
	agent := r.Header.Get("User-Agent")
	return agent == "" || agent == "-" || strings.HasPrefix(agent, "Mozilla/") || strings.HasPrefix(agent, "Opera/")
}

// presets are all of them, in order.
var presets = func() (all []namedPreset) {
	for _, name := range gate.PresetNames() {
		preset, _ := gate.PresetNamed(name)
		all = append(all, namedPreset{name, &preset})
	}
	return all
}()

type namedPreset struct {
	name string
	*gate.Preset
}

// recognised is the preset that a request is of, and the part of the path that
// one of its hints is of.
func recognised(r *Request) (preset, end string) {
	var query url.Values // read where a hint asks for it
	for _, preset := range presets {
		if isOnHostOf(r, preset.Preset) {
			return preset.name, ""
		}
		for i := range preset.Hints {
			hint := &preset.Hints[i]
			prefix, end, ok := "", "", true
			if hint.Path != "" {
				prefix, ok = cutEnd(r.Path, hint.Path)
				end = hint.Path
			}
			if !ok || hint.Header != "" && r.Header.Get(hint.Header) == "" || hint.ContentType != "" && mediaType(r) != hint.ContentType {
				continue
			}
			if len(hint.Query) > 0 && query == nil {
				query, _ = url.ParseQuery(r.Query) // as far as it can be read
			}
			if slices.ContainsFunc(hint.Query, func(name string) bool { return !query.Has(name) }) {
				continue
			}
			if takes(preset.RoutesAt(prefix), r.Method, r.Path, true) {
				return "", ""
			}
			return preset.name, end
		}
	}
	return "", ""
}

// isOnHostOf says whether a request went to the SDK's maker. What a page loads
// from there, the SDK itself, tells nothing yet.
func isOnHostOf(r *Request, preset *gate.Preset) bool {
	if !r.Elsewhere || slices.Contains([]string{"script", "style", "font", "iframe"}, r.Header.Get("Sec-Fetch-Dest")) ||
		slices.Contains([]string{".js", ".css", ".map"}, path.Ext(r.Path)) {
		return false
	}
	return slices.ContainsFunc(preset.Hosts, func(host string) bool { return r.Host == host || strings.HasSuffix(r.Host, "."+host) })
}

// takes says whether the routes have one that takes a request, and whether that
// is essential or is gated.
func takes(routes []gate.Route, method, path string, essential bool) bool {
	return slices.ContainsFunc(routes, func(route gate.Route) bool {
		return (route.Class == gate.ClassEssential) == essential && route.Takes(method, path)
	})
}

// cutEnd takes whole segments off the end of a path.
func cutEnd(path, end string) (rest string, ok bool) {
	path = strings.TrimSuffix(path, "/")
	for end != "" {
		wanted, at := strings.LastIndexByte(end, '/'), strings.LastIndexByte(path, '/')
		if at < 0 || end[wanted:] != "/*" && !strings.EqualFold(path[at:], end[wanted:]) {
			return "", false
		}
		path, end = path[:at], end[:wanted]
	}
	return path, true
}
