package dockerfile

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// agrees checks that a measure tells apart what the parser does: as many instructions, and as much content of
// here-documents. What the parser refuses may be measured in any way.
func agrees(t *testing.T, text []byte) {
	t.Helper()
	m := measure{total: len(text), rest: text, escape: parser.DefaultEscapeToken}
	if err := m.all(); err != nil || m.over() {
		return
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return
	}
	content := 0
	for _, n := range tree.AST.Children {
		for _, h := range n.Heredocs {
			content += len(h.Content)
		}
	}
	if m.instructions != len(tree.AST.Children) || m.content != content {
		t.Errorf("%q: got %d instructions with %d bytes of here-documents, the parser has %d with %d",
			text, m.instructions, m.content, len(tree.AST.Children), content)
	}
}

// measured are texts in which it is hard to tell what is what.
var measured = []string{
	"FROM a\nRUN <<E\nFROM b\nE\nRUN x\n",
	"FROM a\nRUN <<E <<F\nRUN 1\nE\nRUN 2\nF\nRUN 3\n",
	"FROM a\nRUN <<-\"E\"\n\tE x\n\tE\nRUN x\n",
	"FROM a\nRUN [\"<<E\"]\nRUN x\nE\n",
	"FROM a\nRUN [\"<<E\"] x\nRUN x\nE\n",
	"FROM a\nENV A=<<E\nRUN x\nE\n",
	"FROM a\nONBUILD RUN <<E\nRUN x\nE\nRUN x\n",
	"FROM a\nONBUILD ENV <<E\nRUN x\nE\nRUN x\n",
	"FROM a\nRUN <\\\n<E\nRUN x\nE\nRUN x\n",
	"FROM a\nRUN a \\\n # RUN\n\n  \\\n <<E\nRUN x\nE\nRUN x\n",
	"# escape=`\nFROM a\nRUN `\n<<E `\n\nRUN x\nE\nRUN x\n",
	"#!x\n# escape=`\nFROM a\nRUN \\\n<<E\nRUN x\nE\nRUN x `\nRUN y\n",
	"\xef\xbb\xbf# escape=`\r\nFROM a\r\nRUN <<E `\r\n\r\nx\r\nE\r\nRUN x\r\n",
	"FROM a\nRUN x \\\\\nRUN <<E\\ \nE \nRUN x\n",
	"FROM a\nRUN \"<<E\" '<<F' \\<<G\nRUN x\nE\nF\n<G\nG\nRUN x\n",
	"FROM a\n\\\nRUN <<E\nRUN x\nE\n\\\n",
	"FROM a\nRUN 1<<E 2<<-'F G' <<\nRUN x\nE\n\tF G\nRUN x\n",
	"FROM a\nCOPY <<a <<b /\nx\na\ny\nb\nCOPY --chown=<<E a b\nE\nRUN x\n",
	"FROM a\nRUN cat <<E > x && <<E\n# c\nE\n\\\nE\n# c\n#\nRUN x\n\\",
}

// TestMeasure checks the same of known texts.
func TestMeasure(t *testing.T) {
	for _, text := range measured {
		agrees(t, []byte(text))
	}
	most := 1 << 20
	if raced {
		most = 1 << 16 // the detector makes the parser ten times as slow
	}
	for _, text := range hostile() {
		if len(text) < most {
			agrees(t, []byte(text))
		}
	}
	found, err := filepath.Glob("testdata/*/*Dockerfile*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		if text, err := os.ReadFile(name); err == nil {
			agrees(t, text)
		}
	}
}

// TestLongDocuments checks that the parser's result is the same when it does not see long here-documents.
func TestLongDocuments(t *testing.T) {
	long := strings.Repeat("line\n\n\t# line\r\nRUN <<E\n", 8<<10)
	for _, text := range []string{
		"FROM a\nRUN <<E\n" + long + "F\nE\nRUN <<E\n" + "E\n",
		"FROM a\nRUN <<-F <<G 3<<H\n" + long + "\tF\n" + "g\nG\n" + long + "H\nRUN x\nCOPY <<x <<'F' /\nx\n" + long + "F\n",
		"FROM a\nONBUILD RUN <<F\n" + long + "F\nRUN [\"<<E\"]\nENV A=<<E\nRUN <<\"\"\n\n",
		"FROM a\r\nRUN <<F\r\n" + long + "F\r\nRUN x\r\n",
		"FROM a\nRUN <<\"\" <<F\n" + strings.ReplaceAll(long, "\n\n", "\n") + "\n" + long + "F\n",
	} {
		m, err := measureText([]byte(text))
		if err != nil || len(m.long) == 0 {
			t.Errorf("%.40q: got %d long ones, %v", text, len(m.long), err)
			continue
		}
		got, err := m.parse([]byte(text))
		if err != nil {
			t.Errorf("%.40q: %v", text, err)
			continue
		}
		if want, err := parser.Parse(strings.NewReader(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%.40q: another result than the parser's, %v", text, err)
		}
	}
}

// TestPlainPrefix checks that what is not expanded would come out of an expansion as it is.
func TestPlainPrefix(t *testing.T) {
	long := strings.Repeat("a: [b, c]\t{d} #e\r\n\n", 400)
	for _, tail := range []string{"", "$A", "x ${B:-\n} y\n", "\\\n$A", "'$A' \"$A\"\n", "<<E\n$A", "\x00", "`$A"} {
		for _, word := range []string{long + tail, "\ufeff" + long + tail, long + "\xff" + tail, tail + long} {
			for _, raw := range []bool{false, true} {
				lex := shell.NewLex('\\')
				lex.SkipProcessQuotes = raw
				env := newVars()
				if err := env.put("A", "value"); err != nil {
					t.Fatal(err)
				}
				tr := &translation{budget: &budget{left: budgetBytes}}
				got, err := tr.expandWith(lex, word, env)
				want, werr := lex.ProcessWordWithMatches(word, env)
				if got.Result != want.Result && werr == nil || (err == nil) != (werr == nil) || !maps.Equal(got.Unmatched, want.Unmatched) {
					t.Errorf("…%q: got %.20q, %v, %v, want %.20q, %v, %v", tail, got.Result, got.Unmatched, err, want.Result, want.Unmatched, werr)
				}
			}
		}
	}
}

func FuzzMeasure(f *testing.F) {
	for _, text := range measured {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) < 64<<10 {
			agrees(t, text)
		}
	})
}

// TestLargeLines checks that errors, steps and warnings name all lines of a long instruction in a Dockerfile with very many,
// and that what is sent of the file stays small.
func TestLargeLines(t *testing.T) {
	const n = 400_000
	document := "<<E\n" + strings.Repeat("a\n", n) + "E\n"
	text := strings.Repeat("#x\n", 100) + "FROM scratch\nCOPY " + document
	var se *frontend.SourceError
	for _, tc := range []struct {
		name, text string
		want       solver.Range
		quoted     bool
	}{
		{"an error of the parser's", strings.Replace(text, "COPY <<E", "COPY --nope <<E /x", 1), solver.Range{Start: 102, End: 102 + n + 1}, true},
		{"an error of a step's", strings.Replace(text, "<<E", "--chmod=zz <<E /x", 1), solver.Range{Start: 102, End: 102 + n + 1}, true},
		{"an error after it", strings.Replace(text, "<<E", "<<E /x", 1) + "COPY --from=b\n", solver.Range{Start: 102 + n + 2, End: 102 + n + 2}, false},
	} {
		_, err := dockerfileCase(t, tc.text).translate()
		if !errors.As(err, &se) || len(se.Ranges) != 1 || se.Ranges[0] != tc.want {
			t.Errorf("%s: got %.300v at %v, want %v", tc.name, err, se.Ranges, tc.want)
			continue
		}
		if got := se.Excerpt(); len(got) > 256<<10 || tc.quoted != (len(got) > 0) {
			t.Errorf("%s: %d bytes of the text are sent", tc.name, len(got))
		}
		if got := se.Quote(); len(got) > 256<<10 || !strings.Contains(got, ">>>") {
			t.Errorf("%s: the quote has %d bytes", tc.name, len(got))
		}
	}
}

// TestLongLine checks that a line is not longer in a here-document than elsewhere, however long that is, and that the error
// has the line.
func TestLongLine(t *testing.T) {
	rep := strings.Repeat
	for _, c := range []struct {
		text string
		line int // of the error
	}{
		{"FROM a\nCOPY <<\"E\" /a\n" + rep("x", 65535) + "\nE\n", 0},
		{"FROM a\nCOPY <<\"E\" /a\n" + rep("x", 65536) + "\nE\n", 3},
		{"FROM a\nCOPY <<\"E\" /a\n" + rep("x", 70000) + "\nE\nRUN x\n", 3},
		{"FROM a\nRUN <<E\n" + rep("x\n", 40000) + rep("x", 65536) + "\nE\n", 40003},
		{"FROM a\nRUN <<E\n" + rep("x\n", 40000) + rep("x", 65535) + "\nE\n", 0},
		{"FROM a\nRUN <<E\n" + rep("x", 65534) + "\r\nE\n", 0},
		{"FROM a\nRUN <<E\n" + rep("x", 65535) + "\r\nE\n", 3},
		{"FROM a\nRUN <<E\n" + rep("x", 70000), 3},
	} {
		_, parsing := parser.Parse(strings.NewReader(c.text))
		_, err := measureText([]byte(c.text))
		if (err != nil) != (parsing != nil) || (err != nil) != (c.line > 0) {
			t.Errorf("%.30q: got %v, the parser says %v", c.text, err, parsing)
		}
		var le *parser.LocationError
		if c.line > 0 && (!errors.As(err, &le) || le.Locations[0][0].Start.Line != c.line ||
			!strings.Contains(err.Error(), "dockerfile line greater than max allowed size of 65535")) {
			t.Errorf("%.30q: got %v, want an error of line %d", c.text, err, c.line)
		}
	}
}
