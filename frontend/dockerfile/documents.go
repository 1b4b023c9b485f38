package dockerfile

import (
	"bytes"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// minLong is from what size a here-document is kept from the parser, which takes five times as much memory for it, in bytes.
const minLong = 64 << 10

// A longDocument is such a here-document.
type longDocument struct {
	place     int // among all here-documents, from 1
	from, end int // in the text
	lines     int
}

// parse is parser.Parse for the text that was measured: the parser sees as many empty lines for a long here-document.
func (m *measure) parse(text []byte) (*parser.Result, error) {
	if len(m.long) == 0 {
		return parser.Parse(bytes.NewReader(text))
	}
	short := make([]byte, 0, len(text))
	done := 0
	for _, d := range m.long {
		short = append(short, text[done:d.from]...)
		short = append(short, bytes.Repeat([]byte{'\n'}, d.lines)...)
		done = d.end
	}
	short = append(short, text[done:]...)
	tree, err := parser.Parse(bytes.NewReader(short))
	if err != nil {
		return nil, err
	}
	long, place := m.long, 0
	for _, n := range tree.AST.Children {
		for i := range n.Heredocs {
			if place++; len(long) == 0 || long[0].place != place {
				continue
			}
			if h := &n.Heredocs[i]; len(h.Content) != long[0].lines || strings.Trim(h.Content, "\n") != "" {
				return parser.Parse(bytes.NewReader(text)) // it sees something else there
			}
			n.Heredocs[i].Content = string(text[long[0].from:long[0].end])
			long = long[1:]
		}
	}
	if len(long) > 0 {
		return parser.Parse(bytes.NewReader(text))
	}
	return tree, nil
}
