package firefox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/metricsgate/metricsgate/browser/firefox"
)

// The files are copied to where the binary of Firefox is.
func ExampleGenerate() {
	folder, err := os.MkdirTemp("", "responder")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)

	paths, err := firefox.Generate(folder, []string{"https://accounts.example.org"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range paths {
		name, _ := filepath.Rel(folder, path)
		fmt.Println(filepath.ToSlash(name))
	}
	config, _ := os.ReadFile(paths[0])
	for line := range strings.Lines(string(config)) {
		if strings.Contains(line, "accounts.example.org") {
			fmt.Print(strings.TrimSpace(line))
		}
	}
	// Output:
	// firefox.cfg
	// defaults/pref/autoconfig.js
	// const origins = ["https://accounts.example.org"];
}
