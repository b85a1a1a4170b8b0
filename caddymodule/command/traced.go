package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/caddymodule/internal/status"
	"github.com/metricsgate/metricsgate/gate"
)

// exitInconclusive is the code for what could not be found out, so that a timer
// can tell it from a promise that is broken, which is 1.
const exitInconclusive = 3

// exit ends a command that has said all there is to say.
func exit(cmd *cobra.Command, code int) error {
	cmd.SilenceErrors = true
	if code == 1 { // with which Caddy ends for any error
		return errors.New("exiting with status 1")
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

// addressFlag is how commands name the Caddy that they ask.
func addressFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "address", "", "the admin API of the Caddy that runs the gate (default: Caddy's own, "+defaultAdmin()+")")
}

func defaultAdmin() string {
	address, _ := caddycmd.DetermineAdminAPIAddress("", nil, "", "")
	return address
}

// adminAPI is the address of a running Caddy's. Empty is Caddy's own default.
type adminAPI string

// address also takes what people write in its place: a URL, or a port alone.
func (a adminAPI) address() string {
	address := strings.TrimSuffix(strings.TrimPrefix(string(a), "http://"), "/")
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		address = net.JoinHostPort("localhost", address)
	}
	return cmp.Or(address, defaultAdmin())
}

// ask returns what is answered.
func (a adminAPI) ask(method, path string) ([]byte, error) {
	response, err := caddycmd.AdminAPIRequest(a.address(), method, path, nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return io.ReadAll(response.Body)
}

// tracer sends requests that the gates on their way write down.
type tracer struct {
	admin adminAPI // where traces are opened and read
	dial  string   // host and port to connect to, where not those of the request
}

// tracerFlags are how commands name the Caddy that they trace, and the way to it:
// among several edges, the names of a site lead to any of them.
func tracerFlags(cmd *cobra.Command, t *tracer) {
	addressFlag(cmd, (*string)(&t.admin))
	cmd.Flags().StringVar(&t.dial, "dial", "", "the host and port to connect to, such as 127.0.0.1:443, in place of the address's own: one edge among several")
}

// sendTimeout bounds a request that is traced, and how long an application may
// take for one whose reply is hidden.
const sendTimeout = 10 * time.Second

// send sends a request, and returns the status of its answer and what the gates
// wrote down. An error is one of the admin API or of the request itself.
func (t *tracer) send(ctx context.Context, r *http.Request) (status int, traces []gate.Trace, err error) {
	var opened caddymodule.OpenedTrace
	if err := t.ask(http.MethodPost, caddymodule.TracesPath, &opened); err != nil {
		return 0, nil, fmt.Errorf("opening a trace at the admin API %s: %w; name the one of the Caddy that runs the gate with --address (a 404 is a Caddy without Metrics Gate, or with an older one)", t.admin.address(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	r.Header.Set(gate.TraceHeader, opened.Nonce)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if t.dial != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, t.dial)
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r.WithContext(ctx))
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		err = fmt.Errorf("%w; where the site has tls internal, have this machine believe Caddy: caddy trust, as root, while Caddy runs; "+
			"or name in SSL_CERT_FILE a copy of its root certificate that this user may read, of pki/authorities/local/root.crt in Caddy's data", err)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		err = fmt.Errorf("%w; write http:// if the site has no TLS", err)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("the request did not get through: %w", err)
	}
	_ = response.Body.Close()
	traces, err = t.read(ctx, opened.Nonce)
	return response.StatusCode, traces, err
}

// read reads what was written down for a nonce. Where a reply is hidden it waits
// for the application's, since a further gate may be on the way there.
func (t *tracer) read(ctx context.Context, nonce string) (traces []gate.Trace, err error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		traces = nil
		if err := t.ask(http.MethodGet, caddymodule.TracesPath+"/"+nonce, &traces); err != nil {
			return nil, fmt.Errorf("reading the trace at the admin API %s: %w", t.admin.address(), err)
		}
		if !underWay(traces) {
			return traces, nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done(): // what there is by now says enough
			return traces, nil
		}
	}
}

func underWay(traces []gate.Trace) bool {
	for _, trace := range traces {
		if trace.Reply == gate.TraceHidden && trace.Upstream == "" {
			return true
		}
	}
	return false
}

func (t *tracer) ask(method, path string, answer any) error {
	text, err := t.admin.ask(method, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// strayed is what is known of a request that no gate has decided: that it went to where
// none stands, which is a mistake of whoever sent it, or what keeps requests from the
// gates. Of the latter, what keeps requests like this one is all of it, where that is
// known.
type strayed struct {
	Mistake *status.Problem  `json:"mistake,omitempty"`
	Wrong   []status.Problem `json:"wrong,omitempty"`
	certain bool
}

// known is what a running Caddy knows of itself. Where it cannot be asked, that is
// nothing.
func (a adminAPI) known() *status.Status {
	s, _, err := a.status()
	if err != nil {
		return new(status.Status)
	}
	return s
}

// strayed says why a request that no gate has decided did not come to any, of which some
// may have seen it.
func (t *tracer) strayed(s *status.Status, r *http.Request, seen []gate.Trace) (known strayed) {
	host, port := (&url.URL{Host: cmp.Or(r.Host, r.URL.Host)}).Hostname(), t.port(r)
	if len(seen) == 0 {
		if elsewhere := t.elsewhere(s, r, host, port); elsewhere != nil {
			return *elsewhere
		}
	}
	var like []status.Problem
	for _, problem := range s.Wrong {
		if len(problem.Requests) == 0 || !isFor(problem.Hosts, problem.Ports, host, port) {
			continue
		}
		known.Wrong = append(known.Wrong, problem)
		if slices.ContainsFunc(problem.Requests, func(request string) bool {
			method, path, _ := strings.Cut(request, " ")
			route := gate.Route{Methods: []string{method}, Path: path}
			return route.Takes(r.Method, r.URL.Path)
		}) {
			like = append(like, problem)
		}
	}
	if len(like) > 0 {
		known.Wrong, known.certain = like, true
	}
	return known
}

// port is the one that a request goes to.
func (t *tracer) port(r *http.Request) string {
	if _, port, err := net.SplitHostPort(t.dial); err == nil {
		return port
	}
	return cmp.Or(r.URL.Port(), map[string]string{"https": "443"}[r.URL.Scheme], "80")
}

// isFor says whether hosts and ports, of which none are all, have one of each.
func isFor(hosts, ports []string, host, port string) bool {
	return (len(hosts) == 0 || caddymodule.TakesHost(hosts, host)) && (len(ports) == 0 || slices.Contains(ports, port))
}

// elsewhere is that a request went to where no gate stands, if that is so. What is wrong
// with the gates is told beside it only where they are at that port: at another, another
// Caddy may answer.
func (t *tracer) elsewhere(s *status.Status, r *http.Request, host, port string) *strayed {
	var hosts, ports []string
	for i := range s.Gates {
		g := &s.Gates[i]
		if isFor(g.Hosts, g.Ports, host, port) {
			return nil
		}
		if ports = append(ports, g.Ports...); isFor(nil, g.Ports, host, port) {
			hosts = append(hosts, g.Hosts...)
		}
	}
	caddy, into, orDial, withDial := "the Caddy with the admin API "+t.admin.address(), "--dial", "", ""
	if t.dial == "" {
		into = "the address"
		orDial = "; if what answers is only in front of this Caddy, --dial leads past it"
		withDial = ", with --dial " + net.JoinHostPort(r.URL.Hostname(), port) + " if that leads elsewhere"
	}
	switch {
	case len(s.Gates) == 0:
		return nil
	case !isFor(nil, s.Ports, host, port):
		return &strayed{Mistake: &status.Problem{
			Where:  "port " + port,
			What:   caddy + " does not listen on it (but on " + listed(s.Ports) + "): another Caddy answers there",
			Advice: "name its admin API with --address" + orDial,
		}}
	case len(hosts) == 0:
		return &strayed{Mistake: &status.Problem{
			Where:  "port " + port,
			What:   "no site there has a gate; the gates of " + caddy + " stand at port " + listed(ports),
			Advice: "write that port into " + into + ", or metrics_gate into the site that is there",
		}}
	default:
		return &strayed{Wrong: s.Wrong, Mistake: &status.Problem{
			Where:  "host " + host,
			What:   "no site of it has a gate; the gates of this Caddy stand in the sites: " + listed(hosts),
			Advice: "write one of these into the address in its place" + withDial + "; if another Caddy has the host, name its admin API with --address",
		}}
	}
}

// listed is a list in order, each once.
func listed(words []string) string {
	words = slices.Clone(words)
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// print says what is wrong, and apart from that what is a mistake.
func (s *strayed) print(w io.Writer) {
	if s.Mistake != nil {
		_, _ = fmt.Fprintf(w, "YOUR ADDRESS  %s: %s\n       %s\n", s.Mistake.Where, s.Mistake.What, s.Mistake.Advice)
	}
	printWrong(w, s.Wrong, time.Now())
}

// gatedRoutes are the routes of the gates of a label.
func gatedRoutes(s *status.Status, label string) string {
	var routes []string
	for i := range s.Gates {
		if s.Gates[i].Label == label {
			for _, route := range s.Gates[i].Routes {
				routes = append(routes, strings.Join(route.Methods, ",")+" "+route.Path)
			}
		}
	}
	return listed(routes)
}

// isDecided says whether any gate has decided the request.
func isDecided(traces []gate.Trace) bool {
	return slices.ContainsFunc(traces, func(trace gate.Trace) bool { return trace.Decision != "" })
}

// printGuesses says what to look for where no gate has seen a request and nothing is
// known for certain.
func (s *strayed) printGuesses(w io.Writer) {
	switch {
	case s.certain || s.Mistake != nil:
		return
	case len(s.Wrong) > 0:
		_, _ = fmt.Fprint(w, "If that is not it, look")
	default:
		_, _ = fmt.Fprint(w, "Look")
	}
	_, _ = fmt.Fprint(w, ` for
  - a proxy that stands in front of the gate: in a route, directives run as they are written
  - a more specific handle that has no gate inside
  - another site block that this host belongs to, or the matcher of metrics_gate
  - another Caddy that answers at this address, or a cache in front: name its admin API with --address
  - a proxy in front of Caddy that removes the header `+gate.TraceHeader+`
metrics_gate_tripwire at the top of the site finds such requests, and says where to write the gate.
`)
}

// textOrFile is a flag's value, or with @ the content of the file that it names,
// since everybody on the machine can read a list of processes.
func textOrFile(value string) ([]byte, error) {
	if name, isFile := strings.CutPrefix(value, "@"); isFile {
		return os.ReadFile(name)
	}
	return []byte(value), nil
}

// contentTypeOf is what a body looks like.
func contentTypeOf(body []byte) string {
	switch {
	case json.Valid(body):
		return "application/json"
	case looksLikeForm(body):
		return "application/x-www-form-urlencoded"
	default:
		return http.DetectContentType(body)
	}
}

func looksLikeForm(body []byte) bool {
	_, err := url.ParseQuery(string(body))
	return err == nil && bytes.ContainsRune(body, '=') && !bytes.ContainsAny(body, " \t\n{<")
}
