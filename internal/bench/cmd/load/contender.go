package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench/process"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

// contender is a proxy under load.
type contender struct {
	name    string
	bare    string // whom it is compared with, mostly its host without a gate; empty for itself
	program string // caddy, bare, nginx, haproxy
	config  string
	env     []string // BENCH_… besides those that all get
	decides bool     // has a decision service beside it, whose CPU counts
	check   func(*rig, *contender) error

	addr      string
	processes []*exec.Cmd
}

const (
	bareCaddy, bareNginx, bareHAProxy = "caddy bare", "nginx bare", "haproxy bare"
	ownGate, ownSession               = "metrics_gate", "metrics_gate own session"
)

func contenders() []*contender {
	all := []*contender{
		{name: bareCaddy, program: "bare", config: "bare.caddyfile"},
		// The control: what comes out here is what the measurement cannot tell
		// from nothing.
		{name: "caddy bare again", bare: bareCaddy, program: "bare", config: "bare.caddyfile"},
		{name: "caddy forward_auth", bare: bareCaddy, program: "bare", config: "forward_auth.caddyfile", decides: true, check: checkSessions},
		// The least that Caddy can do with a request: answer it from its
		// configuration.
		{name: "caddy respond", bare: bareCaddy, program: "bare", config: "respond.caddyfile"},
		{name: ownGate, bare: bareCaddy, program: "caddy", config: "gate.caddyfile", check: checkAllSessions},
		{name: ownSession, bare: bareCaddy, program: "caddy", config: "gate-own.caddyfile", check: checkOwnSession},
		{name: "metrics_gate names", bare: bareCaddy, program: "caddy", config: "gate-fxa.caddyfile", check: checkNames},
		{name: "caddy bare, request_buffers", bare: bareCaddy, program: "bare", config: "bare.caddyfile", env: buffered},
		{name: "metrics_gate batch", bare: bareCaddy, program: "caddy", config: "gate-batch.caddyfile", check: checkBatch},
		{name: "metrics_gate names, request_buffers", bare: "caddy bare, request_buffers", program: "caddy", config: "gate-fxa.caddyfile", env: buffered, check: checkNames},
		{name: "metrics_gate handshake", bare: bareCaddy, program: "caddy", config: "gate-page.caddyfile", check: checkInjected},
		{name: "metrics_gate inject off", bare: bareCaddy, program: "caddy", config: "gate-page.caddyfile", env: []string{"BENCH_INJECT=off"}},
		{name: bareNginx, program: "nginx", config: "nginx.conf"},
		{name: "nginx lua", bare: bareNginx, program: "nginx", config: "nginx.conf", env: []string{"BENCH_GATE=lua"}, check: checkSessions},
		{name: bareHAProxy, program: "haproxy", config: "haproxy.cfg"},
		{name: "haproxy jwt", bare: bareHAProxy, program: "haproxy", config: "haproxy.cfg", env: []string{"BENCH_GATE=jwt"}, check: checkSessions},
	}
	for _, setting := range settings {
		all = append(all, &contender{
			name: setting.name, bare: ownGate, program: "caddy", config: "gate.caddyfile", env: setting.env, check: checkSessions,
		})
	}
	return all
}

// buffered has Caddy send a small body together with its headers.
var buffered = []string{"BENCH_PROXY=request_buffers 16KiB"}

// settings are those of Caddy and of Go's runtime that an operator may think
// of, each by itself.
var settings = []struct {
	name string
	env  []string
}{
	{"nothing (control)", nil},
	{"GOGC=200", []string{"GOGC=200"}},
	{"GOGC=400", []string{"GOGC=400"}},
	{"access log", []string{"BENCH_SITE=import access_log"}},
	{"access log without the beacons", []string{"BENCH_SITE=import access_log\nlog_skip /metrics"}},
	{"access log that is filtered", []string{"BENCH_SITE=import filtered_access_log"}},
	{"default log that is filtered", []string{"BENCH_LOG=import filter"}},
	{"default log that is discarded", []string{"BENCH_LOG=output discard"}},
	{"metrics", []string{"BENCH_GLOBAL=metrics"}},
	{"keepalive off", []string{"BENCH_PROXY=import transport keepalive off"}},
	{"keepalive_idle_conns_per_host 256", []string{"BENCH_PROXY=import transport keepalive_idle_conns_per_host 256"}},
	{"compression off", []string{"BENCH_PROXY=import transport compression off"}},
	{"request_buffers 16KiB", buffered},
	{"response_buffers 64KiB", []string{"BENCH_PROXY=response_buffers 64KiB"}},
}

func settingNames() (names []string) {
	for _, setting := range settings {
		names = append(names, setting.name)
	}
	return names
}

// start runs the contender, and its decision service, on the core of the
// proxies.
func (r *rig) start(c *contender) error {
	c.addr = freeAddr()
	_, port, _ := net.SplitHostPort(c.addr)
	env := append([]string{
		"BENCH_PORT=" + port, "BENCH_CONF=" + r.conf, "BENCH_UPSTREAM=" + r.upstream, "BENCH_PROFILE=" + r.profile,
		"BENCH_SECRET=" + stub.Secret, "BENCH_GATE_SECRET=" + stub.GateSecret, "HOME=" + r.dir, "XDG_CONFIG_HOME=" + r.dir, "XDG_DATA_HOME=" + r.dir,
	}, c.env...)
	if c.decides {
		decide := freeAddr()
		env = append(env, "BENCH_DECIDE="+decide)
		if err := r.startStub(c, "decide", decide); err != nil {
			return err
		}
	}
	config := filepath.Join(r.conf, c.config)
	var args []string
	switch c.program {
	case "nginx":
		config = filepath.Join(r.dir, "nginx"+port+".conf")
		if err := r.nginxConfig(config, port, len(c.env) > 0); err != nil {
			return err
		}
		args = []string{"nginx", "-c", config, "-e", "stderr"}
	case "haproxy":
		args = []string{"haproxy", "-db", "-f", config}
	default:
		args = []string{filepath.Join(r.dir, "bin", c.program), "run", "--adapter", "caddyfile", "--config", config}
	}
	return r.run(c, proxyCore, c.addr, env, args...)
}

// Where Debian has nginx' modules; that for Lua is a package of its own.
const (
	nginxModules = "/usr/lib/nginx/modules/"
	luaModule    = nginxModules + "ngx_http_lua_module.so"
)

// installed says whether a contender is there that is not built here.
func (c *contender) installed() bool {
	if c.program != "nginx" && c.program != "haproxy" {
		return true
	}
	if _, err := exec.LookPath(c.program); err != nil {
		return false
	}
	if c.name != "nginx lua" {
		return true
	}
	_, err := os.Stat(luaModule)
	return err == nil
}

// nginxConfig writes nginx' configuration, which knows no environment.
func (r *rig) nginxConfig(path, port string, gated bool) error {
	raw, err := os.ReadFile(filepath.Join(r.conf, "nginx.conf"))
	if err != nil {
		return err
	}
	words := []string{"@NAME@", "nginx" + port, "@PORT@", port, "@RUN@", r.dir, "@UPSTREAM@", r.upstream, "@MODULES@", "", "@INIT@", "", "@BEACON@", "", "@ERROR@", ""}
	if gated {
		words = append([]string{
			"@MODULES@", "load_module " + nginxModules + "ndk_http_module.so; load_module " + luaModule + ";",
			"@INIT@", fmt.Sprintf(`lua_package_path "%s/?.lua;;"; lua_shared_dict prefs 128m;
				init_by_lua_block { gate = require("gate"); gate.setup("%s", "%s", 3600) }`, r.conf, stub.Secret, r.profile),
			"@BEACON@", `access_by_lua_block { gate.check("POST") }`,
			"@ERROR@", `access_by_lua_block { gate.check("GET") }`,
		}, words...)
	}
	return os.WriteFile(path, []byte(strings.NewReplacer(words...).Replace(string(raw))), 0o600)
}

// startStub runs one of our own servers: this program again. A decision service
// belongs to a contender and runs on its core.
func (r *rig) startStub(c *contender, role, addr string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	core := loadCore
	if c != nil {
		core = proxyCore
	}
	return r.run(c, core, addr, []string{"BENCH_STUB=" + role, "BENCH_ADDR=" + addr, "BENCH_PROFILE=" + r.profile}, self)
}

// The cores, of a machine that has two: one for what is measured, and one for
// everything around it.
const loadCore, proxyCore = "0", "1"

// run starts a process and returns when it listens.
func (r *rig) run(c *contender, core, addr string, env []string, args ...string) error {
	if r.pinned {
		args = append([]string{"taskset", "-c", core}, args...)
	}
	command := exec.Command(args[0], args[1:]...)
	command.Dir = r.dir
	command.Env = append(os.Environ(), env...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Start(); err != nil {
		return err
	}
	r.processes = append(r.processes, command)
	if c != nil {
		c.processes = append(c.processes, command)
	}
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
		dialer := net.Dialer{Timeout: time.Second}
		if connection, err := dialer.DialContext(context.Background(), "tcp", addr); err == nil {
			return connection.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%q does not listen at %s; what it said is above", args, addr)
		}
	}
}

// stop ends every process that was started.
func (r *rig) stop() {
	for _, process := range r.processes {
		_ = process.Process.Signal(syscall.SIGTERM)
	}
	for _, process := range r.processes {
		kill := time.AfterFunc(5*time.Second, func() { _ = process.Process.Kill() })
		_ = process.Wait()
		kill.Stop()
	}
}

// cpu is what the contender has used of processors so far.
func (c *contender) cpu() (total time.Duration) {
	for _, running := range c.processes {
		total += process.CPU(running.Process.Pid)
	}
	return total
}

// rss is the memory that it holds, in bytes.
func (c *contender) rss() (total float64) {
	for _, process := range c.processes {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", process.Process.Pid))
		if field := strings.Fields(string(raw)); len(field) > 1 {
			pages, _ := strconv.ParseFloat(field[1], 64)
			total += pages * float64(os.Getpagesize())
		}
	}
	return total
}

// freeAddr is a loopback address that nothing listens on.
func freeAddr() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
