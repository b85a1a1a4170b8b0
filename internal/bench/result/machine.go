package result

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine names what the figures come from.
func Machine() string {
	model, cores := "unknown processor", 0
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		switch key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "processor":
			cores++ // runtime.NumCPU counts those that this process may use
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s, %s", model, cores, runtime.GOOS, runtime.GOARCH, runtime.Version())
}
