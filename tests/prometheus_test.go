package tests

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// A prometheus is the address of a real one that runs.
type prometheus string

// runPrometheus has one run until the test ends, or until it is stopped, with its
// data in a folder. What is there already it keeps, however old that is.
func runPrometheus(t *testing.T, data string, config map[string]any) (running prometheus, stop func()) {
	t.Helper()
	address, file := testcaddy.FreeAddr(t), filepath.Join(t.TempDir(), "prometheus.yml")
	// JSON is YAML as well.
	content, err := json.Marshal(config)
	if err := cmp.Or(err, os.WriteFile(file, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	command := exec.Command(testcaddy.Installed(t, "prometheus"), "--config.file", file, "--storage.tsdb.path", data,
		"--storage.tsdb.retention.time", "100y", "--web.listen-address", address, "--log.level", "warn")
	command.Stderr = &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			t.Errorf("Prometheus: %v, %s", err, &said)
		}
	})
	t.Cleanup(stop)
	testcaddy.Until(t, "Prometheus", func() bool {
		response, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return prometheus(address), stop
}

// ask is Prometheus' HTTP API.
func (p prometheus) ask(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	response, err := http.Get("http://" + string(p) + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%v: %s, %s %v", query, response.Status, answer.Error, err)
	}
}
