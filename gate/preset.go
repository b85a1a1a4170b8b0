package gate

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/session"
)

// Preset is what a known application or SDK needs, as data: a file in the folder
// presets. Its answers are what the SDK takes for success, so that nothing is
// sent again and nobody notices.
type Preset struct {
	// Title is what it is of.
	Title string `json:"title"`

	// Prefix is where the paths of Routes begin, unless the operator says
	// otherwise. Default: at the root.
	Prefix string `json:"prefix,omitempty"`

	// NeedsPrefix says that only the operator knows where the paths begin.
	NeedsPrefix bool `json:"needs_prefix,omitempty"`

	// DeviceIDs says that what requests name may be a device, of which no
	// profile server knows.
	DeviceIDs bool `json:"device_ids,omitempty"`

	// RetriesReject says that the SDK sends again what gets a 403.
	RetriesReject bool `json:"retries_reject,omitempty"`

	// Routes are the gated routes, and the exceptions from wider ones.
	Routes []Route `json:"routes"`

	// Names says where requests of metrics routes name accounts that do not say
	// it themselves.
	Names *session.NamesConfig `json:"names,omitempty"`

	// ExperimentParams take blocked users' pages out of the client's own
	// experiments. They come with a handshake, since pages then wait for a lookup.
	ExperimentParams []string `json:"experiment_params,omitempty"`

	// FeatureFlags do the same, and stop what the client beacons past the edge.
	FeatureFlags []FeatureFlags `json:"feature_flags,omitempty"`

	// Hosts are where the SDK sends unless told otherwise, with all below them.
	// Recorded requests are recognised by them.
	Hosts []string `json:"hosts,omitempty"`

	// Hints are what its recorded requests are recognised by where a site has them
	// sent to itself, below whatever prefix. One that fits is enough.
	Hints []Hint `json:"hints"`
}

// Hint is what tells an SDK's requests from everybody else's. All that it says
// must hold.
type Hint struct {
	// Path is how the request's path ends: whole segments, of which a * stands for
	// any. Default: however it likes.
	Path string `json:"path,omitempty"`

	// Query are parameters that its query has. Default: none.
	Query []string `json:"query,omitempty"`

	// Header is one that it has. Default: none.
	Header string `json:"header,omitempty"`

	// ContentType is that of its body, without parameters. Default: any.
	ContentType string `json:"content_type,omitempty"`
}

// UsedPreset is a preset in a configuration.
type UsedPreset struct {
	// Name of the preset, such as "posthog".
	Name string `json:"name"`

	// Prefix is where the SDK was told that its host is: a path, such as
	// "/ingest", in place of the preset's own. Default: the preset's.
	Prefix string `json:"prefix,omitempty"`
}

//go:embed presets/*.json
var presetFiles embed.FS

// presets are those of the files. Files that are no presets never come out of a
// build that was tested.
var presets = func() map[string]Preset {
	files, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(err)
	}
	all := make(map[string]Preset, len(files))
	for _, file := range files {
		text, err := presetFiles.ReadFile("presets/" + file.Name())
		if err != nil {
			panic(err)
		}
		var preset Preset
		strict := json.NewDecoder(bytes.NewReader(text))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&preset); err != nil {
			panic(fmt.Errorf("presets/%s: %w", file.Name(), err))
		}
		all[strings.TrimSuffix(file.Name(), ".json")] = preset
	}
	return all
}()

// PresetNames returns the names of all presets, in order.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets)) }

// PresetNamed returns the preset of that name, and false where there is none. It
// is not to be changed.
func PresetNamed(name string) (Preset, bool) {
	preset, known := presets[name]
	return preset, known
}

// RoutesAt returns the routes of the preset below a prefix, or its own where
// that is empty.
func (p *Preset) RoutesAt(prefix string) []Route {
	if prefix == "" {
		prefix = p.Prefix
	}
	routes := slices.Clone(p.Routes)
	for i := range routes {
		routes[i].Path = prefix + routes[i].Path
		if routes[i].Names == nil && routes[i].Class == ClassMetrics {
			routes[i].Names = p.Names
		}
	}
	return routes
}

// NamesAccounts says whether its requests can name accounts.
func (p *Preset) NamesAccounts() bool {
	return slices.ContainsFunc(p.RoutesAt(""), func(route Route) bool { return route.Names != nil })
}

// Validate returns what is wrong with the use of the preset by itself.
func (u *UsedPreset) Validate() error {
	preset, known := PresetNamed(u.Name)
	switch {
	case !known:
		return fmt.Errorf("there is no preset %q; the presets are %s", u.Name, strings.Join(PresetNames(), ", "))
	case u.Prefix == "" && preset.NeedsPrefix:
		return errors.New("only you know where its requests go; write a prefix, such as /tunnel")
	case u.Prefix == "":
		return nil
	}
	prefix := Route{Methods: []string{"POST"}, Path: u.Prefix}
	if err := prefix.validatePath(); err != nil {
		return err
	}
	if strings.Contains(u.Prefix, "*") || strings.HasSuffix(u.Prefix, "/") {
		return fmt.Errorf("%q is not a prefix; write a path without * and without a slash at its end, such as /ingest", u.Prefix)
	}
	return nil
}

// ValidateAfter returns what keeps the preset from being used beside an earlier
// one: nobody could tell whose answer a request of both should get.
func (u *UsedPreset) ValidateAfter(earlier *UsedPreset) error {
	mine, theirs := presets[u.Name], presets[earlier.Name]
	for _, route := range mine.RoutesAt(u.Prefix) {
		for _, other := range theirs.RoutesAt(earlier.Prefix) {
			if ready := route.prepare(); ready.meets(other.prepare()) {
				return fmt.Errorf("its %s and %s of preset %s take the same requests; write a prefix for one of them, such as preset %s /%[4]s, and tell it to the SDK",
					route.Path, other.Path, earlier.Name, u.Name)
			}
		}
	}
	return nil
}
