package profileserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/metricsgate/metricsgate/internal/optoutapi"
	"github.com/metricsgate/metricsgate/token"
)

// node is a place in the document.
type node struct {
	document *document
	pointer  string // RFC 6901
	value    any
}

// document is docs/openapi.yaml, and what of it was seen to be true.
type document struct {
	root     any
	compiler *jsonschema.Compiler
	seen     map[string]bool // pointers
}

func readDocument(t *testing.T) *document {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	if d.root, err = jsonschema.UnmarshalJSON(strings.NewReader(string(text))); err != nil {
		t.Fatal(err)
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020) // as OpenAPI 3.1 has it
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at returns the place that the pointer names.
func (d *document) at(pointer string) node {
	n := node{d, "", d.root}
	for _, part := range strings.Split(pointer, "/")[1:] {
		n = n.child(strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
	}
	return n
}

// child returns what is there under this key, or what that refers to. Its
// value is nil where there is nothing.
func (n node) child(key string) node {
	object, _ := n.value.(map[string]any)
	child := node{n.document, n.pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key), object[key]}
	reference, _ := child.value.(map[string]any)
	if to, ok := reference["$ref"].(string); ok && key != "schema" {
		return n.document.at(strings.TrimPrefix(to, "#"))
	}
	return child
}

// children returns all there are, in the order of their keys.
func (n node) children() (keys []string, children []node) {
	object, _ := n.value.(map[string]any)
	keys = slices.Sorted(maps.Keys(object))
	for _, key := range keys {
		children = append(children, n.child(key))
	}
	return keys, children
}

// validate holds a value against the schema of this place.
func (n node) validate(value any) error {
	var escaped []string
	for part := range strings.SplitSeq(n.pointer+"/schema", "/") {
		escaped = append(escaped, url.PathEscape(part))
	}
	schema, err := n.document.compiler.Compile("openapi.json#" + strings.Join(escaped, "/"))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// examples returns those of a media type.
func (n node) examples() []node {
	if example := n.child("example"); example.value != nil {
		return []node{example}
	}
	var all []node
	_, named := n.child("examples").children()
	for _, example := range named {
		all = append(all, example.child("value"))
	}
	return all
}

// operation returns what the document says of a request, which is 404 where it
// says nothing.
func (d *document) operation(method, path string) node {
	if strings.HasPrefix(path, accountPath) {
		path = accountPath + "{uid}"
	}
	operation := d.at("/paths").child(path).child(strings.ToLower(method))
	if operation.value == nil {
		return node{d, "", map[string]any{"responses": map[string]any{"404": map[string]any{"$ref": "#/components/responses/NotFound"}}}}
	}
	return operation
}

// check holds the answer to a request against what the document says of it.
func (d *document) check(method, path string, body string, answer response) error {
	operation := d.operation(method, path)
	status := fmt.Sprint(answer.Status)
	d.seen[operation.pointer+"/responses/"+status] = true
	said := operation.child("responses").child(status)
	if said.value == nil {
		return fmt.Errorf("the document does not know status %s", status)
	}
	if err := checkHeaders(answer.Header, d.at("/x-headers-of-all-answers"), said.child("headers")); err != nil {
		return err
	}
	if form := operation.child("requestBody").child("content").child("application/json"); form.value != nil && (answer.Status == 200 || answer.Status == 400) {
		if value, err := jsonschema.UnmarshalJSON(strings.NewReader(body)); err == nil {
			if err := form.validate(value); (err == nil) != (answer.Status == 200) {
				return fmt.Errorf("the body is answered %s, and to the document it is: %w", status, err)
			}
		}
	}
	content := said.child("content")
	if content.value == nil || method == "HEAD" {
		if answer.Body != "" {
			return fmt.Errorf("the document does not know the body %q", answer.Body)
		}
		return nil
	}
	return checkContent(content, answer)
}

func checkHeaders(got http.Header, documented ...node) error {
	known := map[string]bool{"Date": true, "Content-Length": true, "Content-Type": true}
	for _, headers := range documented {
		names, each := headers.children()
		for i, header := range each {
			name := http.CanonicalHeaderKey(names[i])
			known[name] = true
			for _, value := range got[name] {
				if err := header.validate(value); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			if header.child("required").value == true && len(got[name]) == 0 {
				return fmt.Errorf("%s is missing", name)
			}
		}
	}
	for name, values := range got {
		if !known[name] {
			return fmt.Errorf("the document does not know %s: %q", name, values)
		}
	}
	return nil
}

func checkContent(content node, answer response) error {
	media, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	said := content.child(media)
	if said.value == nil {
		return fmt.Errorf("the document does not know the type %s", media)
	}
	content.document.seen[said.pointer] = true
	var value any = answer.Body
	if media == "application/json" {
		if value, err = jsonschema.UnmarshalJSON(strings.NewReader(answer.Body)); err != nil {
			return err
		}
	}
	if err := said.validate(value); err != nil {
		return err
	}
	if answer.Status < 400 {
		return nil
	}
	for _, example := range said.examples() {
		if reflect.DeepEqual(value, example.value) {
			content.document.seen[example.pointer] = true
			return nil
		}
	}
	return fmt.Errorf("the document does not know the refusal %s", answer.Body)
}

// exchange is send, which also reads the beginning of what has no end.
func (i instance) exchange(t *testing.T, q request) response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.method, i.URL+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	for _, line := range q.header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	answer.Header.Del("Connection") // which is the transport's wish
	var body []byte
	if answer.Header.Get("Content-Type") == "text/event-stream" && q.method == "GET" {
		var line string
		for reader := bufio.NewReader(answer.Body); line != "\n" && err == nil; body = append(body, line...) {
			line, err = reader.ReadString('\n')
		}
	} else {
		body, err = io.ReadAll(answer.Body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return response{answer.StatusCode, string(body), answer.Header}
}

// TestOpenAPI holds the running server against docs/openapi.yaml, request by
// request: it must know every answer, and every status, media type and refusal
// that it lists must have been seen.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	const page = "https://app.example.org"
	away := verifier(t, token.Config{
		JWKSURL: "https://id.example.org/jwks", ExpiryOptional: true,
		KeySetClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("unreachable")
		})},
	})
	cors := func(c *Config) { c.Origins = []string{page} }
	alone := start(t, database(t), standalone, operators, takesEvents(t), cors)
	inTheOldManner := start(t, database(t), func(c *Config) { c.NoContentWhenUnset = true })
	withoutStore := start(t, database(t), standalone, operators, takesEvents(t), failing)
	withoutKeys := start(t, database(t), standalone, func(c *Config) { c.Tokens, c.Events = []Verifier{away}, away })

	// The client of this token may do all there is to do.
	all := mint(t, "operator", identity, "profile:write "+optoutapi.ChangesScope, "")
	other := mint(t, "evil", identity, "profile:write", "")
	little := mint(t, "operator", identity, "profile:email", "")
	unread := signEvent(t, "ES256", jwt.MapClaims{"sub": identity, "client_id": "operator", "exp": time.Now().Add(time.Hour).Unix()})
	event := signEvent(t, "RS256", eventClaims("1", map[string]any{eventURI("metrics-opt-out"): noPayload}, nil))
	with := func(lines ...string) []string { return lines }
	set := with("Content-Type: application/secevent+jwt")

	for _, test := range []struct {
		server instance
		status int
		request
	}{
		{alone, 200, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":null}`}},
		{alone, 200, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":false}`, header: with("If-Match: *")}},
		{alone, 200, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":true}`, header: with("Origin: " + page)}},
		{alone, 400, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":"true"}`}},
		{alone, 400, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":true,"x":1}`}},
		{alone, 400, request{method: "POST", path: optOutPath, token: all, body: `{}`}},
		{alone, 400, request{method: "POST", path: optOutPath, token: all, body: `{`}},
		{alone, 400, request{method: "POST", path: optOutPath, token: all, header: with("Content-Type: ;")}},
		{alone, 412, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":true}`, header: with("If-None-Match: *")}},
		{alone, 413, request{method: "POST", path: optOutPath, token: all, body: strings.Repeat(" ", maxBody+1)}},
		{alone, 415, request{method: "POST", path: optOutPath, token: all, header: with("Content-Type: application/xml")}},
		{withoutStore, 503, request{method: "POST", path: optOutPath, token: all, body: `{"metrics_optout":true}`}},
		{withoutKeys, 503, request{method: "POST", path: optOutPath, token: unread}},
		{alone, 404, request{method: "PUT", path: optOutPath, token: all}},
		{alone, 404, request{method: "OPTIONS", path: optOutPath, token: all}},
		{alone, 404, request{method: "GET", path: "/nothing", token: all}},

		{alone, 400, request{method: "GET", path: dailyPath + "?from=x", token: all}},
		{alone, 400, request{method: "GET", path: dailyPath + "?to=x", token: all}},
		{alone, 400, request{method: "GET", path: dailyPath + "?from=2026-01-02&to=2026-01-01", token: all}},
		{alone, 400, request{method: "HEAD", path: dailyPath + "?to=x", token: all}},
		{alone, 200, request{method: "GET", path: dailyPath, token: all, header: with("Accept: text/csv", "Origin: "+page)}},

		{alone, 400, request{method: "GET", path: changesPath, token: all, header: with("Last-Event-ID: x")}},
		{alone, 400, request{method: "HEAD", path: changesPath, token: all, header: with("Last-Event-ID: -1")}},

		{alone, 200, request{method: "DELETE", path: accountPath + "x", token: all}},
		{alone, 400, request{method: "DELETE", path: accountPath + "%00", token: all}},
		{alone, 404, request{method: "DELETE", path: accountPath + "x/y", token: all}},
		{withoutStore, 503, request{method: "DELETE", path: accountPath + "x", token: all}},
		{alone, 404, request{method: "GET", path: accountPath + "x", token: all}},

		{alone, 200, request{method: "POST", path: eventsPath, token: event}},
		{alone, 202, request{method: "POST", path: eventsPath, header: set, body: event}},
		{alone, 400, request{method: "POST", path: eventsPath}},
		{alone, 400, request{method: "POST", path: eventsPath, header: set, body: unread}},
		{alone, 400, request{method: "POST", path: eventsPath, header: set, body: event[:len(event)-8] + "AAAAAAAA"}},
		{alone, 400, request{method: "POST", path: eventsPath, header: set, body: signEvent(t, "RS256", eventClaims("1", noPayload, jwt.MapClaims{"aud": "x"}))}},
		{alone, 400, request{method: "POST", path: eventsPath, header: set, body: signEvent(t, "RS256", eventClaims("1", noPayload, jwt.MapClaims{"iss": "x"}))}},
		{alone, 400, request{method: "POST", path: eventsPath, header: set, body: signAs(t, "another", "RS256", eventClaims("1", noPayload, nil))}},
		{withoutStore, 503, request{method: "POST", path: eventsPath, token: event}},
		{withoutKeys, 503, request{method: "POST", path: eventsPath, token: event}},
		{inTheOldManner, 404, request{method: "POST", path: eventsPath, token: event}},

		{inTheOldManner, 204, request{method: "GET", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")}},
		{inTheOldManner, 204, request{method: "HEAD", path: optOutPath, token: mint(t, "metrics-gate", identity, optoutapi.ReadScope, "")}},
	} {
		d.run(t, test.server, test.request, test.status)
	}

	// What is the same everywhere.
	paths, items := d.at("/paths").children()
	for i, path := range paths {
		path = strings.ReplaceAll(path, "{uid}", "x")
		methods, operations := items[i].children()
		for j, method := range methods {
			method, operation := strings.ToUpper(method), operations[j]
			responses := operation.child("responses")
			has := func(status string) bool { return responses.child(status).value != nil }
			if method == "OPTIONS" {
				asked := strings.ToUpper(methods[(j+1)%len(methods)])
				d.run(t, alone, request{method: method, path: path, header: with("Origin: "+page, requestedMethod+": "+asked)}, 200)
				d.run(t, alone, request{method: method, path: path, header: with("Origin: "+page, requestedMethod+": PATCH")}, 404)
				d.run(t, alone, request{method: method, path: path, header: with("Origin: https://evil.example.org", requestedMethod+": "+asked)}, 404)
				continue
			}
			if has("401") != d.takesTokens(t, alone, method, path, operation) {
				t.Errorf("%s %s: is there 401, or security?", method, path)
			}
			if has("401") {
				d.run(t, alone, request{method: method, path: path}, 401)
				d.run(t, alone, request{method: method, path: path, token: payload}, 401)
				d.run(t, alone, request{method: method, path: path, token: other}, 403)
				d.run(t, alone, request{method: method, path: path, token: little}, 403)
				d.run(t, withoutKeys, request{method: method, path: path, token: unread}, 503)
			}
			if method != "GET" && method != "HEAD" {
				continue
			}
			d.run(t, alone, request{method: method, path: path, token: all}, 200)
			if has("503") {
				d.run(t, withoutStore, request{method: method, path: path, token: all}, 503)
			}
			if has("304") {
				d.run(t, alone, request{method: method, path: path, token: all, header: with("If-None-Match: *")}, 304)
			}
			if has("412") {
				d.run(t, alone, request{method: method, path: path, token: all, header: with(`If-Match: "x"`)}, 412)
			}
		}
	}
	d.checkSeen(t)
}

func (d *document) run(t *testing.T, server instance, q request, status int) {
	t.Helper()
	path, _, _ := strings.Cut(q.path, "?")
	answer := server.exchange(t, q)
	if answer.Status != status {
		t.Errorf("%s %s %q %q: %d %s, want %d", q.method, q.path, q.header, q.body, answer.Status, answer.Body, status)
	}
	if err := d.check(q.method, path, q.body, answer); err != nil {
		t.Errorf("%s %s %q: %d: %v", q.method, q.path, q.body, answer.Status, err)
	}
}

// takesTokens reports whether the operation asks for a token, and checks that
// each scope that the document gives it is enough.
func (d *document) takesTokens(t *testing.T, server instance, method, path string, operation node) bool {
	t.Helper()
	alternatives, _ := operation.child("security").value.([]any)
	takes := false
	for _, alternative := range alternatives {
		scopes, ok := alternative.(map[string]any)["bearer"].([]any)
		for _, scope := range scopes {
			answer := server.exchange(t, request{method: method, path: path, token: mint(t, "operator", "op", scope.(string), "")})
			if answer.Status == 401 || answer.Status == 403 {
				t.Errorf("%s %s with scope %s: %d", method, path, scope, answer.Status)
			}
		}
		takes = takes || ok
	}
	return takes
}

// checkSeen walks what the document lists: each status, media type and refusal
// has been seen, each example is one, and each operation says what it is.
func (d *document) checkSeen(t *testing.T) {
	t.Helper()
	ids := map[any]bool{}
	_, items := d.at("/paths").children()
	for _, item := range items {
		methods, operations := item.children()
		for i, operation := range operations {
			id := operation.child("operationId").value
			if (id == nil) != (methods[i] == "options") || id != nil && ids[id] {
				t.Errorf("%s: operationId %v is missing or not its own", operation.pointer, id)
			}
			ids[id] = true
			for _, key := range []string{"summary", "tags"} {
				if operation.child(key).value == nil {
					t.Errorf("%s: no %s", operation.pointer, key)
				}
			}
			statuses, responses := operation.child("responses").children()
			for j, response := range responses {
				if at := operation.pointer + "/responses/" + statuses[j]; !d.seen[at] {
					t.Errorf("%s was not seen", at)
				}
				_, contents := response.child("content").children()
				for _, content := range contents {
					if !d.seen[content.pointer] {
						t.Errorf("%s was not seen", content.pointer)
					}
					for _, example := range content.examples() {
						if err := content.validate(example.value); err != nil {
							t.Errorf("%s is no example: %v", example.pointer, err)
						}
						if statuses[j] >= "400" && !d.seen[example.pointer] {
							t.Errorf("%s was not seen", example.pointer)
						}
					}
				}
			}
		}
	}
}
