package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/metricsgate/metricsgate/caddymodule/internal/placeholder"
	"github.com/metricsgate/metricsgate/gate"
)

// Sites are those of a configuration, for those who ask which requests its gates
// would gate. It need not run for that, so neither its secrets nor its
// certificates have to be there.
type Sites struct {
	servers []*site
	gates   []*gate.Gate
}

// site is a server of the configuration.
type site struct {
	ports     []caddy.NetworkAddress
	elsewhere bool // it listens on what cannot be read as well
	tls       bool
	routes    map[string]*caddyhttp.Route // that are named
	named     map[string][]block          // of them, those that are invoked
	blocks    []block
}

// block is a route of Caddy's.
type block struct {
	group    string
	matchers []matcherSet
	written  string // what the matchers are
	terminal bool
	steps    []step
}

// step is a handler, as far as it matters which way a request goes.
type step struct {
	name     string // of its module
	gate     *gate.Gate
	label    string // of the gate
	inner    []block
	strip    string // of the path's beginning
	rewrites bool   // or may, in another way
	ends     bool
}

// SitesOf reads a configuration in Caddy's JSON.
func SitesOf(config []byte) (*Sites, error) {
	var read caddy.Config
	var app caddyhttp.App
	err := json.Unmarshal(config, &read)
	if raw := read.AppsRaw["http"]; err == nil && raw != nil {
		err = json.Unmarshal(raw, &app)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return sitesOf(&app)
}

// sitesOf reads an app that is provisioned, that is not, or of which a part is.
func sitesOf(app *caddyhttp.App) (*Sites, error) {
	s := new(Sites)
	for name, server := range app.Servers {
		one := &site{tls: len(server.TLSConnPolicies) > 0, routes: server.NamedRoutes, named: map[string][]block{}}
		for _, address := range server.Listen {
			if parsed, err := caddy.ParseNetworkAddress(address); err == nil {
				one.ports = append(one.ports, parsed)
			} else {
				one.elsewhere = true
			}
		}
		var err error
		if one.blocks, err = s.blocks(one, server.Routes, 0); err != nil {
			return nil, fmt.Errorf("server %s: %w", name, err)
		}
		s.servers = append(s.servers, one)
	}
	if len(s.gates) == 0 {
		return nil, errors.New("this configuration has no metrics_gate")
	}
	return s, nil
}

// maxDepth bounds routes that invoke one another.
const maxDepth = 50

func (s *Sites) blocks(server *site, routes caddyhttp.RouteList, depth int) (blocks []block, err error) {
	if depth > maxDepth {
		return nil, errors.New("its named routes invoke one another without an end")
	}
	for i := range routes {
		route := &routes[i]
		matchers := matchersOf(route)
		one := block{group: route.Group, matchers: matcherSetsOf(matchers), written: writtenOf(matchers), terminal: route.Terminal}
		for _, raw := range handlersOf(route) {
			next, err := s.step(server, raw, depth)
			if err != nil {
				return nil, err
			}
			one.steps = append(one.steps, next)
		}
		blocks = append(blocks, one)
	}
	return blocks, nil
}

// lookedInto are the handlers of which more than the name matters.
var lookedInto = map[string]bool{
	"metrics_gate": true, "subroute": true, "invoke": true, "rewrite": true,
	"reverse_proxy": true, "file_server": true, "static_response": true, "error": true,
}

func (s *Sites) step(server *site, raw json.RawMessage, depth int) (next step, err error) {
	var module struct {
		// Name is the module's.
		Name string `json:"handler"`
	}
	var handler struct {
		// Label is a gate's.
		Label string `json:"label"`

		// Routes are a subroute's.
		Routes caddyhttp.RouteList `json:"routes"`

		// Invoked is the named route of invoke.
		Invoked string `json:"name"`

		// PassThru has a file_server go on where there is no file.
		PassThru bool `json:"pass_thru"`

		// Status is that of a static_response, which goes on after an early hint.
		Status caddyhttp.WeakString `json:"status_code"`

		// Then is what a reverse_proxy does with replies. A forward_auth is made of
		// it, and goes on.
		Then []json.RawMessage `json:"handle_response"`
	}
	err = json.Unmarshal(raw, &module)
	if next.name = module.Name; err == nil && lookedInto[next.name] {
		err = json.Unmarshal(raw, &handler)
	}
	if err != nil {
		return step{}, fmt.Errorf("a handler: %w", err)
	}
	switch next.name {
	case "metrics_gate":
		next.label = cmp.Or(handler.Label, defaultLabel)
		next.gate, err = gateOf(raw)
		s.gates = append(s.gates, next.gate)
	case "subroute":
		next.inner, err = s.blocks(server, handler.Routes, depth+1)
	case "invoke":
		next.inner, err = s.invoked(server, handler.Invoked, depth)
	case "rewrite":
		next.strip, next.rewrites = strips(raw)
	case "reverse_proxy":
		next.ends = len(handler.Then) == 0
		next.rewrites = !next.ends
	case "file_server":
		next.ends = !handler.PassThru
	case "static_response":
		next.ends = handler.Status.Int() != http.StatusEarlyHints
	case "error":
		next.ends = true
	default:
		next.rewrites = !leavesAlone[caddy.ModuleID("http.handlers."+next.name)]
	}
	return next, err
}

// invoked are the blocks of a named route, which is read once, so that its gates
// are the same wherever it is invoked.
func (s *Sites) invoked(server *site, name string, depth int) ([]block, error) {
	route := server.routes[name]
	if blocks, read := server.named[name]; read || route == nil {
		return blocks, nil
	}
	blocks, err := s.blocks(server, caddyhttp.RouteList{*route}, depth+1)
	server.named[name] = blocks
	return blocks, err
}

// strips returns the prefix that a rewrite takes off paths, and whether it may
// change anything else.
func strips(raw json.RawMessage) (prefix string, more bool) {
	var words map[string]json.RawMessage
	_ = json.Unmarshal(raw, &words) // whoever asks has read it
	if _ = json.Unmarshal(words["strip_path_prefix"], &prefix); hasPlaceholder(prefix) {
		return "", true
	}
	delete(words, "handler")
	delete(words, "strip_path_prefix")
	return prefix, len(words) > 0
}

// arrivedKey is where the context of a request has the URL that it came with.
type arrivedKey struct{}

// gateOf makes a gate that knows its routes and nothing else.
func gateOf(raw json.RawMessage) (*gate.Gate, error) {
	var module Gate
	err := json.Unmarshal(raw, &module)
	if err != nil {
		return nil, at(err, "metrics_gate")
	}
	options, err := placeholder.Copy(&Gate{Presets: module.Presets, Routes: module.Routes})
	if err != nil {
		return nil, at(err, "metrics_gate")
	}
	made, err := gate.New(gate.Config{Presets: options.Presets, Routes: options.Routes, Host: gate.Host{
		Original: func(r *http.Request) (string, *url.URL) {
			arrived, _ := r.Context().Value(arrivedKey{}).(*url.URL)
			return r.Method, arrived
		},
	}})
	return made, at(err, "metrics_gate")
}

// Serves says whether the configuration names a host, on a server that listens to
// the port. An empty port may be any.
func (s *Sites) Serves(host, port string) bool {
	return slices.ContainsFunc(s.serversAt(port), func(server *site) bool {
		return slices.ContainsFunc(hostsOf(server.blocks), func(named caddyhttp.MatchHost) bool { return TakesHost(named, host) })
	})
}

// noHost is a host that no configuration names.
const noHost = "other.invalid"

// Gates returns the route that a gate has for a request, or nothing, and whether
// that gate surely sees it: whatever matchers look at but host, method and path
// may keep it away. Where host or port is empty, the site may be any that has a
// gate. A path counts as it comes, and with the prefixes off that the
// configuration strips.
func (s *Sites) Gates(host, port, method string, u *url.URL) (route string, sure bool) {
	var all fate
	for _, server := range s.serversAt(port) {
		hosts := []string{host}
		if host == "" {
			hosts[0] = noHost
			for _, named := range hostsOf(server.blocks) {
				hosts = append(hosts, named...)
			}
		}
		for _, host := range hosts {
			if !hasGate(server.blocks, host) {
				continue // it is none of the gates' business
			}
			v := visit{asked: asked{host: host, method: method}, arrived: u, now: *u}
			if all |= v.through(server.blocks); v.route != "" {
				route = v.route
			}
		}
	}
	for i := 0; route == "" && i < len(s.gates); i++ {
		route = routeOf(s.gates[i], method, u, u)
	}
	return route, all == isGated
}

// serversAt are the servers that listen to a port, or all of them where none does:
// what stands in front of them has ports of its own.
func (s *Sites) serversAt(port string) []*site {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return s.servers
	}
	listening := slices.DeleteFunc(slices.Clone(s.servers), func(server *site) bool {
		return !slices.ContainsFunc(server.ports, func(a caddy.NetworkAddress) bool {
			return uint(number) >= a.StartPort && uint(number) <= a.EndPort
		})
	})
	if len(listening) == 0 {
		return s.servers
	}
	return listening
}

// hostsOf are the host matchers in routes.
func hostsOf(blocks []block) (hosts []caddyhttp.MatchHost) {
	for _, block := range blocks {
		for _, set := range block.matchers {
			if set.hosts != nil {
				hosts = append(hosts, set.hosts)
			}
		}
		for _, step := range block.steps {
			hosts = append(hosts, hostsOf(step.inner)...)
		}
	}
	return hosts
}

// hasGate says whether the routes have a gate for requests of a host.
func hasGate(blocks []block, host string) bool {
	return slices.ContainsFunc(blocks, func(b block) bool {
		return b.isFor(host) && slices.ContainsFunc(b.steps, func(s step) bool { return s.gate != nil || hasGate(s.inner, host) })
	})
}

// isFor says whether no matcher of a block excludes a host.
func (b *block) isFor(host string) bool {
	return len(b.matchers) == 0 || slices.ContainsFunc(b.matchers, func(set matcherSet) bool {
		lets, _ := (&matcherSet{hosts: set.hosts}).lets(asked{host: host})
		return lets
	})
}

// fate is what may become of a request: one or more of these.
type fate int

const (
	isGated fate = 1 << iota // a gate decides it
	ends                     // it is answered, and no gate has decided it
	goesOn                   // what follows decides
)

// visit is a request on its way.
type visit struct {
	asked
	arrived *url.URL
	now     url.URL
	route   string // that some gate has for it

	// target is a gate that it is to come to, and missed what keeps it from there.
	target *gate.Gate
	missed *obstacle
	ender  string // the handler that answered last
}

// through says what may become of it in routes.
func (v *visit) through(blocks []block) (all fate) {
	taken := map[string]*block{} // by group, of which the first that takes it is the only one
	for i := range blocks {
		block := &blocks[i]
		if by := taken[block.group]; by != nil {
			v.misses(obstacle{taken: true, kind: by.kind(), by: by.written}, block)
			continue
		}
		lets, certain := v.enters(block.matchers)
		if !lets {
			v.misses(obstacle{keptOut: true, own: block.has(v.target), kind: block.kind(), by: block.written}, block)
			continue
		}
		before, lost := v.now, v.lost
		then := v.follow(block.steps)
		if block.terminal && then&goesOn != 0 {
			then ^= goesOn | ends
		}
		all |= then &^ goesOn
		switch {
		case then&goesOn == 0 && certain:
			for later := i + 1; later < len(blocks); later++ {
				v.misses(block.answers(&blocks[later], v.ender), &blocks[later])
			}
			return all
		case then&goesOn == 0:
			v.now, v.lost = before, lost // it passes by, as it was
		case !certain:
			v.lost = v.lost || v.now.Path != before.Path // or passes by
			v.now = before
		case block.group != "":
			taken[block.group] = block
		}
	}
	return all | goesOn
}

// follow says what may become of it in the handlers of a block.
func (v *visit) follow(steps []step) (all fate) {
	for i, step := range steps {
		then := goesOn
		switch {
		case step.gate != nil:
			if route := routeOf(step.gate, v.method, &v.now, v.arrived); route != "" {
				v.route, then = route, isGated
			} else if v.lost {
				then = isGated | goesOn
			}
		case step.inner != nil:
			then = v.through(step.inner)
		case step.ends:
			v.ender, then = cmp.Or(directives[step.name], step.name), ends
		case step.strip != "":
			if prefix := step.strip; len(v.now.Path) >= len(prefix) && strings.EqualFold(v.now.Path[:len(prefix)], prefix) {
				v.now.RawPath = ""
				v.now.Path = "/" + strings.TrimPrefix(v.now.Path[len(prefix):], "/")
			}
		}
		v.lost = v.lost || step.rewrites
		all |= then &^ goesOn
		if then&goesOn == 0 {
			v.misses(obstacle{by: v.ender}, &block{steps: steps[i+1:]})
			return all
		}
	}
	return all | goesOn
}

// enters says whether a block's matchers can let it through, and whether that is
// certain.
func (v *visit) enters(matchers []matcherSet) (lets, certain bool) {
	v.path = v.now.Path
	return anyLets(matchers, v.asked)
}

// routeOf is the route that a gate has for a request, or nothing.
func routeOf(g *gate.Gate, method string, now, arrived *url.URL) string {
	r := &http.Request{Method: method, URL: now, Header: http.Header{}}
	index, gated := g.RouteOf(r.WithContext(context.WithValue(context.Background(), arrivedKey{}, arrived)))
	if !gated {
		return ""
	}
	return g.Routes()[index].Path
}
