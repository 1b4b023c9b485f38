package report

import (
	"fmt"
	"strings"
)

// Quote prints the lines of text that ranges name, marked, as BuildKit prints them: one line with two around it, several
// with one. It is empty if there are no such lines.
func Quote(file string, text []byte, ranges []Range) string {
	if len(ranges) == 0 {
		return ""
	}
	lines := strings.Split(string(text), "\n")
	first, last := ranges[0].Start.Line, 0
	for _, r := range ranges {
		first, last = min(first, r.Start.Line), max(last, r.Start.Line, r.End.Line)
	}
	if first < 1 || first > len(lines) {
		return ""
	}
	last = min(last, len(lines))
	around := 1
	if first == last {
		around = 2
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", file, first)
	for n := max(first-around, 1); n <= min(last+around, len(lines)); n++ {
		mark := "   "
		for _, r := range ranges {
			if n >= r.Start.Line && n <= max(r.End.Line, r.Start.Line) {
				mark = ">>>"
			}
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, strings.TrimSuffix(lines[n-1], "\r"))
	}
	b.WriteString("--------------------\n")
	return b.String()
}
