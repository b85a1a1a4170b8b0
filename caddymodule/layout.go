package caddymodule

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
)

// layout is what a configuration looks like from outside its gates, as the status has
// it.
type layout struct {
	unreachable []Unreachable
	ports       []string            // that its servers listen on, where all can be told
	gated       map[string]standing // by the gates' label
	profiles    []string            // the addresses of its profile servers, where they can be told
}

// findLayout reads a configuration that is being provisioned, and says what cannot
// come to its gates.
func findLayout(ctx caddy.Context) *layout {
	modules := ctx.Modules()
	if len(modules) == 0 {
		return new(layout)
	}
	app, ok := modules[0].(*caddyhttp.App)
	if !ok {
		return new(layout)
	}
	sites, err := sitesOf(app)
	if err != nil {
		return new(layout) // what cannot be read is refused where it stands
	}
	all := sites.Unreachable()
	logger := ctx.Logger()
	for _, u := range all {
		logger.Warn("requests of this gate's routes cannot come to it, so it decides none of them",
			zap.String("gate", u.Gate), zap.Strings("site", u.Hosts), zap.Strings("requests", u.Requests),
			zap.String("why", u.Why), zap.String("advice", measured+u.Advice))
	}
	return &layout{all, sites.ports(), sites.gated(), sites.profileServers()}
}

// explains says whether it is known already that no request of these routes can come
// to the gates of a label.
func (l *layout) explains(label string, routes []gate.Route) bool {
	for _, route := range routes {
		for _, method := range route.Methods {
			if !slices.ContainsFunc(l.unreachable, func(u Unreachable) bool {
				return u.Gate == label && slices.Contains(u.Requests, method+" "+route.Path)
			}) {
				return false
			}
		}
	}
	return true
}

// Report adds to a status the ports, and what cannot come to gates.
func (l *layout) Report(_ context.Context, s *status.Status) {
	s.Ports = l.ports
	for _, u := range l.unreachable {
		requests := strings.Join(u.Requests, ", ")
		if len(u.Hosts) > 0 {
			requests += " of " + strings.Join(u.Hosts, ", ")
		}
		s.Wrong = append(s.Wrong, status.Problem{
			Where:  "gate " + u.Gate,
			What:   "requests of this gate's routes cannot come to it, so it decides none of them (" + requests + "): " + u.Why,
			Advice: measured + u.Advice, Requests: u.Requests, Hosts: u.Hosts, Ports: u.Ports,
		})
	}
}

// eachStep goes through all handlers, with the hosts of the sites that each stands in;
// an empty one is any.
func eachStep(blocks []block, around []string, visit func(step step, hosts []string)) {
	for i := range blocks {
		within := blocks[i].hosts()
		if len(within) == 0 {
			within = around
		}
		for _, step := range blocks[i].steps {
			visit(step, within)
			eachStep(step.inner, within, visit)
		}
	}
}

// standing is where the gates of a label stand: the hosts of their sites, and the ports
// that these listen on. None are all.
type standing struct{ hosts, ports []string }

// gated says where gates stand, by their label.
func (s *Sites) gated() map[string]standing {
	all := map[string]standing{}
	for _, server := range s.servers {
		eachStep(server.blocks, []string{""}, func(step step, hosts []string) {
			if step.gate != nil {
				at := all[step.label]
				all[step.label] = standing{append(at.hosts, hosts...), append(at.ports, orAny(server.numbers())...)}
			}
		})
	}
	for label, at := range all {
		all[label] = standing{named(at.hosts), named(at.ports)}
	}
	return all
}

// ports are those that all servers listen on; none are all.
func (s *Sites) ports() (ports []string) {
	for _, server := range s.servers {
		ports = append(ports, orAny(server.numbers())...)
	}
	return named(ports)
}

// numbers are the ports that a server listens on, and none where they cannot be told,
// as of one out of a placeholder that is not resolved yet.
func (s *site) numbers() []string {
	ports := make([]string, len(s.ports))
	for i, address := range s.ports {
		if s.elsewhere || address.StartPort == 0 || address.EndPort != address.StartPort {
			return nil
		}
		ports[i] = strconv.FormatUint(uint64(address.StartPort), 10)
	}
	return ports
}

// orAny has an empty text stand for all, where a list names none.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

// named is a list in order, each once, and nothing where an empty text stands for all.
func named(list []string) []string {
	slices.Sort(list)
	if list = slices.Compact(list); len(list) > 0 && list[0] == "" {
		return nil
	}
	return list
}

// profileServers are the addresses of the configuration's own profile servers, where
// they can be told.
func (s *Sites) profileServers() (addresses []string) {
	for _, server := range s.servers {
		eachStep(server.blocks, []string{""}, func(step step, hosts []string) {
			if step.name != "profile_server" {
				return
			}
			if address := server.address(hosts[0]); address != "" && !slices.Contains(addresses, address) {
				addresses = append(addresses, address)
			}
		})
	}
	slices.Sort(addresses)
	return addresses
}

// address is where a host's profile server is asked, or nothing where that cannot be
// told.
func (s *site) address(host string) string {
	if len(s.ports) == 0 || s.ports[0].IsUnixNetwork() || strings.Contains(host, "*") || s.tls && host == "" {
		return ""
	}
	url := url.URL{Scheme: "http", Host: cmp.Or(host, s.ports[0].Host, "localhost"), Path: "/v1"}
	port, usual := s.ports[0].StartPort, uint(80)
	if s.tls {
		url.Scheme, usual = "https", 443
	}
	if port != usual {
		url.Host = net.JoinHostPort(url.Host, strconv.FormatUint(uint64(port), 10))
	}
	return url.String()
}

// Interface guards
var _ status.Reporter = (*layout)(nil)
