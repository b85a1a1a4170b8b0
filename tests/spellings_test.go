package tests

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
	"github.com/metricsgate/metricsgate/tests/spellings"
)

var learnSpellings = flag.Bool("learn-spellings", false, "run all servers, not only those of every test run, and write spellings/table.txt anew")

// No real server's handler for a gated route runs for somebody who opted out,
// however the request is written. Every test run has Express and plain Node;
// make spellings has all of them, and learns what they take without a gate.
func TestRealServersBehindTheGate(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("spellings")
	if err != nil {
		t.Fatal(err)
	}
	servers := spellings.Servers
	if !*learnSpellings {
		servers = slices.DeleteFunc(slices.Clone(servers), func(server spellings.Server) bool {
			return !slices.Contains([]string{"express4", "express5", "node"}, server.Name)
		})
	}
	profile := newProfile(t)
	var (
		running = make([]*realServer, len(servers))
		sites   []string
	)
	for i, server := range servers {
		running[i] = startRealServer(t, folder, server)
		running[i].gate = testcaddy.FreeAddr(t)
		sites = append(sites, testcaddy.Site(running[i].gate, testcaddy.Gate(
			spellings.Caddyfile(), testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(running[i].addr)))
	}
	testcaddy.Start(t, sites...)
	out := testcaddy.Cookie(testcaddy.Session(profile.account(optOut)))
	in := testcaddy.Cookie(testcaddy.Session(profile.account(allow)))

	took := map[byte]map[spellings.Request]string{}
	titles := map[byte]string{}
	for _, server := range running {
		titles[server.Letter] = server.title
		holdsSpellings(t, server.Server, server.gate, in, out)
		if *learnSpellings {
			took[server.Letter] = askAll(t, server.addr)
		}
	}
	if *learnSpellings {
		table := spellings.Write(titles, func(server spellings.Server, request spellings.Request) string { return took[server.Letter][request] })
		if err := os.WriteFile(filepath.Join(folder, "table.txt"), []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A realServer is one that runs, and where the gate in front of it is.
type realServer struct {
	spellings.Server
	addr, title, gate string
}

// startRealServer starts one, which says on its first line where it is and what
// it calls itself.
func startRealServer(t *testing.T, folder string, server spellings.Server) *realServer {
	t.Helper()
	var cmd *exec.Cmd
	switch server.Name {
	case "flask":
		cmd = exec.Command("/usr/bin/python3", "servers/flask_server.py") // Debian's, which has Debian's Flask
	case "tomcat":
		cmd = exec.Command(testcaddy.Installed(t, "java"), "-cp", "/usr/share/java/tomcat10-embed-core.jar", "servers/Tomcat.java")
	default:
		if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
			t.Fatalf("%v; run tests/setup.sh, or make test, which does", err)
		}
		cmd = exec.Command(testcaddy.Installed(t, "node"), "servers/node.js", server.Name)
	}
	cmd.Dir = folder
	cmd.Stderr = os.Stderr
	if *learnSpellings {
		cmd.Stderr = nil // Flask and Tomcat tell of every request
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%s did not start: %v", server.Name, err)
	}
	addr, title, _ := strings.Cut(strings.TrimSpace(line), " ")
	return &realServer{Server: server, addr: addr, title: title}
}

// askAll sends the whole list and returns which route took what.
func askAll(t *testing.T, addr string, headers ...string) map[spellings.Request]string {
	t.Helper()
	var (
		requests = make(chan spellings.Request)
		took     = map[spellings.Request]string{}
		lock     sync.Mutex
		asking   sync.WaitGroup
	)
	for range 4 {
		asking.Go(func() {
			for request := range requests {
				if route := askReal(t, addr, request, headers...); route != "" {
					lock.Lock()
					took[request] = route
					lock.Unlock()
				}
			}
		})
	}
	for _, request := range spellings.Requests() {
		requests <- request
	}
	close(requests)
	asking.Wait()
	return took
}

// holdsSpellings asks a server at the address of what stands in front of it, as
// somebody who allows metrics and in all spellings as somebody who opted out.
func holdsSpellings(t *testing.T, server spellings.Server, addr, in, out string) {
	t.Helper()
	for _, route := range spellings.Routes {
		request := spellings.Request{Method: route.Method, Target: strings.ReplaceAll(route.Path, "*", "x")}
		if got := askReal(t, addr, request, in); got != route.Path {
			t.Errorf("%s took %s of somebody who allows for %q", server.Name, request, got)
		}
	}
	for request, route := range askAll(t, addr, out) {
		if spellings.IsGated(route) {
			t.Errorf("%s took %s for %s, behind the gate", server.Name, request, route)
		}
	}
}

// askReal sends a request byte for byte, and returns the path of the route that
// took it. A server may refuse it in whatever way.
func askReal(t *testing.T, addr string, request spellings.Request, headers ...string) string {
	t.Helper()
	connection, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(testcaddy.Patience))
	head := fmt.Sprintf("%s HTTP/1.1\r\nHost: host\r\nContent-Length: 0\r\nConnection: close\r\n", request)
	for _, header := range headers {
		head += header + "\r\n"
	}
	if _, err := io.WriteString(connection, head+"\r\n"); err != nil {
		return ""
	}
	answer := bufio.NewReader(connection)
	for {
		line, err := answer.ReadString('\n')
		if name, value, found := strings.Cut(line, ":"); found && strings.EqualFold(name, "X-Took") {
			return strings.TrimSpace(value)
		}
		if err != nil || line == "\r\n" {
			return ""
		}
	}
}
