package tests

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// traces is an OTLP receiver, with all that it was sent.
type traces struct {
	*httptest.Server
	raw testcaddy.Ledger[string]
}

func newTraces(t *testing.T) *traces {
	received := &traces{}
	received.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, "only traces are taken here", http.StatusNotFound)
			return
		}
		received.raw.Add(string(body))
	}))
	t.Cleanup(received.Close)
	return received
}

// environment has Caddy's tracing export to the receiver.
func (s *traces) environment() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + s.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}
}

// spans are those that Caddy has exported, each as its name and its attributes.
func (s *traces) spans(t *testing.T) (all []map[string]string) {
	t.Helper()
	for _, raw := range s.raw.All() {
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal([]byte(raw), &request); err != nil {
			t.Fatal(err)
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					all = append(all, described(span))
				}
			}
		}
	}
	return all
}

func described(span *trace.Span) map[string]string {
	all := map[string]string{"name": span.Name}
	for _, attribute := range span.Attributes {
		value := attribute.Value.GetStringValue()
		if value == "" && attribute.Value.GetIntValue() != 0 {
			value = fmt.Sprint(attribute.Value.GetIntValue())
		}
		all[attribute.Key] = value
	}
	return all
}

// tracing is the most talkative that an operator could ask for.
const tracing = `tracing {
	span "{http.request.method} {http.request.uri}"
	span_attributes {
		my.address {http.request.remote.host}
		my.agent {http.request.header.User-Agent}
		my.cookie {http.request.header.Cookie}
		my.uri {http.request.uri}
	}
}`

// visitor is somebody with an address, a browser and a proxy of their own.
type visitor struct {
	*http.Client
	marks map[string]string // by what they are
}

// newVisitor has an address of loopback that nobody else has.
func newVisitor(t *testing.T, address string, marks map[string]string) *visitor {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 10 * time.Second}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	all := map[string]string{
		"address": address, "forwarded address": "198.51.100.77", "real address": "203.0.113.99", "agent": "N33dle/1.0",
		"query": "qu3ry-needle", "path": "p4th-needle", "payload": "p4yload-needle",
	}
	maps.Copy(all, marks)
	return &visitor{&http.Client{Transport: transport, Timeout: 2 * testcaddy.Patience}, all}
}

// sends sends a request, and returns the answer with its body still to be read.
func (v *visitor) sends(t *testing.T, addr, request, body string, headers ...string) *http.Response {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	r, err := http.NewRequest(method, "http://"+addr+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"User-Agent": {v.marks["agent"]}, "X-Forwarded-For": {v.marks["forwarded address"]}, "X-Real-Ip": {v.marks["real address"]}}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	response, err := v.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// asks is sends, and reads the answer.
func (v *visitor) asks(t *testing.T, addr, request, body string, headers ...string) {
	t.Helper()
	response := v.sends(t, addr, request, body, headers...)
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// unknownTo looks for the visitor's marks in what others have kept.
func (v *visitor) unknownTo(t *testing.T, place, kept string) {
	t.Helper()
	for what, mark := range v.marks {
		if i := strings.Index(kept, mark); i >= 0 {
			t.Errorf("%s has the %s: …%q…", place, what, kept[max(0, i-300):min(len(kept), i+100)])
		}
	}
}

// What others keep of a blocked request, and of those for the gate's own
// addresses, does not say whose it was: not the traces, however much an operator
// asks of them, and not the logs at their most talkative. What is collected they
// keep as ever.
func TestObserversOfBlockedRequests(t *testing.T) {
	t.Parallel()
	behind, profile, received := newContentServer(t), newProfile(t), newTraces(t)
	addr := testcaddy.FreeAddr(t)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	caddy := testcaddy.StartIn(t, received.environment(), "debug", testcaddy.Site(addr, "log {\noutput file "+accessLog+"\n}", tracing,
		testcaddy.Gate("preset fxa", "route POST /ingest/*", "handshake", "signal {\ngpc\n}", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())))

	out := profile.account(optOut)
	good, old := testcaddy.Session(out), testcaddy.Session(out, testcaddy.Expired)
	somebody := newVisitor(t, "127.8.7.6", map[string]string{"uid": out, "token": good, "old token": old, "junk": "j4nk-needle"})
	cookie, payload := testcaddy.Cookie(good), `{"p4yload-needle":1,"uid":"`+out+`"}`
	var want []string
	for _, c := range []struct{ request, body, header, route string }{
		{"POST /metrics?qu3ry-needle", payload, cookie, "/metrics"},
		{"POST /metrics", payload, "X-Nothing: x", "/metrics"},
		{"POST /metrics", "{}", testcaddy.Cookie(old), "/metrics"},
		{"POST /metrics", "{}", testcaddy.Cookie("j4nk-needle"), "/metrics"},
		{"POST /metrics", "{}", "Sec-Gpc: 1", "/metrics"},
		{"POST /ingest/p4th-needle/" + out, payload, cookie, "/ingest/*"},
		{"GET /metrics-errors?sentry_data=qu3ry-needle", "", cookie, "/metrics-errors"},
		{"GET /experiments.bundle.js", "", cookie, "/experiments.bundle.js"},
		{"GET /.well-known/metrics-gate/status", "", cookie, "/.well-known/metrics-gate/status"},
		{"GET /.well-known/metrics-gate/preference?qu3ry-needle", "", cookie, "/.well-known/metrics-gate/preference"},
		{"POST /.well-known/metrics-gate/signal", `{"p4yload-needle":1}`, cookie, "/.well-known/metrics-gate/signal"},
	} {
		somebody.asks(t, addr, c.request, c.body, c.header)
		want = append(want, c.route)
	}
	if got := behind.log.All(); len(got) > 0 {
		t.Fatalf("%d requests of theirs reached the application", len(got))
	}
	allowed := newVisitor(t, "127.0.0.1", map[string]string{"agent": "Allowed/1.0", "forwarded address": "192.0.2.55", "real address": "192.0.2.55"})
	allowed.asks(t, addr, "POST /metrics?allowed", "{}", testcaddy.Cookie(testcaddy.Session(profile.account(allow))))
	testcaddy.Settle(addr, time.Now())
	caddy.Stop() // which exports what is left

	somebody.unknownTo(t, "the traces", strings.Join(received.raw.All(), "\n"))
	somebody.unknownTo(t, "Caddy's log", strings.Join(caddy.Log.All(), "\n"))
	access := string(testcaddy.Must(os.ReadFile(accessLog)))
	if somebody.unknownTo(t, "the access log", access); !strings.Contains(access, "/metrics?allowed") {
		t.Errorf("the access log lacks what was collected:\n%s", access)
	}

	var routes []string
	for _, span := range received.spans(t) {
		if span["name"] == "POST /metrics?allowed" {
			if span["user_agent.original"] != "Allowed/1.0" || span["client.address"] != "192.0.2.55" || span["url.path"] != "/metrics" || span["my.uri"] != "/metrics?allowed" ||
				span["metrics_gate.route"] != "/metrics" || span["metrics_gate.decision"] != "collect" || span["metrics_gate.reason"] != "explicit_allow" {
				t.Errorf("the collected request is traced as %q", span)
			}
			continue
		}
		routes = append(routes, span["name"])
		if span["url.path"] != span["name"] || span["http.route"] != span["name"] ||
			span["http.request.method"] == "" || span["http.response.body.size"] != "" {
			t.Errorf("a blocked request is traced as %q", span)
		}
		own := strings.HasPrefix(span["name"], "/.well-known/")
		if decided := span["metrics_gate.route"] + span["metrics_gate.decision"] + span["metrics_gate.reason"]; own != (decided == "") ||
			!own && (span["metrics_gate.route"] != span["name"] || span["metrics_gate.decision"] != "block" || span["metrics_gate.reason"] == "") {
			t.Errorf("the decision is traced as %q", span)
		}
	}
	slices.Sort(routes)
	slices.Sort(want)
	if !slices.Equal(routes, want) {
		t.Errorf("there are spans of %q, want %q", routes, want)
	}
}

// What others keep of the profile server's requests names no account, and does
// not tell what anybody prefers.
func TestObserversOfTheProfileServer(t *testing.T) {
	t.Parallel()
	received, existing := newTraces(t), newExistingProfileServer(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.StartIn(t, received.environment(), "", testcaddy.Site(addr, tracing,
		profileServer("sqlite "+filepath.Join(t.TempDir(), "profile.db")), testcaddy.ProxyTo(existing.Listener.Addr().String())))
	uid := testcaddy.NewUID(t)
	reading, writing := testcaddy.RelierToken(addr, uid, "profile", testcaddy.TrustedRelier), testcaddy.RelierToken(addr, uid, "profile:write", testcaddy.TrustedRelier)
	somebody := newVisitor(t, "127.8.7.6", map[string]string{"uid": uid, "reading token": reading, "writing token": writing})
	var want []string
	for _, c := range []struct{ request, token, body, span string }{
		{"POST /v1/metrics_optout", writing, `{"metrics_optout":true}`, "/v1/metrics_optout 200"},
		{"GET /v1/metrics_optout?qu3ry-needle", reading, "", "/v1/metrics_optout 200"},
		{"GET /v1/metrics_optout/" + uid, reading, "", " 404"},
		{"GET /v1/metrics_optout/daily", reading, "", "/v1/metrics_optout/daily 403"},
		{"DELETE /v1/account/" + uid, operatorToken(addr), "", "/v1/account/{uid} 200"},
		{"GET /v1/account/" + uid, reading, "", "/v1/account/{uid} 418"}, // by the server behind
	} {
		somebody.asks(t, addr, c.request, c.body, "Authorization: Bearer "+c.token, "Content-Type: application/json")
		want = append(want, c.span)
	}
	caddy.Stop()
	somebody.unknownTo(t, "the traces", strings.Join(received.raw.All(), "\n"))
	somebody.unknownTo(t, "Caddy's log", strings.Join(caddy.Log.All(), "\n"))
	var got []string
	for _, span := range received.spans(t) {
		got = append(got, span["name"]+" "+span["http.response.status_code"])
		if span["http.response.body.size"] != "" {
			t.Errorf("the size of an answer is traced: %q", span)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are spans of %q, want %q", got, want)
	}
}

// Caddy warns of everybody who leaves a page while it loads, in a line that has
// the request as the application got it. The example's filter leaves nothing in
// there of who that was and what was decided.
func TestVisitorWhoLeaves(t *testing.T) {
	t.Parallel()
	// A page that never ends.
	left := make(chan struct{})
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><head></head>"+strings.Repeat("<p>text</p>", 1000))
		_ = http.NewResponseController(w).Flush()
		if r.Header.Get("Metrics-Gate-Decision") != "block" {
			t.Error("the page is not decided as it should be")
		}
		<-r.Context().Done()
		close(left)
	}))
	t.Cleanup(behind.Close)
	profile := newProfile(t)
	addr := testcaddy.FreeAddr(t)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	example := string(testcaddy.Must(os.ReadFile("../Caddyfile.example")))
	_, filter, _ := strings.Cut(example, "(without_people) {")
	filter, _, found := strings.Cut(filter, "\n}\n")
	if !found {
		t.Fatal("the example has no filter any more")
	}
	caddy := testcaddy.StartWith(t, "log {\n"+filter+"\n}", testcaddy.Site(addr, "log {\noutput file "+accessLog+"\n"+filter+"\n}",
		testcaddy.Gate("preset fxa", "signal {\ngpc\n}", testcaddy.SessionJWT(), profile.block(patient)),
		testcaddy.ProxyTo(behind.Listener.Addr().String()+" {\nheader_up X-Real-Ip {header.X-Real-Ip}\n}")))

	out := profile.account(optOut)
	session := testcaddy.Session(out)
	somebody := newVisitor(t, "127.8.7.6", map[string]string{"uid": out, "token": session, "decision": "Metrics-Gate-Decision"})
	response := somebody.sends(t, addr, "GET /page?qu3ry-needle", "", "Accept: text/html", "Sec-Gpc: 1", testcaddy.Cookie(session))
	if _, err := io.ReadFull(response.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	testcaddy.Await(t, "the application to see them leave", left)
	caddy.Logged("aborting with incomplete response")
	caddy.Stop()

	delete(somebody.marks, "agent") // which the example keeps, as it does the network
	somebody.unknownTo(t, "Caddy's log", strings.Join(caddy.Log.All(), "\n"))
	somebody.unknownTo(t, "the access log", string(testcaddy.Must(os.ReadFile(accessLog))))
}

// What shadow mode would have blocked passes with its address in its span, so
// that the span does not say that somebody opted out.
func TestObserversInShadow(t *testing.T) {
	t.Parallel()
	behind, profile, received := newContentServer(t), newProfile(t), newTraces(t)
	addr := testcaddy.FreeAddr(t)
	caddy := testcaddy.StartIn(t, received.environment(), "", testcaddy.Site(addr, tracing,
		"metrics_gate shadow {\npreset fxa\n"+testcaddy.SessionJWT()+"\n"+profile.block(patient)+"\n}", testcaddy.ProxyTo(behind.addr())))
	for uid, decision := range map[string]string{profile.account(optOut): "", profile.account(allow): "collect"} {
		path := "/metrics?would=" + decision
		if a := send(t, behind, addr, "POST "+path, "{}", testcaddy.Cookie(testcaddy.Session(uid))); !a.collected() {
			t.Fatal("it did not pass")
		}
	}
	caddy.Stop()
	for _, span := range received.spans(t) {
		want := strings.TrimPrefix(span["my.uri"], "/metrics?would=")
		if span["client.address"] == "" || span["metrics_gate.decision"] != want || (span["metrics_gate.reason"] == "") != (want == "") {
			t.Errorf("it is traced as %q", span)
		}
	}
	if n := len(received.spans(t)); n != 2 {
		t.Errorf("there are %d spans", n)
	}
}
