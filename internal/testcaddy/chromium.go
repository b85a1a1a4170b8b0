package testcaddy

import (
	"context"
	"os/exec"
	"testing"

	"github.com/chromedp/chromedp"
)

// Chromium starts a real Chromium of its own and returns the context of its
// tab, for chromedp. Where there is none, make test has said how to get one;
// in CI that is a failure.
func Chromium(t testing.TB, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(Installed(t, "chromium")),
		chromedp.NoSandbox, // which does not start for root
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), append(options, more...)...)
	t.Cleanup(stop)
	// Chromium's own folder is chromedp's: processes of Chromium that outlive
	// it for a moment still write there, which fails a t.TempDir.
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	return ctx
}

// Installed is the path of a program that tests/setup.sh installs.
func Installed(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("there is no %s in the PATH; run tests/setup.sh, or make test, which does", program)
	}
	return path
}
