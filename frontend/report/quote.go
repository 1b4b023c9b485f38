package report

import (
	"bytes"
	"fmt"
	"strings"
)

// How much Quote prints at most: lines, and bytes.
const (
	maxLines = 1000
	maxQuote = 256 << 10
)

// Quote prints the lines of text that ranges name, marked, as BuildKit prints them: one line with two around it, several
// with one. It is empty if there are no such lines, and ends early if they are very many.
func Quote(file string, text []byte, ranges []Range) string {
	if len(ranges) == 0 {
		return ""
	}
	first, last := ranges[0].Start.Line, 0
	for _, r := range ranges {
		first, last = min(first, r.Start.Line), max(last, r.Start.Line, r.End.Line)
	}
	around := 1
	if first == last {
		around = 2
	}
	if first < 1 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", file, first)
	n, shown := 0, 0
	for rest, more := text, true; more && n < last+around; {
		var line []byte
		line, rest, more = bytes.Cut(rest, []byte{'\n'})
		if n++; n < first-around {
			continue
		}
		if b.Len()+len(line) > maxQuote || shown == maxLines {
			fmt.Fprintf(&b, " ... | up to line %d\n", last)
			break
		}
		shown++
		mark := "   "
		for _, r := range ranges {
			if n >= r.Start.Line && n <= max(r.End.Line, r.Start.Line) {
				mark = ">>>"
			}
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, bytes.TrimSuffix(line, []byte{'\r'}))
	}
	if n < first {
		return ""
	}
	b.WriteString("--------------------\n")
	return b.String()
}
