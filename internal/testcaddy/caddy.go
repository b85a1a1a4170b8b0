// Package testcaddy runs the real Caddy for the end-to-end tests: it builds the
// binary from this tree, starts it with a Caddyfile, and looks at what it logs
// and counts. It also holds the keys that the tests sign with.
package testcaddy

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/metricsgate/metricsgate/internal/bench/process"
)

// Binary is the Caddy under test, built once from this tree.
var Binary string

// Main runs the tests of a package with the binary and the keys made, and
// returns the code to exit with. A goroutine that outlives the tests fails them.
// With -short none of them runs.
func Main(m *testing.M) int {
	if flag.Parse(); testing.Short() {
		fmt.Println("-short leaves the end-to-end tests out")
		return 0
	}
	dir, err := os.MkdirTemp("", "metrics-gate-tests-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	Binary = filepath.Join(dir, "caddy")
	build := build(Binary)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "building %s: %v\n", command, err)
		return 1
	}
	makeKeys(dir)
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	Client.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "the stand-ins leak:", err)
		return 1
	}
	return code
}

// command is the main package of the Caddy under test.
const command = "github.com/metricsgate/metricsgate/cmd/caddy"

// build is the command that builds it.
func build(binary string, flags ...string) *exec.Cmd {
	return exec.Command("go", slices.Concat([]string{"build", "-o", binary}, flags, buildFlags(), []string{command})...)
}

// buildFlags builds Caddy as these tests were built: under -race, a data race
// in Caddy is found as well.
func buildFlags() (flags []string) {
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "-race" && setting.Value == "true":
			flags = append(flags, "-race")
		case setting.Key == "-tags":
			flags = append(flags, "-tags="+setting.Value)
		}
	}
	return flags
}

// Server is one running Caddy.
type Server struct {
	t           testing.TB
	Admin       string   // host:port
	options     string   // global ones, besides those that every test needs
	environment []string // besides Environment
	binary      string
	Dir         string
	Log         Ledger[string]
	cmd         *exec.Cmd
	exited      chan error // the process has ended and its log is complete
	ended       bool

	settling sync.Mutex
	settled  time.Time // nothing was on its way then
}

// servers are those that StartWith runs, by the port of each of their sites.
var servers sync.Map

var sitePort = regexp.MustCompile(`(?m)^http://:(\d+) \{`)

// serves remembers which server a site belongs to.
func (s *Server) serves(sites []string) {
	for _, site := range sites {
		for _, port := range sitePort.FindAllStringSubmatch(site, -1) {
			servers.Store(port[1], s)
		}
	}
}

// Settle waits until everything has reached its application that the server at
// this address had answered by a time: a gate hands on what it collects when it
// has answered.
func Settle(addr string, answered time.Time) {
	_, port, _ := net.SplitHostPort(addr)
	running, ok := servers.Load(port)
	if !ok {
		return
	}
	s := running.(*Server)
	s.settling.Lock()
	defer s.settling.Unlock()
	if s.ended || s.settled.After(answered) {
		return
	}
	Until(s.t, "what was answered to reach its application", func() bool {
		began := time.Now()
		if s.Metric("detached_requests") > 0 {
			return false
		}
		s.settled = began
		return true
	})
}

// Start runs Caddy with the sites, and returns when it serves them. When the
// test ends, Caddy is stopped, and must then have neither panicked nor raced.
func Start(t testing.TB, sites ...string) *Server {
	t.Helper()
	return StartWith(t, "", sites...)
}

// New is a server that does not run yet, with a folder of its own.
func New(t testing.TB) *Server {
	return &Server{t: t, Admin: FreeAddr(t), binary: Binary, Dir: t.TempDir(), exited: make(chan error, 1)}
}

// StartWith is Start with global options.
func StartWith(t testing.TB, options string, sites ...string) *Server {
	t.Helper()
	return StartIn(t, nil, options, sites...)
}

// StartIn is StartWith with more in the environment, as NAME=value.
func StartIn(t testing.TB, environment []string, options string, sites ...string) *Server {
	t.Helper()
	s := New(t)
	s.environment, s.options = environment, options
	s.start(sites)
	return s
}

func (s *Server) start(sites []string) {
	s.t.Helper()
	config := filepath.Join(s.Dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(s.Caddyfile(sites...)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Run(exec.Command(s.binary, "run", "--config", config, "--adapter", "caddyfile"))
	s.serves(sites)
}

// Run starts the command, which has to be or to become Caddy, in the server's
// folder.
func (s *Server) Run(cmd *exec.Cmd) {
	t := s.t
	t.Helper()
	s.cmd = cmd
	s.cmd.Env = append(Environment(s.Dir), s.environment...)
	s.cmd.Dir = s.Dir
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout = s.cmd.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	go func() {
		lines := bufio.NewReader(stderr)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				s.Log.Add(strings.TrimSuffix(line, "\n"))
			}
			if err != nil {
				break
			}
		}
		err := s.cmd.Wait()
		s.Log.Add("the process ended")
		s.exited <- err
	}()
	s.Logged("serving initial configuration")
}

// Environment is a home of its own, so that no run sees what another left. The
// race detector would have each process sleep for a second before it ends, in
// case that a race is still to come.
func Environment(dir string) []string {
	env := []string{"GORACE=halt_on_error=0 atexit_sleep_ms=0"}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"} {
		env = append(env, name+"="+dir)
	}
	return append(env, "PATH="+os.Getenv("PATH"))
}

// Caddyfile is the whole file: the sites, and what a test needs of the server.
func (s *Server) Caddyfile(sites ...string) string {
	return "{\n\tadmin " + s.Admin + "\n\tauto_https off\n\tpersist_config off\n\tgrace_period 20s\n" + s.options + "\n}\n" +
		strings.Join(sites, "\n")
}

// Logged waits for a log line that holds all the words, and returns it.
func (s *Server) Logged(words ...string) (found string) {
	s.t.Helper()
	lines := s.Log.Wait(s.t, fmt.Sprintf("a log line with %q", words), func(lines []string) bool {
		for _, line := range lines {
			if containsAll(line, words) {
				found = line
				return true
			}
		}
		return len(lines) > 0 && lines[len(lines)-1] == "the process ended"
	})
	if found == "" {
		s.t.Fatalf("Caddy ended without logging %q:\n%s", words, strings.Join(lines, "\n"))
	}
	return found
}

func containsAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// Stop ends Caddy as an operator does, which joins everything it still has
// running, and holds its log against what no log may have.
func (s *Server) Stop() {
	s.t.Helper()
	if s.ended {
		return
	}
	s.ended = true
	Client.CloseIdleConnections()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("Caddy ended with %v", err)
		}
	case <-time.After(Patience):
		_ = s.cmd.Process.Signal(syscall.SIGABRT) // its goroutines, into the log; Caddy itself takes SIGQUIT
		<-s.exited
		s.t.Errorf("Caddy did not stop")
	}
	s.sound()
}

// Ended says whether the test has ended it.
func (s *Server) Ended() bool { return s.ended }

// Kill ends Caddy at once, as when it crashes or the machine does, and holds its log
// against what no log may have.
func (s *Server) Kill() {
	s.t.Helper()
	if s.ended {
		return
	}
	s.ended = true
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.sound()
}

// sound holds the complete log against what no log may have.
func (s *Server) sound() {
	s.t.Helper()
	log := strings.Join(s.Log.All(), "\n")
	for _, sign := range []string{"panic", "DATA RACE", "fatal error", "goroutine "} {
		if i := strings.Index(log, sign); i >= 0 {
			s.t.Errorf("the log has %q:\n%.8000s", sign, log[i:])
			break
		}
	}
}

// Reload has the admin API load another config, and returns its complaint.
func (s *Server) Reload(sites ...string) error {
	s.t.Helper()
	request, _ := http.NewRequest(http.MethodPost, "http://"+s.Admin+"/load", strings.NewReader(s.Caddyfile(sites...)))
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate") // load it even if nothing changed
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	// The old servers close their idle connections; a request that goes out on
	// one at that moment would be lost in any client. A reload that fails has
	// replaced the server of the admin API, too.
	Client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	listenersSettled(s.t)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	s.serves(sites)
	return nil
}

// listenersSettled waits until no port has two listeners. Caddy answers the
// reload a moment before it closes the old listener, and the kernel resets
// the connections that nobody has taken from its queue by then: they are lost
// to any server, gate or no gate.
func listenersSettled(t testing.TB) {
	t.Helper()
	const listening = "0A" // the state LISTEN of proc_net_tcp(5)
	deadline := time.Now().Add(10 * time.Second)
	for {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return // only Linux has it, and only there do listeners share a port
		}
		seen, twice := map[string]bool{}, false
		for line := range strings.Lines(string(table)) {
			if field := strings.Fields(line); len(field) > 3 && field[3] == listening {
				twice = twice || seen[field[1]]
				seen[field[1]] = true
			}
		}
		if !twice {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("an old listener is still open")
		}
		runtime.Gosched()
	}
}

// AdminGet is what the admin API says.
func (s *Server) AdminGet(path string) string {
	s.t.Helper()
	response, err := http.Get("http://" + s.Admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s, %v", path, response.Status, err)
	}
	return string(body)
}

// Sample is one line of Prometheus' text format.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// What the names of our metrics begin with.
const (
	gatePrefix          = "caddy_metrics_gate_"
	profileServerPrefix = "caddy_profile_server_"
)

// Samples scrapes the metrics of the gate and of the profile server.
func (s *Server) Samples() (all []Sample) {
	s.t.Helper()
	for line := range strings.Lines(s.AdminGet("/metrics")) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, gatePrefix) && !strings.HasPrefix(line, profileServerPrefix) {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			s.t.Fatalf("%q is not a sample", line)
		}
		name, rest, _ := strings.Cut(line[:space], "{")
		labels := map[string]string{}
		for rest = strings.TrimSuffix(rest, "}"); rest != ""; {
			key, after, _ := strings.Cut(rest, "=")
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				s.t.Fatalf("%q is not a sample", line)
			}
			labels[key], _ = strconv.Unquote(quoted)
			rest = strings.TrimPrefix(after[len(quoted):], ",")
		}
		all = append(all, Sample{name, labels, value})
	}
	return all
}

// Metric is the sum of the samples of caddy_metrics_gate_<name> that have all
// the labels, given as key, value, key, value.
func (s *Server) Metric(name string, labels ...string) (sum float64) {
	s.t.Helper()
	return s.sum(gatePrefix+name, labels)
}

// ProfileServerMetric is the same of caddy_profile_server_<name>.
func (s *Server) ProfileServerMetric(name string, labels ...string) (sum float64) {
	s.t.Helper()
	return s.sum(profileServerPrefix+name, labels)
}

func (s *Server) sum(name string, labels []string) (sum float64) {
	s.t.Helper()
	for _, sample := range s.Samples() {
		if sample.Name == name && sample.Has(labels...) {
			sum += sample.Value
		}
	}
	return sum
}

// CPU is what Caddy has used of processors so far.
func (s *Server) CPU() time.Duration { return process.CPU(s.cmd.Process.Pid) }

// Resident is how much memory the process has, in bytes.
func (s *Server) Resident() int64 {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes int64
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		s.t.Fatal(err)
	}
	return kilobytes << 10
}

// Held is what a process holds.
type Held struct {
	// Goroutines and Handles, files and connections, do not count connections that
	// wait for their next request. They are kept for minutes and up to a bound: as
	// many as there were at once when it was busiest, and nobody's leak.
	Goroutines, Handles int
	// Heap is how many bytes are in use, when what is not has been freed.
	Heap int
	// Stacks are those of the goroutines.
	Stacks string
}

// sameStack are the goroutines of one stack in a profile: how many, and where.
var sameStack = regexp.MustCompile(`(?m)^(\d+) @ .*\n((?:#.*\n)*)`)

// Held is what Caddy holds.
func (s *Server) Held() (held Held) {
	s.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	held.Handles = len(open)
	held.Stacks = s.AdminGet("/debug/pprof/goroutine?debug=1")
	for _, same := range sameStack.FindAllStringSubmatch(held.Stacks, -1) {
		goroutines, _ := strconv.Atoi(same[1])
		stack := same[2]
		held.Goroutines += goroutines
		if !strings.Contains(stack, "bufio.(*Reader).Peek") {
			continue
		}
		switch {
		case strings.Contains(stack, "net/http.(*conn).serve"):
			held.Goroutines -= goroutines
			held.Handles -= goroutines
		case strings.Contains(stack, "net/http.(*persistConn).readLoop"):
			held.Goroutines -= 2 * goroutines // one more writes
			held.Handles -= goroutines
		}
	}
	_, heap, _ := strings.Cut(s.AdminGet("/debug/pprof/heap?gc=1&debug=1"), "# HeapAlloc = ")
	if _, err := fmt.Sscan(heap, &held.Heap); err != nil {
		s.t.Fatal("the profile of the heap does not say how much is in use")
	}
	return held
}

// Has says whether the sample has the labels, given as key, value, key, value.
func (s Sample) Has(labels ...string) bool {
	for i := 0; i < len(labels); i += 2 {
		if s.Labels[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}

// Ports come from a block below the range from which the system picks ports for
// outgoing connections, so that nothing takes one between the moment that it is
// found free and the moment that Caddy listens there. Another run of these
// tests has another block: whoever listens on a block's first port owns it. A
// block is larger than what one run asks for, since a port that was given away may
// still have to wait for whoever listens there. No browser refuses one of them.
const firstPort, blockSize, blocks = 12_000, 2_000, 10

var (
	ownBlock net.Listener
	lastPort atomic.Int32
)

func init() {
	for _, block := range rand.Perm(blocks) {
		port := firstPort + block*blockSize
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			ownBlock = listener
			return
		}
	}
	panic("every block of ports is taken by another run of these tests")
}

// FreeAddr is a loopback address that nothing listens on. It is found by asking for
// a connection: a listener, once closed, would be kept for a moment by a child process
// that starts at that time, and the port with it.
func FreeAddr(t testing.TB) string {
	t.Helper()
	own := ownBlock.Addr().(*net.TCPAddr).Port
	for range blockSize {
		addr := fmt.Sprintf("127.0.0.1:%d", own+1+int(lastPort.Add(1))%(blockSize-1))
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return addr
		}
		conn.Close()
	}
	t.Fatal("no free port")
	return ""
}

// ListenAgain listens where somebody listened a moment ago. A child process that
// starts at that time may still keep the port.
func ListenAgain(t testing.TB, addr string) (listener net.Listener) {
	t.Helper()
	Until(t, "nobody to listen at "+addr, func() (free bool) {
		var err error
		listener, err = net.Listen("tcp", addr)
		return err == nil
	})
	return listener
}

// Site is a site of the Caddyfile at an address, whatever Host it is asked for.
func Site(addr string, directives ...string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "http://:" + port + " {\n\tbind " + host + "\n" + strings.Join(directives, "\n") + "\n}\n"
}

// Gate is a metrics_gate directive; what it holds is written as in a Caddyfile.
func Gate(options ...string) string { return "metrics_gate {\n" + strings.Join(options, "\n") + "\n}" }

// ProxyTo is the application behind the gate.
func ProxyTo(addr string) string { return "reverse_proxy " + addr }

// Command runs a subcommand of Caddy to its end.
func Command(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return CommandWith(t, nil, args...)
}

// CommandWith is Command with more in its environment, as NAME=value.
func CommandWith(t testing.TB, environment []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return run(t, Binary, environment, args)
}

// Ask runs a subcommand of caddy metrics-gate that asks this server, as an operator
// does beside it, with the same clock.
func (s *Server) Ask(command string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return run(s.t, s.binary, s.environment, append([]string{"metrics-gate", command, "--address", s.Admin}, args...))
}

func run(t testing.TB, binary string, environment, args []string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(Environment(cmd.Dir), environment...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	for _, sign := range []string{"panic", "DATA RACE"} {
		if strings.Contains(problems.String(), sign) {
			t.Errorf("caddy %q: %s", args, problems.String())
		}
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}
