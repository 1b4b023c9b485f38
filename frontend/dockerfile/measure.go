package dockerfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// What parts of a Dockerfile take in memory while it is parsed and translated, in bytes, as measured.
const (
	sizeByte        = 8    // a byte of text, which is copied a few times
	sizeLight       = 4    // a byte of a comment, or of a long here-document that nothing is expanded in, which the parser does not see
	sizeComment     = 48   // a line of comment, which may be about what follows
	sizeWord        = 640  // a word of an instruction, of which the parser makes a node
	sizeInstruction = 1000 // an instruction
	sizeExpanded    = 48   // a word in a here-document that variables may be in
)

// maxLine is how long a line may be, in bytes. That is the parser's limit, which does not see long here-documents and calls
// others unterminated.
const maxLine = bufio.MaxScanTokenSize - 1

// largeSize is from what size on the memory is collected before and after parsing, which takes some milliseconds.
const largeSize = 8 << 20

var (
	errTooLarge = fmt.Errorf("the Dockerfile is larger than the %d bytes that are allowed", maxText)
	errTooDense = fmt.Errorf("the Dockerfile is larger than the %d bytes that are allowed besides comments and long here-documents", maxDense)
)

// A measure is what there is in a Dockerfile, found without keeping any of it. It tells apart what the parser does: a
// here-document is content, of which words and comments are none.
type measure struct {
	total      int    // bytes of the text
	rest       []byte // of it
	line       int    // the number of the line that was taken last
	directives parser.DirectiveParser
	escape     byte

	instructions, comments, words int
	content                       int // bytes of here-documents
	light                         int // bytes of comments, and of long here-documents that nothing is expanded in
	expanded                      int // words in here-documents that variables may be in
	documentsSeen                 int
	long                          []longDocument
	inWord                        bool
	depth                         int // how many "${" are open in the instruction
}

// measureText refuses a Dockerfile that parsing alone would need too much memory for.
func measureText(text []byte) (*measure, error) {
	if len(text) == 0 {
		return nil, errors.New("the Dockerfile cannot be empty")
	}
	if len(text) > maxText {
		return nil, errTooLarge
	}
	m := &measure{total: len(text), rest: text, escape: parser.DefaultEscapeToken}
	if err := m.all(); err != nil {
		return nil, err
	}
	if m.instructions > maxSteps {
		return nil, fmt.Errorf("the Dockerfile has more than %d instructions", maxSteps)
	}
	m.rest = nil // what the parser may stop before counts as well
	switch {
	case m.dense() > maxDense:
		return nil, errTooDense
	case m.size() > maxParsed:
		return nil, fmt.Errorf("the Dockerfile is too large: it has %d bytes of comments and long here-documents, %d words in instructions, "+
			"%d in other here-documents and %d lines of comment", m.light, m.words, m.expanded, m.comments)
	}
	return m, nil
}

// dense is how many bytes have been gone through that are not light.
func (m *measure) dense() int { return m.total - len(m.rest) - m.light }

// size is how much memory what has been gone through takes.
func (m *measure) size() int {
	return sizeByte*m.dense() + sizeLight*m.light +
		sizeComment*m.comments + sizeWord*m.words + sizeInstruction*m.instructions + sizeExpanded*m.expanded
}

// over says that there is too much already.
func (m *measure) over() bool {
	return m.instructions > maxSteps || m.dense() > maxDense || m.size() > maxParsed
}

// all goes through the text, up to where there is too much of it or the parser will find an error.
func (m *measure) all() error {
	for len(m.rest) > 0 && !m.over() {
		line := m.next()
		whole := len(line)
		if m.line == 1 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		line = bytes.TrimLeftFunc(bytes.TrimRight(line, "\r\n"), unicode.IsSpace)
		d, err := m.directives.ParseLine(line)
		if err != nil {
			return nil //nolint:nilerr // the parser says it better
		}
		if d != nil && d.Name == "escape" && d.Value != "" {
			m.escape = d.Value[0]
		}
		switch {
		case len(line) == 0:
		case line[0] == '#':
			m.comments++
			m.light += whole
		default:
			if err := m.instruction(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// next takes a line, with its end.
func (m *measure) next() []byte {
	n := bytes.IndexByte(m.rest, '\n') + 1
	if n == 0 {
		n = len(m.rest)
	}
	line := m.rest[:n]
	m.rest, m.line = m.rest[n:], m.line+1
	return line
}

// instruction takes what begins with line: the lines that it goes on with, and its here-documents.
func (m *measure) instruction(line []byte) error {
	m.instructions++
	m.depth, m.inWord = 0, false
	first, more := line, m.rest
	angle := false
	for {
		part, goesOn := m.trim(line)
		if err := m.count(part); err != nil {
			return err
		}
		angle = angle || bytes.IndexByte(part, '<') >= 0
		if line = nil; !goesOn {
			break
		}
		for len(line) == 0 && len(m.rest) > 0 {
			line = m.part()
		}
		if len(line) == 0 {
			break
		}
	}
	if !angle || m.over() {
		return nil
	}
	return m.documents(m.joined(first, more[:len(more)-len(m.rest)]))
}

// part takes a line that an instruction goes on with; it is empty if the parser leaves that out.
func (m *measure) part() []byte {
	whole := m.next()
	line := bytes.TrimRight(whole, "\r\n")
	if t := bytes.TrimLeftFunc(line, unicode.IsSpace); len(t) == 0 {
		return nil
	} else if t[0] == '#' {
		m.light += len(whole)
		return nil
	}
	return line
}

// trim returns a line without the escape character that says that it goes on.
func (m *measure) trim(line []byte) (part []byte, goesOn bool) {
	t := bytes.TrimRight(line, " \t")
	n := len(t)
	if n == 0 || t[n-1] != m.escape || n > 1 && t[n-2] == m.escape {
		return line, false
	}
	return t[:n-1], true
}

// joined returns an instruction as one line.
func (m *measure) joined(first, more []byte) string {
	var out strings.Builder
	part, _ := m.trim(first)
	out.Write(part)
	for sub := (&measure{rest: more, escape: m.escape}); len(sub.rest) > 0; {
		part, _ := m.trim(sub.part())
		out.Write(part)
	}
	return out.String()
}

// documents takes the here-documents of an instruction. What is none, and whether an instruction can have any, the parser
// says.
func (m *measure) documents(line string) error {
	if !strings.Contains(line, "<<") {
		return nil
	}
	text := line
	if m.escape != parser.DefaultEscapeToken {
		text = "# escape=" + string(m.escape) + "\n" + line
	}
	if _, err := parser.Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "unterminated heredoc") {
		return nil //nolint:nilerr // the parser will find it again
	}
	lex := shell.NewLex(parser.DefaultEscapeToken)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	words, err := lex.ProcessWords(line, noEnv{})
	if err != nil {
		return nil //nolint:nilerr // the parser takes no notice of it
	}
	for _, w := range words {
		doc, err := parser.ParseHeredoc(w)
		if err != nil {
			return nil //nolint:nilerr // the parser will find it again
		}
		if doc == nil {
			continue
		}
		if err := m.document(doc); err != nil {
			return err
		}
	}
	return nil
}

// document takes one here-document.
func (m *measure) document(doc *parser.Heredoc) error {
	m.depth, m.inWord = 0, false
	m.documentsSeen++
	all, rest, before := m.rest, len(m.rest), m.line
	for len(m.rest) > 0 {
		content := rest - len(m.rest)
		line := m.next()
		if len(bytes.TrimSuffix(line, []byte{'\n'})) > maxLine {
			return atLine(fmt.Errorf("dockerfile line greater than max allowed size of %d", maxLine), m.line)
		}
		end := bytes.TrimRight(line, "\r\n")
		if doc.Chomp {
			end = bytes.TrimLeft(end, "\t")
		}
		if string(end) == doc.Name {
			if from := m.total - rest; content >= minLong && doc.Name != "" {
				m.long = append(m.long, longDocument{m.documentsSeen, from, from + content, m.line - 1 - before})
				if text := all[:content]; !doc.Expand || !bytes.ContainsAny(text, "$\\`") {
					m.light += content
					if doc.Chomp {
						m.light -= content / 2 // what is left of the lines is a copy of its own
					}
				}
			}
			return nil
		}
		m.content += len(line)
		if doc.Expand {
			m.expanded += m.split(line)
			if err := m.nest(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// count counts the words of a part of an instruction; in JSON they have commas between them.
func (m *measure) count(part []byte) error {
	m.words += m.split(part) + bytes.Count(part, []byte{','})
	return m.nest(part)
}

// split returns how many words begin in a part of a text.
func (m *measure) split(part []byte) (n int) {
	for _, c := range part {
		space := c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'
		if !space && !m.inWord {
			n++
		}
		m.inWord = !space
	}
	return n
}

// nest follows the variables inside one another.
func (m *measure) nest(text []byte) error {
	for i, c := range text {
		switch {
		case c == '{' && i > 0 && text[i-1] == '$':
			if m.depth++; m.depth > maxNested {
				return atLine(fmt.Errorf("variables are nested more than %d deep", maxNested), m.line)
			}
		case c == '}' && m.depth > 0:
			m.depth--
		}
	}
	return nil
}

// noEnv has no variables.
type noEnv struct{}

func (noEnv) Get(string) (string, bool) { return "", false }

func (noEnv) Keys() []string { return nil }
