// Command load measures the gate under load beside bare Caddy, forward_auth
// and, where they are installed, nginx with Lua and HAProxy. It starts them all
// on loopback, looks whether each gate does its work, loads them in turn, and
// prints a table for each scenario. With -memory it measures instead what many
// cached users cost.
//
// BENCH_ROUNDS, BENCH_SECONDS and BENCH_USERS change how long and how much;
// docs/measurements.md says how it measures.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/metricsgate/metricsgate/internal/bench"
	"github.com/metricsgate/metricsgate/internal/bench/result"
	"github.com/metricsgate/metricsgate/internal/bench/stub"
)

func main() {
	serveStub()
	memory := flag.Bool("memory", false, "measure what many cached users cost")
	only := flag.String("only", "", "a regular expression for the names of the scenarios to run; default: all")
	out := flag.String("out", "", "where the results go, as JSON; default: nowhere")
	flag.Parse()
	pinSelf()
	// A collection in the load generator is latency that no contender has. They
	// keep the runtime's default, as they would anywhere.
	debug.SetGCPercent(400)
	r := &rig{
		pinned: os.Getenv("BENCH_PINNED") != "",
		rounds: int(number("BENCH_ROUNDS", 5)), seconds: time.Duration(number("BENCH_SECONDS", 3) * float64(time.Second)),
		warm: warmUsers, only: regexp.MustCompile(*only),
	}
	for field := range strings.SplitSeq(or(os.Getenv("BENCH_USERS"), "0,100000,1000000"), ",") {
		users, err := strconv.Atoi(field)
		exitOn(err)
		r.cached = append(r.cached, users)
	}
	measure, command := r.load, "make bench-load"
	if *memory {
		measure, command = r.memory, "make bench-memory"
	}
	for _, name := range []string{"BENCH_ROUNDS", "BENCH_SECONDS", "BENCH_USERS"} {
		if value := os.Getenv(name); value != "" {
			command = name + "=" + value + " " + command
		}
	}
	r.command = command
	file, err := r.with(measure)
	exitOn(err)
	print(file)
	if *out != "" {
		exitOn(file.Write(*out))
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func number(name string, otherwise float64) float64 {
	n, err := strconv.ParseFloat(or(os.Getenv(name), fmt.Sprint(otherwise)), 64)
	exitOn(err)
	return n
}

// serveStub has this program be one of the servers around the contenders, where
// that is asked for.
func serveStub() {
	if role := os.Getenv("BENCH_STUB"); role != "" {
		exitOn(http.ListenAndServe(os.Getenv("BENCH_ADDR"), stub.Handler(role, os.Getenv("BENCH_PROFILE"))))
	}
}

// pinSelf starts this program again on the core of the load generator, so that
// the proxies have theirs for themselves.
func pinSelf() {
	taskset, err := exec.LookPath("taskset")
	if err != nil || runtime.NumCPU() < 2 || os.Getenv("BENCH_PINNED") != "" {
		return
	}
	exitOn(syscall.Exec(taskset, append([]string{"taskset", "-c", loadCore}, os.Args...), append(os.Environ(), "BENCH_PINNED=1")))
}

// rig is everything that runs.
type rig struct {
	command           string // that made it run
	dir, conf         string
	upstream, profile string
	pinned            bool
	rounds            int
	seconds           time.Duration
	warm              int   // users whom every cache knows
	cached            []int // users in the caches whose memory is measured
	only              *regexp.Regexp
	contenders        []*contender
	processes         []*exec.Cmd
}

// with builds the binaries, starts the application and the profile server, and
// stops everything after the measurement or when it is interrupted.
func (r *rig) with(measure func(context.Context, *result.File) error) (*result.File, error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var err error
	if r.dir, err = os.MkdirTemp("", "metrics-gate-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.dir)
	r.conf = filepath.Join(r.dir, "conf")
	if err := os.CopyFS(r.dir, bench.Conf); err != nil {
		return nil, err
	}
	const module = "github.com/metricsgate/metricsgate/"
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(r.dir, "bin")+"/", module+"cmd/caddy", module+"internal/bench/cmd/bare")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building the binaries: %w", err)
	}
	defer r.stop()
	r.upstream, r.profile = freeAddr(), freeAddr()
	for role, addr := range map[string]string{"upstream": r.upstream, "profile": r.profile} {
		if err := r.startStub(nil, role, addr); err != nil {
			return nil, err
		}
	}
	file := &result.File{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: result.Machine(), Command: r.command,
		Rounds: r.rounds, Seconds: r.seconds.Seconds(),
	}
	return file, measure(ctx, file)
}

// load runs every scenario in every round, one contender after the other.
func (r *rig) load(ctx context.Context, file *result.File) error {
	var all []*scenario
	for _, s := range scenarios(r.warm) {
		if r.only.MatchString(s.Name) {
			all = append(all, s)
			file.Scenarios = append(file.Scenarios, &s.Scenario)
		}
	}
	if err := r.startContenders(file, all); err != nil {
		return err
	}
	for _, s := range all {
		if err := s.make(r); err != nil {
			return err
		}
		for _, name := range s.contenders {
			c := r.contender(name)
			if c == nil {
				continue // it is not installed
			}
			s.members = append(s.members, c)
			s.Rows = append(s.Rows, &result.Row{Contender: c.name, Bare: c.bare})
			if len(s.loads) > 0 {
				under := loadOf(c.addr, s.Connections, s.loads)
				under.once() // fills its caches
				s.kept = append(s.kept, under)
			}
		}
	}
	for round := range r.rounds {
		for _, s := range all {
			if s.fresh && round > 0 {
				if err := s.make(r); err != nil {
					return err
				}
			}
			for i, sample := range r.round(ctx, s, round) {
				s.Rows[i].Samples = append(s.Rows[i].Samples, sample)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s round %d of %d: %s\n", time.Now().Format(time.TimeOnly), round+1, r.rounds, s.Name)
		}
	}
	return nil
}

// startContenders starts those that take part and are installed, and holds
// that their gates work.
func (r *rig) startContenders(file *result.File, all []*scenario) error {
	everybody := contenders()
	wanted := map[string]bool{}
	for _, s := range all {
		for _, c := range everybody {
			if slices.Contains(s.contenders, c.name) {
				wanted[c.name], wanted[c.bare] = true, true
			}
		}
	}
	for _, c := range everybody {
		if !wanted[c.name] {
			continue
		}
		if !c.installed() {
			file.Missing = append(file.Missing, c.name)
			continue
		}
		if err := r.start(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.contenders = append(r.contenders, c)
		if c.check == nil {
			continue
		}
		if err := c.check(r, c); err != nil {
			return fmt.Errorf("%s is not a gate: %w", c.name, err)
		}
	}
	return nil
}

func (r *rig) contender(name string) *contender {
	for _, c := range r.contenders {
		if c.name == name {
			return c
		}
	}
	return nil
}

// delay has the application or the profile server take that long for an answer.
func delay(addr string, d time.Duration) {
	response, err := http.Post("http://"+addr+"/delay/"+strconv.FormatInt(d.Milliseconds(), 10), "", nil)
	if err != nil {
		panic(err)
	}
	_ = response.Body.Close()
}

// print writes the tables for a person.
func print(file *result.File) {
	fmt.Printf("%s, %s, %d rounds of %v s: medians (least–greatest)\n", file.Date, file.Machine, file.Rounds, file.Seconds)
	if len(file.Missing) > 0 {
		fmt.Printf("not installed here, so not measured: %s\n", strings.Join(file.Missing, ", "))
	}
	for _, s := range file.Scenarios {
		fmt.Printf("\n### %s (%s, %d connections): %s\n\n%s", s.Name, s.Mode, s.Connections, s.About, s.Markdown())
	}
}
