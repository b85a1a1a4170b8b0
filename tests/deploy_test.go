//go:build linux

package tests

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// TestUnitFiles has systemd itself read what deploy/systemd holds, and say how
// much a service may do that somebody breaks into: at most 1.6 of 10.
func TestUnitFiles(t *testing.T) {
	t.Parallel()
	testcaddy.Installed(t, "systemd-analyze")
	units, err := filepath.Glob("../deploy/systemd/*")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	folder := t.TempDir()
	program := filepath.Join(folder, "caddy")
	if err := os.Symlink("/bin/true", program); err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	var services, all []string
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(folder, filepath.Base(unit))
		// systemd wants to see the program.
		if err := os.WriteFile(copied, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/caddy", program)), 0o600); err != nil {
			t.Fatal(err)
		}
		all = append(all, copied)
		if !strings.Contains(string(guide), " deploy/systemd/"+filepath.Base(unit)+" ") {
			t.Errorf("docs/install.md does not install %s", unit)
		}
		if strings.HasSuffix(unit, ".service") {
			services = append(services, copied)
		}
	}
	for _, arguments := range [][]string{
		append([]string{"verify", "--man=no"}, all...),
		append([]string{"security", "--offline=yes", "--threshold=16", "--no-pager"}, services...),
	} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", arguments...).CombinedOutput()
		if err != nil || arguments[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", arguments[0], err, out)
		}
	}
}

// TestServiceIsValidatedFirst: Caddy tells systemd that it is ready also where it
// refuses its configuration, so the unit has it read by validate before.
func TestServiceIsValidatedFirst(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../deploy/systemd/metrics-gate.service")
	if err != nil {
		t.Fatal(err)
	}
	_, start, _ := strings.Cut(string(text), "\nExecStart=/usr/local/bin/caddy run ")
	start, _, _ = strings.Cut(start, "\n")
	before := "\nExecStartPre=/usr/local/bin/caddy validate " + start + "\n"
	if start == "" || !strings.Contains(string(text), before) {
		t.Errorf("the unit lacks %q", before)
	}
}

// TestCheckUnit runs the very command of metrics-gate-check.service, with what
// systemd would give it and nothing else: each run is a line of evidence, and
// whatever is no PASS fails the unit, with a line in the journal that says why.
func TestCheckUnit(t *testing.T) {
	t.Parallel()
	service := map[string][]string{}
	text, err := os.ReadFile("../deploy/systemd/metrics-gate-check.service")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n[Service]\n")
	for _, line := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(section, -1) {
		service[line[1]] = append(service[line[1]], line[2])
	}
	for setting, want := range map[string]string{
		"Type":            "oneshot",
		"EnvironmentFile": "/etc/metrics-gate/check.env",
		"StandardOutput":  "append:/var/log/metrics-gate-check.jsonl",
		"StandardError":   "journal",
		// Nothing has systemd take FAIL or INCONCLUSIVE for success, or a failure
		// to start for another try.
		"SuccessExitStatus": "", "Restart": "", "ExecStartPre": "", "ExecStartPost": "",
	} {
		if got := strings.Join(service[setting], " "); got != want {
			t.Errorf("%s=%s, want %q", setting, got, want)
		}
	}
	if len(service["ExecStart"]) != 1 || !strings.HasPrefix(service["ExecStart"][0], "/usr/local/bin/caddy ") {
		t.Fatalf("ExecStart=%q", service["ExecStart"])
	}

	behind, profile := newContentServer(t), newProfile(t)
	addr, named := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t,
		testcaddy.Site(addr, testcaddy.Gate("route POST /metrics", "route POST /api/beacon", testcaddy.SessionJWT(), profile.block(patient)), testcaddy.ProxyTo(behind.addr())),
		testcaddy.Site(named, testcaddy.Gate("preset fxa", profile.block(patient)), testcaddy.ProxyTo(behind.addr())))
	out, in := profile.account(optOut), profile.account(allow)
	tokens := map[string]string{"METRICS_GATE_OPTOUT_TOKEN": testcaddy.Session(out), "METRICS_GATE_ALLOW_TOKEN": testcaddy.Session(in)}

	for name, c := range map[string]struct {
		file    map[string]string // check.env
		code    int
		verdict string
	}{
		"the default route":         {nil, 0, "PASS"},
		"another route":             {map[string]string{"ROUTE": "POST /api/beacon"}, 0, "PASS"},
		"accounts by name":          {map[string]string{"SITE": "http://" + named, "OPTIONS": "--optout-uid " + out + " --allow-uid " + in}, 0, "PASS"},
		"a route that is not gated": {map[string]string{"ROUTE": "POST /api/other"}, 1, "FAIL"},
		"a session that is over":    {map[string]string{"METRICS_GATE_OPTOUT_TOKEN": testcaddy.Session(out, map[string]any{"exp": 1})}, 3, "INCONCLUSIVE"},
		"no sessions":               {map[string]string{"METRICS_GATE_OPTOUT_TOKEN": "", "METRICS_GATE_ALLOW_TOKEN": ""}, 3, "INCONCLUSIVE"},
		"nobody there":              {map[string]string{"SITE": "http://" + testcaddy.FreeAddr(t)}, 3, "INCONCLUSIVE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variables := map[string]string{"SITE": "http://" + addr, "OPTIONS": "", "PATH": "/usr/local/bin:/usr/bin"}
			for _, setting := range service["Environment"] {
				variable, value, _ := strings.Cut(strings.Trim(setting, `"`), "=")
				variables[variable] = value
			}
			maps.Copy(variables, tokens)
			maps.Copy(variables, c.file)
			variables["OPTIONS"] += " --address " + caddy.Admin
			// systemd takes ${NAME} for one word, and splits $NAME.
			var words []string
			for _, word := range strings.Fields(service["ExecStart"][0])[1:] {
				whole, isWhole := strings.CutPrefix(word, "${")
				switch variable, isSplit := strings.CutPrefix(word, "$"); {
				case isWhole:
					words = append(words, variables[strings.TrimSuffix(whole, "}")])
				case isSplit:
					words = append(words, strings.Fields(variables[variable])...)
				default:
					words = append(words, word)
				}
			}
			if arguments := strings.Join(words, " "); strings.Contains(arguments, "eyJ") {
				t.Errorf("a session stands in the list of processes: %s", arguments)
			}

			evidence := filepath.Join(t.TempDir(), "metrics-gate-check.jsonl")
			const earlier = "an earlier line\n"
			if err := os.WriteFile(evidence, []byte(earlier), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(evidence, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			check := exec.CommandContext(t.Context(), testcaddy.Binary, words...)
			check.Dir, check.Stdout = "/", file
			var problems strings.Builder
			check.Stderr = &problems
			for variable, value := range variables {
				check.Env = append(check.Env, variable+"="+value)
			}
			err = check.Run()
			if check.ProcessState == nil {
				t.Fatal(err)
			}
			written, err := os.ReadFile(evidence)
			line, kept := strings.CutPrefix(string(written), earlier)
			var told struct{ Verdict string }
			if err != nil || !kept || strings.Count(line, "\n") != 1 || json.Unmarshal([]byte(line), &told) != nil {
				t.Fatalf("%v; the evidence is\n%s%s", err, written, problems.String())
			}
			journal := problems.String()
			why, wrong, _ := strings.Cut(journal, "\n")
			if c.code == 0 && journal != "" || c.code != 0 && !strings.HasPrefix(why, c.verdict+": ") || wrong != "" && !strings.HasPrefix(wrong, "WRONG  gate ") {
				t.Errorf("the journal gets\n%s", journal)
			}
			if code := check.ProcessState.ExitCode(); code != c.code || told.Verdict != c.verdict {
				t.Errorf("exit %d with %s, want %d with %s\n%s", code, told.Verdict, c.code, c.verdict, line)
			}
		})
	}
}
