package dockerfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// agrees checks that a measure tells apart what the parser does: as many instructions, and as much content of
// here-documents. What the parser refuses may be measured in any way.
func agrees(t *testing.T, text []byte) {
	t.Helper()
	m := measure{rest: text, escape: parser.DefaultEscapeToken}
	if err := m.all(); err != nil || m.instructions > maxSteps || m.size(0) > maxParsed {
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
	for _, text := range hostile() {
		if len(text) < 1<<20 {
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
