package tests

import (
	"bufio"
	"cmp"
	"database/sql"
	"flag"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

var simulateMonth = flag.Bool("simulate-month", false, "write the answers of docs/audit.md anew")

const auditPage = "../docs/audit.md"

// TestAudit brings the real binary into everything that happens in a month,
// stretches what it counted, logged and said to that month, gives the samples to a
// real Prometheus, and runs the commands of docs/audit.md: each has to give the
// answer that the page has below it.
func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := liveThroughMonth(t)
	running := m.inPrometheus(dir)
	m.comparesWith(running)
	write := func(name string, lines []string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	here := strings.NewReplacer(
		"http://localhost:9090", "http://"+string(running),
		"http://localhost:2019", "http://"+m.edge.Admin,
		`journalctl -u metrics-gate -o cat --since "2026-06-01 UTC" --until "2026-07-01 UTC"`, "cat "+write("journal", m.log),
		"/etc/metrics-gate/Caddyfile", write("Caddyfile", []string{m.caddyfile}),
		"/var/log/metrics-gate-check.jsonl", write("checks.jsonl", m.checks),
		"/var/lib/metrics-gate/profile.db", m.store,
	)
	if _, said, code := testcaddy.Command(t, "fmt", "--overwrite", filepath.Join(dir, "Caddyfile")); code != 0 {
		t.Error(said)
	}

	page := string(testcaddy.Must(os.ReadFile(auditPage)))
	transcript := regexp.MustCompile("```sh\n([^`]*)```\n(\n```text\n([^`]*)```\n)?")
	run := func(command string) string {
		bash := exec.Command("bash", "-euo", "pipefail", "-c", here.Replace(command))
		bash.Dir = dir
		bash.Env = append(testcaddy.Environment(dir), "PATH="+filepath.Dir(testcaddy.Binary)+":"+os.Getenv("PATH"))
		said, err := bash.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s\n%s", err, command, said)
		}
		return string(said)
	}
	prepared, asked := "", 0
	answered := transcript.ReplaceAllStringFunc(page, func(found string) string {
		parts := transcript.FindStringSubmatch(found)
		command, answer := parts[1], parts[3]
		if parts[2] == "" { // it answers nothing
			switch {
			case strings.Contains(command, "ask() {"):
				prepared = command
			case strings.Contains(command, "journalctl"):
				run(command)
			}
			return found
		}
		asked++
		said := run(prepared + command)
		if said == "" || said != answer && !*simulateMonth {
			t.Errorf("docs/audit.md asks\n%sand has the answer\n%swhere it is\n%s", command, answer, said)
		}
		return "```sh\n" + command + "```\n\n```text\n" + said + "```\n"
	})
	if asked < 10 {
		t.Errorf("only %d questions have an answer", asked)
	}
	if *simulateMonth {
		if err := os.WriteFile(auditPage, []byte(answered), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What the report tells is in an answer.
	report, answers, found := strings.Cut(answered, "\n## The questions\n")
	if !found {
		t.Error("docs/audit.md has no questions")
	}
	for _, figure := range regexp.MustCompile(`\*\*([0-9][0-9,.]*)\*\*`).FindAllStringSubmatch(report, -1) {
		if !regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(strings.ReplaceAll(figure[1], ",", "")) + `($|[^0-9.])`).MatchString(answers) {
			t.Errorf("the report has %s, which no answer has", figure[1])
		}
	}
}

// A month is one that was lived through in a minute.
type month struct {
	t         *testing.T
	edge      *testcaddy.Server
	store     string // the profile server's
	caddyfile string // what runs in the end

	phases  []phase
	leaks   []time.Time
	leak    map[string]float64 // what one counts
	present map[string]float64 // gauges that a gate has wherever it runs
	log     []string
	checks  []string

	happened map[string]float64 // gated requests, by what was decided
}

// A phase goes on until the next.
type phase struct {
	from    time.Time
	unit    map[string]float64 // what traffic counts; nothing where Caddy does not run
	failing []string           // what counts seconds
	started bool               // counters begin again
	loaded  bool               // a configuration was taken
	check   string             // what the check says
}

// on is a moment of the month, such as "2 09:00:00".
func on(moment string) time.Time {
	return testcaddy.Must(time.Parse("2006-01 2 15:04:05", "2026-06 "+moment))
}

const days = 30

// stamped is a line of Caddy's log, had it been written then.
func stamped(line string, then time.Time) string {
	return regexp.MustCompile(`"ts":[0-9.e+]+`).ReplaceAllString(line, `"ts":`+strconv.FormatInt(then.Unix(), 10))
}

// paces are units of traffic a minute, by the hour of the day.
var paces = [24]int{3, 2, 2, 2, 2, 3, 5, 8, 12, 15, 16, 17, 18, 17, 16, 16, 15, 15, 14, 13, 11, 9, 7, 5}

func liveThroughMonth(t *testing.T) *month {
	behind, profileAddr, addr := newContentServer(t), testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	m := &month{t: t, store: filepath.Join(t.TempDir(), "profile.db"), happened: map[string]float64{}}
	tokensBy := func(secret string) string {
		return "tokens jwt {\nsecret " + testcaddy.FromFile(secret) + "\nissuer metrics-gate\naudience " + testcaddy.ProfileAudience + "\n}"
	}
	serving := testcaddy.Site(profileAddr, profileServer("sqlite "+m.store, tokensBy("gate.secret"), tokensBy("second.secret")))
	profile := testcaddy.Start(t, serving)
	ready(t, profileAddr)

	// The site, in a mode, with a key to ask with, and sometimes with what somebody
	// wrote for beta testers, and no gate in it.
	site := func(mode, key string, directives ...string) string {
		proxy := testcaddy.ProxyTo(behind.addr())
		gate := "metrics_gate " + mode + " {\nroute POST /api/beacon\nsignal {\ngpc\n}\n" + testcaddy.SessionJWT() +
			"\nprofile http://" + profileAddr + "/v1 {\nauth mint {\nkey " + testcaddy.FromFile(key) + "\naudience " + testcaddy.ProfileAudience + "\n}\n" + patient + "\n}\n}"
		return testcaddy.Site(addr, append(append([]string{"metrics_gate_tripwire"}, directives...), "handle {", gate, proxy, "}")...)
	}
	beta := []string{"@beta header X-Beta 1", "handle @beta {", testcaddy.ProxyTo(behind.addr()), "}"}

	// tell keeps what is logged from a moment on.
	logged := 0
	tell := func(moment string) {
		for _, line := range m.edge.Log.All()[logged:] {
			logged++
			if strings.HasPrefix(line, "{") {
				m.log = append(m.log, stamped(line, on(moment)))
			}
		}
	}
	start := func(moment, site string) {
		logged = 0
		m.edge = testcaddy.Start(t, site)
		m.caddyfile = m.edge.Caddyfile(site)
		follows(t, m.edge, profileAddr)
		tell(moment)
	}
	reload := func(moment, site string) {
		if err := m.edge.Reload(site); err != nil {
			t.Fatal(err)
		}
		before := logged
		m.edge.Log.Wait(t, "the end of a reload", func(lines []string) bool {
			return slices.ContainsFunc(lines[before:], func(line string) bool { return strings.Contains(line, `"load complete"`) })
		})
		tell(moment)
	}

	session := func(uid string, claims ...map[string]any) string {
		return testcaddy.Cookie(testcaddy.Session(uid, claims...))
	}
	out, in, undecided := testcaddy.NewUID(t), testcaddy.NewUID(t), testcaddy.NewUID(t)
	choose(t, profileAddr, out, optOut)
	choose(t, profileAddr, in, allow)
	// A unit of traffic is 20 beacons: 3 of people who opted out, 5 of people who
	// allow, 4 of people who made no choice, 1 of an expired session, and 7 of people
	// who are signed out, of whom 2 object by GPC. Those who did not opt out can be
	// people whom the gate has not seen before.
	unit := func(known bool) map[string]float64 {
		others := []string{in, in, in, in, in, undecided, undecided, undecided, undecided}
		if !known {
			for i := range others {
				others[i] = testcaddy.NewUID(t)
			}
		}
		var all []string
		for _, uid := range append([]string{out, out, out}, others...) {
			all = append(all, session(uid))
		}
		all = append(all, session(in, testcaddy.Expired), "Sec-GPC: 1", "Sec-GPC: 1", "X-Nobody: 1", "X-Nobody: 1", "X-Nobody: 1", "X-Nobody: 1", "X-Nobody: 1")
		before := m.edge.Samples()
		counted := m.edge.Metric("requests_total")
		for _, header := range all {
			send(t, behind, addr, "POST /api/beacon", "{}", header, "Sec-Fetch-Site: same-origin")
		}
		testcaddy.Until(t, "all to be counted", func() bool { return m.edge.Metric("requests_total") == counted+float64(len(all)) })
		return grown(before, m.edge.Samples())
	}
	check := func(verdict string, allowed string, claims ...map[string]any) string {
		said, problems, _ := testcaddy.CommandWith(t, []string{
			"METRICS_GATE_OPTOUT_TOKEN=" + testcaddy.Session(out, claims...), "METRICS_GATE_ALLOW_TOKEN=" + testcaddy.Session(allowed, claims...),
		}, "metrics-gate", "check", "http://"+addr, "--address", m.edge.Admin, "--route", "POST /api/beacon", "--json")
		if !strings.Contains(said, `,"verdict":"`+verdict+`","site"`) {
			t.Fatalf("the check is not %s: %s%s", verdict, said, problems)
		}
		return strings.TrimSuffix(said, "\n")
	}
	begins := func(moment string, p phase) {
		p.from = on(moment)
		m.phases = append(m.phases, p)
	}
	stop := func(moment string) {
		m.edge.Stop()
		tell(moment)
		begins(moment, phase{})
	}

	start("1 09:00:00", site("shadow", "gate.secret"))
	m.present = byName(m.edge.Samples())
	maps.DeleteFunc(m.present, func(series string, _ float64) bool {
		return !strings.Contains(series, `{cache="tokens"`) && !strings.Contains(series, "_build_info{")
	})
	begins("1 09:00:00", phase{unit: unit(true), started: true, loaded: true, check: check("PASS", in)})

	reload("2 09:00:00", site("enforce", "gate.secret"))
	ordinary := phase{unit: unit(true), check: check("PASS", in)}
	withLoad := ordinary
	withLoad.loaded = true
	begins("2 09:00:00", withLoad)

	profile.Stop()
	down := phase{unit: unit(false), check: check("INCONCLUSIVE", testcaddy.NewUID(t))}
	testcaddy.Until(t, "it to be counted that nobody can be asked", func() bool {
		return m.edge.Metric("unable_to_ask_seconds_total", "cause", "profile") > 0
	})
	for series := range byName(m.edge.Samples()) {
		// The feed is there too. It takes the gate up to 45 s to try that.
		if strings.Contains(series, unableSeconds) && (strings.Contains(series, `"profile"`) || strings.Contains(series, `"feed"`)) {
			down.failing = append(down.failing, series)
		}
	}
	m.edge.Logged("the profile server fails")
	begins("5 14:05:00", down)
	tell("5 14:05:00")
	testcaddy.Start(t, serving)
	ready(t, profileAddr)
	testcaddy.Until(t, "the gate to see that it answers again", func() bool { // once it has for a while
		send(t, behind, addr, "POST /api/beacon", "{}", session(testcaddy.NewUID(t)))
		return len(m.edge.Log.Where(func(line string) bool { return strings.Contains(line, "the profile server answers again") })) > 0
	})
	begins("5 15:05:00", ordinary)
	tell("5 15:05:00")

	stop("9 03:00:05")
	start("9 03:01:30", site("enforce", "gate.secret"))
	withStart := withLoad
	withStart.started = true
	begins("9 03:01:30", withStart)

	reload("12 10:15:00", site("enforce", "gate.secret", beta...))
	begins("12 10:15:00", withLoad)
	m.leaks = []time.Time{on("12 10:21:40"), on("12 10:34:05"), on("12 10:58:30")}
	before := m.edge.Samples()
	for range m.leaks {
		send(t, behind, addr, "POST /api/beacon", "{}", "X-Beta: 1")
	}
	testcaddy.Until(t, "all to be counted", func() bool { return m.edge.Metric("tripwire_total") == float64(len(m.leaks)) })
	told := m.edge.Logged("a request that this gate would gate was decided by no gate")
	for _, leak := range m.leaks { // more than the ten minutes apart for which one line is enough
		m.log = append(m.log, stamped(told, leak))
	}
	logged = len(m.edge.Log.All())
	m.leak = grown(before, m.edge.Samples())
	for series := range m.leak {
		m.leak[series] /= float64(len(m.leaks))
	}
	reload("12 11:02:00", site("enforce", "gate.secret"))
	begins("12 11:02:00", withLoad)

	reload("18 09:30:00", site("enforce", "second.secret"))
	begins("18 09:30:00", withLoad)

	expired := ordinary
	expired.check = check("INCONCLUSIVE", in, testcaddy.Expired)
	begins("21 07:00:00", expired)
	begins("21 10:45:00", ordinary)

	stop("24 22:00:05")
	rotated := site("enforce", "second.secret")
	start("24 22:12:00", rotated)
	begins("24 22:12:00", withStart)

	// Caddy itself tells when it took a configuration.
	taken := m.lastLoad()
	if err := m.edge.Reload(rotated); err != nil {
		t.Fatal(err)
	}
	if now := m.lastLoad(); now <= taken {
		t.Errorf("%s was %v, and is %v after a reload", lastLoad, taken, now)
	}
	m.chooseAll()
	m.checkAll()
	return m
}

const (
	lastLoad      = "caddy_config_last_reload_success_timestamp_seconds"
	unableSeconds = "_unable_to_ask_seconds_total"
)

// lastLoad is when Caddy took its configuration.
func (m *month) lastLoad() float64 {
	for line := range strings.Lines(m.edge.AdminGet("/metrics")) {
		if value, found := strings.CutPrefix(line, lastLoad+" "); found {
			return testcaddy.Must(strconv.ParseFloat(strings.TrimSpace(value), 64))
		}
	}
	m.t.Fatalf("Caddy has no %s", lastLoad)
	return 0
}

// grown is by how much counters have grown between two scrapes. Seconds pass by
// themselves, and are none of it.
func grown(before, after []testcaddy.Sample) map[string]float64 {
	all := byName(after)
	for series, then := range byName(before) {
		all[series] -= then
	}
	maps.DeleteFunc(all, func(series string, more float64) bool {
		return more == 0 || !strings.Contains(series, "_total{") || strings.Contains(series, unableSeconds)
	})
	return all
}

// chooseAll has people opt out on every day, and the store remember how many.
func (m *month) chooseAll() {
	db := testcaddy.Must(sql.Open("sqlite", m.store))
	defer db.Close()
	for day := range days {
		// No API takes choices of another day.
		if _, err := db.Exec("INSERT INTO daily (day, users) VALUES (?, ?)", on("1 00:00:00").AddDate(0, 0, day).Format(time.DateOnly), 6+day*7%5); err != nil {
			m.t.Fatal(err)
		}
	}
}

// phaseAt is what goes on at a moment, or nil.
func (m *month) phaseAt(at time.Time) *phase {
	for i := range slices.Backward(m.phases) {
		if !at.Before(m.phases[i].from) {
			return &m.phases[i]
		}
	}
	return nil
}

// checkAll is what a timer has kept: a line an hour, at none of the same seconds,
// and after the hours in which there was no Caddy one as soon as there is.
func (m *month) checkAll() {
	for hour := 9; hour < days*24; hour++ {
		at := on("1 00:00:00").Add(time.Duration(hour)*time.Hour + time.Duration(hour*137%300)*time.Second)
		p := m.phaseAt(at)
		for ; p.unit == nil; p = m.phaseAt(at) {
			at = at.Add(30 * time.Second)
		}
		m.checks = append(m.checks, regexp.MustCompile(`"time":"[^"]*"`).ReplaceAllString(p.check, `"time":"`+at.Format(time.RFC3339)+`"`))
	}
}

// scrapes are the values that Prometheus has of each series, once a minute, and
// NaN where there is none.
func (m *month) scrapes() map[string][]float64 {
	const scrapedAt = 17 // seconds past the minute
	all := map[string][]float64{}
	put := func(series string, minute int, value float64) {
		if all[series] == nil {
			all[series] = slices.Repeat([]float64{math.NaN()}, days*24*60)
		}
		all[series][minute] = value
	}
	var failing []string // sometime
	for _, p := range m.phases {
		failing = append(failing, p.failing...)
	}
	counts, current, taken := map[string]float64{}, phase{}, time.Time{}
	// Whichever is tested, an upgrade is told.
	build, version := regexp.MustCompile(`revision="[^"]*",version="[^"]*"`), "v0.1.0"
	first, next := on("1 00:00:00").Unix(), 0
	for second := range days * 24 * 60 * 60 {
		if at := first + int64(second); next < len(m.phases) && m.phases[next].from.Unix() == at {
			current, next = m.phases[next], next+1
			if current.started {
				clear(counts)
				if next > 1 {
					version = "v0.1.1"
				}
				for _, series := range failing {
					counts[series] = 0
				}
			}
			for series := range current.unit {
				if isRequests(series) { // they are there before the first request
					counts[series] += 0
				}
			}
			if current.loaded {
				taken = current.from
			}
		}
		if pace := paces[second/3600%24]; second*pace%60 < pace {
			for series, n := range current.unit {
				counts[series] += n
				if isRequests(series) {
					m.happened[series] += n
				}
			}
			for series := range m.leak { // a tripwire counts from the first request
				counts[series] += 0
			}
		}
		for _, series := range current.failing {
			counts[series]++
		}
		for _, leak := range m.leaks {
			if leak.Unix() == first+int64(second) {
				for series, n := range m.leak {
					counts[series] += n
				}
			}
		}
		if second%60 != scrapedAt {
			continue
		}
		minute, up, profileUp := second/60, 0.0, 1.0
		if current.failing != nil {
			profileUp = 0
		}
		if current.unit != nil {
			up = 1
			for series, n := range counts {
				put(series, minute, n)
			}
			for series, n := range m.present {
				put(build.ReplaceAllString(series, `revision="",version="`+version+`"`), minute, n)
			}
			put(lastLoad+ofTarget("edge"), minute, float64(taken.Unix()))
		}
		put("up"+ofTarget("edge"), minute, up)
		put("up"+ofTarget("profile"), minute, profileUp)
	}
	return all
}

func ofTarget(instance string) string { return `{instance="` + instance + `",job="caddy"}` }

func isRequests(series string) bool {
	return strings.HasPrefix(series, "caddy_metrics_gate_requests_total{")
}

// inPrometheus has a Prometheus serve what it would have scraped, and what it would
// have recorded of that by our rules.
func (m *month) inPrometheus(dir string) prometheus {
	m.t.Helper()
	samples, all := filepath.Join(dir, "samples"), m.scrapes()
	file := testcaddy.Must(os.Create(samples))
	w := bufio.NewWriter(file)
	family := ""
	for _, series := range slices.Sorted(maps.Keys(all)) {
		name, _, _ := strings.Cut(series, "{")
		if name != family {
			family = name
			kind := "gauge"
			base, counts := strings.CutSuffix(name, "_total")
			if counts {
				kind = "counter"
			}
			_, _ = fmt.Fprintf(w, "# TYPE %s %s\n", base, kind)
		}
		for minute, value := range all[series] {
			if !math.IsNaN(value) {
				_, _ = fmt.Fprintf(w, "%s %s %d\n", series, strconv.FormatFloat(value, 'f', -1, 64), on("1 00:00:17").Unix()+int64(minute)*60)
			}
		}
	}
	_, _ = w.WriteString("# EOF\n")
	if err := cmp.Or(w.Flush(), file.Close()); err != nil {
		m.t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	blocks := func(args ...string) {
		command := exec.Command(testcaddy.Installed(m.t, "promtool"), append([]string{"tsdb", "create-blocks-from", "--quiet"}, args...)...)
		if said, err := command.CombinedOutput(); err != nil {
			m.t.Fatalf("%v: %s", err, said)
		}
	}
	blocks("--max-block-duration", "720h", "openmetrics", samples, data)
	nothing := map[string]any{}
	unrecorded, stop := runPrometheus(m.t, data, nothing)
	// As many points as Prometheus answers at once.
	blocks("--max-block-duration", "162h", "rules", "--url", "http://"+string(unrecorded), "--output-dir", data,
		"--start", on("1 00:00:00").Format(time.RFC3339), "--end", on("1 00:00:00").AddDate(0, 1, 0).Format(time.RFC3339), rulesFile)
	stop() // since it takes a while to see blocks that are new
	recorded, _ := runPrometheus(m.t, data, nothing)
	return recorded
}

// comparesWith holds what was recorded against what happened: what the page says of
// how far they are apart.
func (m *month) comparesWith(running prometheus) {
	m.t.Helper()
	const near = 0.005
	var found struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	running.ask(m.t, "query", url.Values{
		"query": {"sum by (mode, decision, reason) (sum_over_time(gate_mode_class_decision_reason:metrics_gate_requests:increase1h[30d]))"},
		"time":  {on("1 00:00:00").AddDate(0, 1, 0).Format(time.RFC3339)},
	}, &found)
	recorded := map[string]float64{}
	for _, one := range found.Result {
		recorded[fmt.Sprintf("decision=%q mode=%q reason=%q", one.Metric["decision"], one.Metric["mode"], one.Metric["reason"])] = testcaddy.Must(strconv.ParseFloat(one.Value[1].(string), 64))
	}
	label := regexp.MustCompile(`(?:decision|mode|reason)="[a-z_]+"`)
	happened := map[string]float64{}
	for series, n := range m.happened {
		happened[strings.Join(label.FindAllString(series, -1), " ")] += n
	}
	for what, n := range happened {
		if off := math.Abs(recorded[what]-n) / n; off > near {
			m.t.Errorf("%s happened %v times, and %v are recorded", what, n, recorded[what])
		}
	}
	if len(happened) < 8 {
		m.t.Errorf("only %v happened", happened)
	}
}
