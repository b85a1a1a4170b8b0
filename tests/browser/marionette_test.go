package browser_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// quiet are the preferences of every Firefox here: nothing leaves loopback
// (the proxy's port is closed, and localhost is never proxied), nothing opens
// by itself, what pages write to their console comes out on standard output,
// and Marionette does not set preferences of its own, one of which would be
// the very one that these tests are about.
var quiet = map[string]any{
	"marionette.port":                               0,
	"remote.prefs.recommended":                      false,
	"network.proxy.type":                            1,
	"network.proxy.http":                            "127.0.0.1",
	"network.proxy.http_port":                       9,
	"network.proxy.ssl":                             "127.0.0.1",
	"network.proxy.ssl_port":                        9,
	"network.proxy.no_proxies_on":                   ".localhost",
	"network.captive-portal-service.enabled":        false,
	"network.connectivity-service.enabled":          false,
	"app.update.disabledForTesting":                 true,
	"app.normandy.enabled":                          false,
	"browser.shell.checkDefaultBrowser":             false,
	"browser.startup.homepage_override.mstone":      "ignore",
	"browser.aboutwelcome.enabled":                  false,
	"browser.safebrowsing.malware.enabled":          false,
	"browser.safebrowsing.phishing.enabled":         false,
	"extensions.update.enabled":                     false,
	"datareporting.policy.dataSubmissionEnabled":    false,
	"toolkit.telemetry.server":                      "",
	"services.settings.server":                      "data:,#remote-settings-dummy/v1",
	"dom.disable_beforeunload":                      true,
	"focusmanager.testmode":                         true, // a window has the focus though no window manager gave it one
	"devtools.console.stdout.content":               true,
	"security.sandbox.warn_unprivileged_namespaces": false,
}

// uploadEnabled is the preference with which a user of Firefox switches
// telemetry off.
const uploadEnabled = "datareporting.healthreport.uploadEnabled"

// Firefox is a real one, driven by its Marionette protocol.
type firefox struct {
	t      testing.TB
	cmd    *exec.Cmd
	output testcaddy.Ledger[string]
	wire   net.Conn
	reader *bufio.Reader
	serial int

	scriptless bool // what pages bring of JavaScript is turned off
}

// newFirefox starts the installed Firefox with preferences besides the quiet ones.
func newFirefox(t testing.TB, preferences map[string]any) *firefox {
	t.Helper()
	return startFirefox(t, testcaddy.Installed(t, "firefox-esr"), preferences)
}

// startFirefox starts a Firefox with a home and a profile of its own.
func startFirefox(t testing.TB, program string, preferences map[string]any) *firefox {
	t.Helper()
	// Not t.TempDir, because processes of Firefox that outlive it for a moment
	// still write there.
	home, err := os.MkdirTemp("", "metrics-gate-firefox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	profile := filepath.Join(home, "profile")
	if err := os.Mkdir(profile, 0o700); err != nil {
		t.Fatal(err)
	}
	var userJS strings.Builder
	for _, set := range []map[string]any{quiet, preferences} {
		for name, value := range set {
			fmt.Fprintf(&userJS, "user_pref(%q, %s);\n", name, asJSON(value))
		}
	}
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(userJS.String()), 0o600); err != nil {
		t.Fatal(err)
	}

	f := &firefox{t: t, scriptless: preferences["javascript.enabled"] == false}
	f.cmd = exec.Command(program, "--headless", "--no-remote", "--marionette", "--remote-allow-system-access",
		"--profile", profile, "about:blank")
	f.cmd.Env = append(testcaddy.Environment(home), "MOZ_CRASHREPORTER_DISABLE=1", "MOZ_DISABLE_AUTO_SAFE_MODE=1", "TMPDIR="+home)
	ownGroup(f.cmd)
	stdout, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.cmd.Stderr = f.cmd.Stdout
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { f.quit(ended) })
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			f.output.Add(lines.Text())
		}
	}()
	f.connect(filepath.Join(profile, "MarionetteActivePort"))
	return f
}

// connect waits until Marionette listens, and begins a session. What it prints
// says when; the file says where.
func (f *firefox) connect(portFile string) {
	f.t.Helper()
	f.output.Wait(f.t, "Firefox to listen", func(lines []string) bool {
		_, err := os.Stat(portFile)
		return err == nil || len(lines) > 0 && strings.Contains(lines[len(lines)-1], "Listening on port")
	})
	var port []byte
	testcaddy.Until(f.t, "Marionette's port", func() bool { port, _ = os.ReadFile(portFile); return len(port) > 0 })
	wire, err := net.Dial("tcp", "127.0.0.1:"+strings.TrimSpace(string(port)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.wire, f.reader = wire, bufio.NewReader(wire)
	f.receive() // its greeting
	f.do("WebDriver:NewSession", map[string]any{"acceptInsecureCerts": true}, nil)
	f.do("WebDriver:SetTimeouts", map[string]any{"script": testcaddy.Patience.Milliseconds(), "pageLoad": testcaddy.Patience.Milliseconds()}, nil)
}

// quit ends Firefox as the system does at shutdown, which takes a tenth of a
// second; Marionette's own way takes seconds.
func (f *firefox) quit(ended <-chan struct{}) {
	if f.wire != nil {
		_ = f.wire.Close()
	}
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(testcaddy.Patience):
		f.t.Error("Firefox did not end")
	}
	endGroup(f.cmd)
	_ = f.cmd.Wait()
}

// receive reads one message: its length, a colon, and JSON.
func (f *firefox) receive() []byte {
	f.t.Helper()
	_ = f.wire.SetReadDeadline(time.Now().Add(2 * testcaddy.Patience))
	length, err := f.reader.ReadString(':')
	if err != nil {
		f.t.Fatalf("Firefox is gone: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		f.t.Fatal(err)
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(f.reader, message); err != nil {
		f.t.Fatal(err)
	}
	return message
}

// A failure is what Marionette answers to a command that it could not do.
type failure struct {
	Kind    string `json:"error"`
	Message string `json:"message"`
}

func (e *failure) Error() string { return e.Kind + ": " + e.Message }

// try sends a command and reads its result.
func (f *firefox) try(command string, parameters, into any) error {
	f.t.Helper()
	f.serial++
	message := asJSON([]any{0, f.serial, command, parameters})
	if _, err := fmt.Fprintf(f.wire, "%d:%s", len(message), message); err != nil {
		f.t.Fatalf("Firefox is gone: %v", err)
	}
	var problem *failure
	var result json.RawMessage
	answer := []any{nil, nil, &problem, &result} // direction, serial number
	if err := json.Unmarshal(f.receive(), &answer); err != nil {
		f.t.Fatal(err)
	}
	if problem != nil {
		return problem
	}
	switch {
	case into == nil:
		return nil
	case len(result) > 0 && result[0] == '[': // what is a list comes without a wrapping
		return json.Unmarshal(result, into)
	}
	return json.Unmarshal(result, &struct{ Value any }{into})
}

func (f *firefox) do(command string, parameters, into any) {
	f.t.Helper()
	if err := f.try(command, parameters, into); err != nil {
		f.t.Fatalf("%s: %v", command, err)
	}
}

// asJSON is the value as Marionette and scripts take it.
func asJSON(value any) string { return string(testcaddy.Must(json.Marshal(value))) }

func (f *firefox) navigate(url string) {
	f.t.Helper()
	f.do("WebDriver:Navigate", map[string]any{"url": url}, nil)
}

// call has the page run a script's text as the body of a function, which may
// return a promise, and reads what it returns.
func (f *firefox) call(into any, script string, arguments ...any) {
	f.t.Helper()
	f.do("WebDriver:ExecuteScript", call(script, arguments), into)
}

func call(script string, arguments []any) map[string]any {
	if arguments == nil {
		arguments = []any{}
	}
	return map[string]any{"script": script, "args": arguments, "sandbox": nil, "newSandbox": false}
}

// eval is call for one expression.
func (f *firefox) eval(into any, expression string) {
	f.t.Helper()
	f.call(into, "return ("+expression+");")
}

// wait waits until the expression holds in the page, whatever pages come by.
func (f *firefox) wait(what, expression string) {
	f.t.Helper()
	testcaddy.Until(f.t, what, func() bool {
		var held bool
		if f.scriptless { // and so without timers
			err := f.try("WebDriver:ExecuteScript", call("return ("+expression+");", nil), &held)
			return err == nil && held
		}
		err := f.try("WebDriver:ExecuteAsyncScript", call(`
			const [done] = arguments, end = Date.now() + 2000;
			(function look() {
				if (`+expression+`) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 20);
			})();`, nil), &held)
		return err == nil && held
	})
}

// privileged is call with the rights of Firefox itself, in its own window.
func (f *firefox) privileged(into any, script string, arguments ...any) {
	f.t.Helper()
	f.do("Marionette:SetContext", map[string]any{"value": "chrome"}, nil)
	f.call(into, script, arguments...)
	f.do("Marionette:SetContext", map[string]any{"value": "content"}, nil)
}

// The keys that tests press, by the names that both browsers' pages see.
var webDriverKeys = map[string]string{"Tab": "\uE004", "Enter": "\uE006", "Space": " ", "ArrowDown": "\uE015", "ArrowUp": "\uE013"}

// press presses keys one after the other, wherever the focus is.
func (f *firefox) press(keys ...string) {
	f.t.Helper()
	for _, key := range keys {
		var actions []map[string]any
		for _, kind := range []string{"keyDown", "keyUp"} {
			actions = append(actions, map[string]any{"type": kind, "value": webDriverKeys[key]})
		}
		f.do("WebDriver:PerformActions", map[string]any{"actions": []any{
			map[string]any{"type": "key", "id": "keyboard", "actions": actions},
		}}, nil)
	}
}

func (f *firefox) cookie(name string) (value string) {
	f.t.Helper()
	var all []struct{ Name, Value string }
	f.do("WebDriver:GetCookies", nil, &all)
	for _, cookie := range all {
		if cookie.Name == name {
			value = cookie.Value
		}
	}
	return value
}

func (f *firefox) forget() {
	f.t.Helper()
	f.do("WebDriver:DeleteAllCookies", nil, nil)
}

// console is what pages wrote to their console, and what Firefox itself had to
// say about the pages of an origin: errors of scripts, policies that were
// violated, files that could not be loaded.
func (f *firefox) console(origin string) (lines []string) {
	f.t.Helper()
	for _, line := range f.output.All() {
		if strings.HasPrefix(line, "console.") {
			lines = append(lines, line)
		}
	}
	var errors []string
	f.privileged(&errors, `return Services.console.getMessageArray()
		.filter((message) => message instanceof Ci.nsIScriptError)
		.map((message) => message.sourceName + ": " + message.errorMessage)
		.filter((line) => line.includes(arguments[0]));`, origin)
	return append(lines, errors...)
}

// screenshot is the page as a PNG.
func (f *firefox) screenshot() []byte {
	f.t.Helper()
	var encoded string
	f.do("WebDriver:TakeScreenshot", map[string]any{"full": true, "hash": false}, &encoded)
	return testcaddy.Must(base64.StdEncoding.DecodeString(encoded))
}

// resize gives the page that many pixels.
func (f *firefox) resize(width, height int) {
	f.t.Helper()
	f.do("WebDriver:SetWindowRect", map[string]any{"width": width, "height": height}, nil)
}
