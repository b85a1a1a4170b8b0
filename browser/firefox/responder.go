// Package firefox writes the browser's half of the handshake for a fleet of
// Firefox: AutoConfig files, which Firefox reads from beside its binary. Stock
// Firefox never answers the handshake.
//
// It is no extension and changes no preference: what the files add tells the
// origins that are named, and nobody else, whether the user of that Firefox
// switched telemetry off (docs/handshake-protocol.md). How the files come to the
// machines is up to whoever manages them. caddy metrics-gate firefox-responder
// calls it, and so can any program:
//
//	paths, err := firefox.Generate("responder", []string{"https://accounts.example.org"})
package firefox

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/metricsgate/metricsgate/browser"
)

var (
	//go:embed autoconfig.js
	autoconfig []byte
	//go:embed firefox.cfg.tmpl
	configuration string

	configurationTemplate = template.Must(template.New("firefox.cfg").Parse(configuration))
)

// Generate writes the files into a folder, as they have to lie beside the
// binary of Firefox, and returns their paths. Firefox then answers pages of
// these origins, which are compared whole (browser.ParseOrigin), and nobody
// else. A file that is there with another content is left alone and is an
// error: AutoConfig has one firefox.cfg, which may be somebody's own.
func Generate(folder string, origins []string) (paths []string, err error) {
	if len(origins) == 0 {
		return nil, errors.New("no origin is given; write --origin https://accounts.example.org")
	}
	var accepted []string
	for _, text := range origins {
		origin, err := browser.ParseOrigin(text)
		if err != nil {
			return nil, fmt.Errorf("--origin: %w", err)
		}
		if !slices.Contains(accepted, origin) {
			accepted = append(accepted, origin)
		}
	}
	list, _ := json.Marshal(accepted) // never fails for strings
	var config bytes.Buffer
	if err := configurationTemplate.Execute(&config, string(list)); err != nil {
		return nil, err
	}
	files := []struct {
		path string
		text []byte
	}{
		{filepath.Join(folder, "firefox.cfg"), config.Bytes()},
		{filepath.Join(folder, "defaults", "pref", "autoconfig.js"), autoconfig},
	}
	for _, file := range files { // before anything is written
		if err := mayWrite(file.path, file.text); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		if err := write(file.path, file.text); err != nil {
			return paths, err
		}
		paths = append(paths, file.path)
	}
	return paths, nil
}

// mayWrite refuses to replace a file that has another content.
func mayWrite(path string, text []byte) error {
	there, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !bytes.Equal(there, text):
		return fmt.Errorf("%s exists and has other content; move it away, or merge the two by hand", path)
	}
	return nil
}

// write makes a file that every user of the machine may read, since all of
// their browsers have to.
func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // read by every user's browser
		return err
	}
	return os.WriteFile(path, text, 0o644) //nolint:gosec // read by every user's browser
}
