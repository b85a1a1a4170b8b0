// Package fxa has a stand-in for Firefox Accounts' auth server, in which npm's
// hawk verifies what a page hands over; see auth-server.js.
package fxa

import (
	"bufio"
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// AuthServer is one that runs.
type AuthServer struct {
	t testing.TB
	// URL is where it listens, with the public URL's path: what dial is for.
	URL string
	// origin is the same without the path.
	origin string
}

// StartAuthServer starts one that is known by a public URL such as
// https://auth.example.org/v1, until the test ends.
func StartAuthServer(t testing.TB, publicURL string) *AuthServer {
	t.Helper()
	_, file, _, _ := runtime.Caller(0) //nolint:dogsled // the place of this file is all that is wanted
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testcaddy.Installed(t, "node"), "auth-server.js", publicURL) //nolint:gosec // the test says which
	cmd.Dir = filepath.Dir(file)
	// It ends when its input does, also where the test is killed.
	input := testcaddy.Must(cmd.StdinPipe())
	output := testcaddy.Must(cmd.StdoutPipe())
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		stop()
		_ = cmd.Wait()
	})
	port, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		stop()
		_ = cmd.Wait()
		t.Fatalf("tests/fxa/auth-server.js did not start; tests/setup.sh installs what it needs: %s", problems.String())
	}
	origin := "http://127.0.0.1:" + strings.TrimSpace(port)
	_, path, _ := strings.Cut(strings.SplitN(publicURL, "://", 2)[1], "/")
	return &AuthServer{t: t, URL: strings.TrimSuffix(origin+"/"+path, "/"), origin: origin}
}

// SignIn makes a session token that of an account.
func (s *AuthServer) SignIn(token, uid string) {
	s.t.Helper()
	s.control(http.MethodPut, token+"/"+uid)
}

// Revoke ends a session, as signing out does, or a change of password.
func (s *AuthServer) Revoke(token string) {
	s.t.Helper()
	s.control(http.MethodDelete, token)
}

func (s *AuthServer) control(method, session string) {
	s.t.Helper()
	request := testcaddy.Must(http.NewRequestWithContext(context.Background(), method, s.origin+"/sessions/"+session, nil))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.t.Fatalf("%s of a session: %s", method, response.Status)
	}
}
