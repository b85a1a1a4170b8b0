package browser_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// Chromium is a real one, driven by chromedp.
type chromium struct {
	t      testing.TB
	ctx    context.Context
	output testcaddy.Ledger[string]

	scriptless bool
}

func newChromium(t testing.TB, more ...chromedp.ExecAllocatorOption) *chromium {
	t.Helper()
	return listen(t, testcaddy.Chromium(t, more...))
}

// tab opens another one, for a test that runs beside others.
func (c *chromium) tab(t testing.TB) *chromium {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(c.ctx)
	t.Cleanup(closeTab)
	return listen(t, ctx)
}

// listen keeps what the pages of a tab say.
func listen(t testing.TB, ctx context.Context) *chromium { //nolint:revive // every helper here has t first
	t.Helper()
	c := &chromium{t: t, ctx: ctx}
	chromedp.ListenTarget(c.ctx, func(event any) {
		switch event := event.(type) {
		case *runtime.EventConsoleAPICalled:
			c.output.Add("console." + string(event.Type) + " " + asJSON(event.Args))
		case *runtime.EventExceptionThrown:
			c.output.Add(event.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			c.output.Add(event.Entry.URL + ": " + event.Entry.Text)
		}
	})
	// The first action starts what it needs, for as long as its own context lives.
	if err := chromedp.Run(c.ctx, log.Enable()); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// within bounds each action by itself: a tab can wait long for its turn among
// tests that run side by side.
func (c *chromium) within(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(c.ctx, 3*testcaddy.Patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

func (c *chromium) run(actions ...chromedp.Action) {
	c.t.Helper()
	if err := c.within(actions...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chromium) navigate(url string) {
	c.t.Helper()
	c.run(chromedp.Navigate(url))
}

func (c *chromium) eval(into any, expression string) {
	c.t.Helper()
	if err := c.within(chromedp.Evaluate("("+expression+")", into, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true)
	})); err != nil && !errors.Is(err, chromedp.ErrJSUndefined) && !errors.Is(err, chromedp.ErrJSNull) {
		c.t.Fatalf("%s: %v", expression, err)
	}
}

func (c *chromium) wait(what, expression string) {
	c.t.Helper()
	testcaddy.Until(c.t, what, func() bool {
		var held bool
		if c.scriptless { // and so without timers
			err := c.within(chromedp.Evaluate(expression, &held))
			return err == nil && held
		}
		err := c.within(chromedp.Evaluate(`new Promise((done) => {
			const end = Date.now() + 2000;
			(function look() {
				if (`+expression+`) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 20);
			})();
		})`, &held, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
		return err == nil && held
	})
}

var chromiumKeys = map[string]string{"Tab": kb.Tab, "Enter": kb.Enter, "Space": " ", "ArrowDown": kb.ArrowDown, "ArrowUp": kb.ArrowUp}

func (c *chromium) press(keys ...string) {
	c.t.Helper()
	for _, key := range keys {
		c.run(chromedp.KeyEvent(chromiumKeys[key]))
	}
}

func (c *chromium) cookie(name string) (value string) {
	c.t.Helper()
	c.run(chromedp.ActionFunc(func(ctx context.Context) error {
		all, err := network.GetCookies().Do(ctx)
		for _, cookie := range all {
			if cookie.Name == name {
				value = cookie.Value
			}
		}
		return err
	}))
	return value
}

func (c *chromium) forget() {
	c.t.Helper()
	c.run(network.ClearBrowserCookies())
}

func (c *chromium) console(string) []string {
	// The browser asks for an icon by itself.
	return c.output.Where(func(line string) bool { return !strings.Contains(line, "/favicon.ico") })
}

func (c *chromium) screenshot() (png []byte) {
	c.t.Helper()
	c.run(chromedp.FullScreenshot(&png, 100))
	return png
}

func (c *chromium) resize(width, height int) {
	c.t.Helper()
	c.run(chromedp.EmulateViewport(int64(width), int64(height)))
}

// withoutScripts turns off what pages bring of JavaScript.
func (c *chromium) withoutScripts() {
	c.t.Helper()
	c.scriptless = true
	c.run(emulation.SetScriptExecutionDisabled(true))
}
