package plot

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestSteps(t *testing.T) {
	t.Parallel()
	for greatest, want := range map[float64]float64{0: 1, .004: .001, .3: .1, 1: .2, 2: 1, 7: 2, 10: 2, 11: 5, 23: 10, 900: 200} {
		if got := roundStep(greatest); math.Abs(got-want) > 1e-12 {
			t.Errorf("up to %v by %v, want %v", greatest, got, want)
		}
	}
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	nothing := math.NaN()
	lines := []Series{{"<a>", []float64{1, nothing, 3}}, {"b", []float64{nothing, 2, 2}}}
	drawn := Dashboard{
		Title: "A & B", Long: 2 * time.Minute, Phases: []Phase{{0, "first"}, {time.Minute, "then"}},
		Panels: []Panel{
			{Title: "row", W: Columns, H: 1},
			{Title: "figures", Y: 1, W: 6, H: 4, Figures: []Figure{{"away", "2", "red"}}},
			{Title: "lines", X: 6, Y: 1, W: 9, H: 8, Lines: lines, Format: func(f float64) string { return fmt.Sprint(f, " s") }},
			{Title: "stacked", X: 15, Y: 1, W: 9, H: 8, Lines: lines, Stacked: true, Format: func(f float64) string { return fmt.Sprint(f, " a") }},
		},
	}.SVG()
	for decoder := xml.NewDecoder(strings.NewReader(drawn)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, drawn)
		}
	}
	for _, want := range []string{
		"A &amp; B", "&lt;a&gt;", `viewBox="0 0 1200 336"`, ">first<", ">then<", `style="fill: red">2<`, ">2 min<",
		">3 s<", // the greatest of the lines
		">5 a<", // the greatest sum
	} {
		if !strings.Contains(drawn, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if strings.Contains(drawn, "NaN") || strings.Contains(drawn, ">6 a<") {
		t.Errorf("drawn of what is not there:\n%s", drawn)
	}
	// A line breaks where nothing is, and begins again.
	for _, path := range strings.Split(drawn, "<path class=\"line\"")[1:] {
		points, _, _ := strings.Cut(path, "/>")
		if want := strings.Count(points, "M") + strings.Count(points, "L"); want != 2 {
			t.Errorf("%d points of two: %s", want, points)
		}
	}
}
