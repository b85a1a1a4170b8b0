package command

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/metricsgate/metricsgate/profileserver/prefstore"
)

// untilInterrupted is a command's context, which ends with Ctrl-C, so that the
// command can say how far it came. Pressed once more, Ctrl-C ends the process.
func untilInterrupted(cmd *cobra.Command) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// How often it is said how far a command is: on a terminal in one line that
// changes, elsewhere in lines of their own.
const (
	redrawPause = 200 * time.Millisecond
	linePause   = 2 * time.Second
)

// progress tells whoever waits for a command how far it is.
type progress struct {
	w           io.Writer
	of          string // what is counted, such as rows
	terminal    bool
	began, said time.Time // when it began, and said something last
}

func newProgress(w io.Writer, of string) *progress {
	file, ok := w.(*os.File)
	now := time.Now()
	return &progress{w: w, of: of, terminal: ok && term.IsTerminal(int(file.Fd())), began: now, said: now}
}

// show says what is done, at what rate, and, where the share that is done is known,
// how long the rest will take.
func (p *progress) show(done string, n int64, share float64) {
	now, pause := time.Now(), linePause
	if p.terminal {
		pause = redrawPause
	}
	if now.Sub(p.said) < pause {
		return
	}
	p.said = now
	took := now.Sub(p.began)
	text := fmt.Sprintf("%s, %.0f %s/s", done, rate(n, took), p.of)
	if share > 0 {
		left := time.Duration(float64(took) * max(0, 1/share-1))
		text = fmt.Sprintf("%3.0f %%: %s, %s left", 100*min(share, 1), text, left.Round(time.Second))
	}
	if p.terminal {
		_, _ = fmt.Fprintf(p.w, "\r%s\x1b[K", text) // over what stood there
	} else {
		_, _ = fmt.Fprintln(p.w, text)
	}
}

// clear takes away the line that changes.
func (p *progress) clear() {
	if p.terminal {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// end says what was done in all.
func (p *progress) end(done string, n int64) {
	p.clear()
	_, _ = fmt.Fprintf(p.w, "%s, %.0f %s/s\n", done, rate(n, time.Since(p.began)), p.of)
}

func rate(n int64, took time.Duration) float64 {
	return float64(n) / max(took.Seconds(), 1e-3)
}

// share is how much of all is done, or 0 where it is not known.
func share(done, all int64) float64 {
	if all == 0 {
		return 0
	}
	return float64(done) / float64(all)
}

// counting calls progress with the number of rows that came.
func counting(ctx context.Context, rows iter.Seq2[prefstore.Row, error], progress func(int64)) iter.Seq2[prefstore.Row, error] {
	return func(yield func(prefstore.Row, error) bool) {
		n := int64(0)
		for row, err := range rows {
			if err == nil {
				err = ctx.Err()
			}
			if !yield(row, err) || err != nil {
				return
			}
			n++
			progress(n)
		}
	}
}

// meter reads a file, and knows how much of it was read.
type meter struct {
	*io.PipeReader
	read, size int64 // in bytes; the size is 0 of what is no file
}

// newMeter has reading end with ctx, also where nothing comes: what comes through
// a pipe cannot be waited for otherwise.
func newMeter(ctx context.Context, in io.Reader) *meter {
	read, written := io.Pipe()
	m := &meter{PipeReader: read}
	if file, ok := in.(fs.File); ok {
		if about, err := file.Stat(); err == nil && about.Mode().IsRegular() {
			m.size = about.Size()
		}
	}
	go func() {
		_, err := io.Copy(written, in)
		_ = written.CloseWithError(err) // nil is the end
	}()
	context.AfterFunc(ctx, func() { _ = written.CloseWithError(ctx.Err()) })
	return m
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.PipeReader.Read(b)
	m.read += int64(n)
	return n, err
}

func (m *meter) share() float64 { return share(m.read, m.size) }
