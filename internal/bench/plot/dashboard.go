package plot

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// A Dashboard is panels that show the same time.
type Dashboard struct {
	Title  string
	Long   time.Duration // from the first values of all series to their last ones
	Phases []Phase       // told below the title
	Panels []Panel
}

// A Phase is from when on something is the case.
type Phase struct {
	Begins time.Duration // after the first values
	Name   string
}

// A Panel is one rectangle of a dashboard: figures, lines, or nothing but a title.
type Panel struct {
	Title      string
	X, Y, W, H int // of a grid that is Columns wide
	Figures    []Figure
	Lines      []Series
	Stacked    bool
	Format     func(float64) string // of the values of lines
}

// A Figure is a value, large.
type Figure struct{ Name, Text, Colour string } // Colour may be none

// Columns is how many columns a dashboard has.
const Columns = 24

// The sizes of a dashboard, in pixels.
const (
	column, row, gap, header  = 50, 30, 4, 66
	axisLeft, axisBelow       = 58, 16
	legendLine, legendPadding = 15, 8
	letter                    = 5.9 // how wide one of 11 pixels is
)

// palette is the colours of a dashboard's lines, told apart on white and on black.
var palette = []string{"#2f81f7", "#2da44e", "#d97706", "#bf4bc4", "#0e9aa7", "#8b949e", "#7c5cff", "#c9a227", "#e0609a", "#5e8c31", "#a0522d", "#cf222e"}

const dashboardStyle = `.small { font-size: 11px } .panel { font-size: 12px; font-weight: bold } .figure { font-size: 22px; font-weight: bold }
.card { fill: none; stroke: #8b949e; stroke-opacity: .4 } .grid { stroke: #8b949e; stroke-opacity: .25 }
.phase { stroke: #8b949e; stroke-dasharray: 3 3 } .line { fill: none; stroke-width: 1.4; stroke-linejoin: round }
`

// SVG draws the dashboard.
func (d Dashboard) SVG() string {
	var b strings.Builder
	height := 0
	for i, phase := range d.Phases {
		ends := d.Long
		if i+1 < len(d.Phases) {
			ends = d.Phases[i+1].Begins
		}
		x := func(at time.Duration) float64 { return gap + share(at, d.Long)*(Columns*column-2*gap) }
		fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"36\" width=\"%.1f\" height=\"20\" rx=\"3\" fill=\"%s\" fill-opacity=\".25\"/>%s",
			x(phase.Begins)+1, x(ends)-x(phase.Begins)-2, palette[i%len(palette)], words("small", (x(phase.Begins)+x(ends))/2, 50, "middle", phase.Name))
	}
	for _, panel := range d.Panels {
		height = max(height, header+(panel.Y+panel.H)*row)
		d.draw(&b, panel)
	}
	return document(d.Title, Columns*column, height, dashboardStyle, b.String())
}

func share(part, whole time.Duration) float64 { return float64(part) / float64(whole) }

func words(class string, x, y float64, anchor, text string) string {
	return fmt.Sprintf("<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", class, x, y, anchor, html.EscapeString(text))
}

func (d Dashboard) draw(b *strings.Builder, p Panel) {
	left, above := float64(p.X*column+gap), float64(header+p.Y*row+gap)
	right, below := float64((p.X+p.W)*column-gap), float64(header+(p.Y+p.H)*row-gap)
	b.WriteString(words("panel", left+8, above+17, "start", p.Title))
	if p.Figures == nil && p.Lines == nil {
		return
	}
	fmt.Fprintf(b, "<rect class=\"card\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"4\"/>\n", left, above, right-left, below-above)
	for i, figure := range p.Figures {
		middle := left + (right-left)*(float64(i)+.5)/float64(len(p.Figures))
		style := ""
		if figure.Colour != "" {
			style = ` style="fill: ` + figure.Colour + `"`
		}
		fmt.Fprintf(b, "<text class=\"figure\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"%s>%s</text>\n",
			middle, (above+below)/2+16, style, html.EscapeString(figure.Text))
		b.WriteString(words("small", middle, below-12, "middle", figure.Name))
	}
	if p.Lines != nil {
		d.plot(b, p, left+axisLeft, right-12, above+30, below-legend(b, p.Lines, left+12, right, below)-axisBelow)
	}
}

// legend names the lines above below, and returns how high that is.
func legend(b *strings.Builder, lines []Series, left, right, below float64) float64 {
	type place struct {
		x    float64
		line int
	}
	places, x, line := make([]place, len(lines)), left, 0
	for i, one := range lines {
		long := 30 + letter*float64(len([]rune(one.Name)))
		if x+long > right && x > left {
			x, line = left, line+1
		}
		places[i] = place{x, line}
		x += long
	}
	for i, one := range lines {
		y := below - legendPadding - float64(legendLine*(line-places[i].line))
		fmt.Fprintf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"4\" rx=\"2\" fill=\"%s\"/>%s",
			places[i].x, y-6, palette[i%len(palette)], words("small", places[i].x+14, y, "start", one.Name))
	}
	return float64(legendLine*(line+1)) + legendPadding
}

// plot draws the lines, and the axes that they need.
func (d Dashboard) plot(b *strings.Builder, p Panel, left, right, above, below float64) {
	lines := p.Lines
	if p.Stacked {
		lines = stacked(p.Lines)
	}
	greatest := 0.0
	for _, one := range lines {
		for _, value := range withoutNaN(one.Values) {
			greatest = max(greatest, value)
		}
	}
	step := roundStep(greatest)
	upper := step * math.Ceil(greatest/step-1e-9)
	y := func(value float64) float64 { return below - (below-above)*value/upper }
	for value := 0.0; value <= upper+step/2; value += step {
		fmt.Fprintf(b, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>%s", left, y(value), right, words("small", left-6, y(value)+4, "end", p.Format(value)))
	}
	at := func(when time.Duration) float64 { return left + (right-left)*share(when, d.Long) }
	for when := time.Duration(0); when <= d.Long; when += time.Minute {
		b.WriteString(words("small", at(when), below+13, "middle", fmt.Sprintf("%.0f min", when.Minutes())))
	}
	for _, phase := range d.Phases {
		fmt.Fprintf(b, "<path class=\"phase\" d=\"M%.1f %.1fV%.1f\"/>\n", at(phase.Begins), above, below)
	}
	for i, one := range slices.Backward(lines) {
		values, ink := one.Values, palette[i%len(palette)]
		x := func(n int) float64 { return left + (right-left)*float64(n)/float64(len(values)-1) }
		if p.Stacked {
			var area strings.Builder
			fmt.Fprintf(&area, "M%.1f %.1f", left, y(0))
			for n, value := range values {
				fmt.Fprintf(&area, "L%.1f %.1f", x(n), y(value))
			}
			fmt.Fprintf(b, "<path d=\"%sV%.1fZ\" fill=\"%s\"/>\n", area.String(), y(0), ink)
			continue
		}
		fmt.Fprintf(b, "<path class=\"line\" stroke=\"%s\" d=\"", ink)
		for n, value := range values {
			if math.IsNaN(value) {
				continue
			}
			command := "L"
			if n == 0 || math.IsNaN(values[n-1]) {
				command = "M"
			}
			fmt.Fprintf(b, "%s%.1f %.1f", command, x(n), y(value))
		}
		b.WriteString("\"/>\n")
	}
}

// stacked is each series on top of those before it. Nothing is drawn of what is
// NaN.
func stacked(lines []Series) []Series {
	all := make([]Series, len(lines))
	for i, one := range lines {
		all[i] = Series{one.Name, make([]float64, len(one.Values))}
		for n, value := range one.Values {
			if !math.IsNaN(value) {
				all[i].Values[n] = value
			}
			if i > 0 {
				all[i].Values[n] += all[i-1].Values[n]
			}
		}
	}
	return all
}

// roundStep is 1, 2 or 5 times a power of ten, of which a greatest value holds
// between two and five.
func roundStep(greatest float64) float64 {
	if greatest <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(greatest/2)))
	for _, times := range []float64{1, 2} {
		if greatest/(times*power) <= 5 {
			return times * power
		}
	}
	return 5 * power
}
