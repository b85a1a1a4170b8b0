// Package plot draws the plots of the documentation, as SVG.
package plot

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A Series is one colour of a plot. Where it has no value, it is NaN.
type Series struct {
	Name   string
	Values []float64
}

// The sizes of bars, in pixels.
const width, barHeight, textLeft, textRight, top = 760, 16, 190, 150, 64

// document is an SVG. Its colours are told apart on white and on black, and its
// text follows what the reader's system prefers.
func document(title string, width, height int, style, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%[3]s">
<style>
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold }
%s@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
</style>
<text class="title" x="8" y="22">%[3]s</text>
%[5]s</svg>
`, width, height, html.EscapeString(title), style, body)
}

func colour(i int) string {
	all := []string{"#8b949e", "#d97706", "#2f81f7", "#2da44e", "#bf4bc4", "#cf222e"}
	return all[i%len(all)]
}

// Bars is a group of horizontal bars for each label: the values of all series, in
// a format of package fmt.
func Bars(title, format string, labels []string, all ...Series) string {
	var b strings.Builder
	x, greatest := 8, 0.0
	for i, one := range all {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"36\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"47\">%s</text>\n", x, colour(i), x+17, html.EscapeString(one.Name))
		x += 34 + 8*len(one.Name)
		greatest = slices.Max(append(withoutNaN(one.Values), greatest))
	}
	y := top
	for i, label := range labels {
		fmt.Fprintf(&b, "<text x=\"8\" y=\"%d\">%s</text>\n", y+13, html.EscapeString(label))
		for s, one := range all {
			if math.IsNaN(one.Values[i]) {
				continue
			}
			long := one.Values[i] / greatest * (width - textLeft - textRight)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\">"+format+"</text>\n",
				textLeft, y, long, barHeight-2, colour(s), textLeft+long+6, y+12, one.Values[i])
			y += barHeight
		}
		y += barHeight
	}
	return document(title, width, y, "", b.String())
}

func withoutNaN(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}
