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
	hosts       map[string][]string // of the sites that gates stand in, by label; none are all
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
	return &layout{all, sites.gatedHosts(), sites.profileServers()}
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

// Report adds to a status what cannot come to gates.
func (l *layout) Report(_ context.Context, s *status.Status) {
	for _, u := range l.unreachable {
		requests := strings.Join(u.Requests, ", ")
		if len(u.Hosts) > 0 {
			requests += " of " + strings.Join(u.Hosts, ", ")
		}
		s.Wrong = append(s.Wrong, status.Problem{
			Where:  "gate " + u.Gate,
			What:   "requests of this gate's routes cannot come to it, so it decides none of them (" + requests + "): " + u.Why,
			Advice: measured + u.Advice, Requests: u.Requests, Hosts: u.Hosts,
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

// gatedHosts are the hosts of the sites in which gates stand, by the gates' label; none
// are all.
func (s *Sites) gatedHosts() map[string][]string {
	all := map[string][]string{}
	for _, server := range s.servers {
		eachStep(server.blocks, []string{""}, func(step step, hosts []string) {
			if step.gate != nil {
				all[step.label] = append(all[step.label], hosts...)
			}
		})
	}
	for label, hosts := range all {
		slices.Sort(hosts)
		if all[label] = slices.Compact(hosts); hosts[0] == "" {
			delete(all, label)
		}
	}
	return all
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
