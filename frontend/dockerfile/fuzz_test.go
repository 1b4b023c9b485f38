package dockerfile

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// FuzzDockerfile checks that no text makes the translation crash; that what it says of one is the same each time, since
// keys depend on it; and that an error is one of the contract's, with lines that the text has.
func FuzzDockerfile(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.txtar")
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, x := range ar.Files {
			if x.Name == "Dockerfile" {
				f.Add(string(x.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		one, err := fuzzed(t, text)
		two, err2 := fuzzed(t, text)
		if diff := cmp.Diff(one, two); diff != "" && !suggests(err) {
			t.Errorf("two translations differ:\n%s\n%v %v", diff, err, err2)
		}
		var se *frontend.SourceError
		var ue *frontend.UsageError
		switch {
		case err == nil, errors.As(err, &ue):
		case errors.As(err, &se):
			n := strings.Count(text, "\n") + 1
			for _, r := range se.Ranges {
				if r.Start < 1 || r.End < r.Start || r.End > n {
					t.Errorf("error %v is at %v of a text of %d lines", err, r, n)
				}
			}
			_ = se.Quote()
		default:
			t.Errorf("error %v is a %T", err, err)
		}
	})
}

// suggests says whether an error has a suggestion. BuildKit's parser picks among equal ones at random.
func suggests(err error) bool { return err != nil && strings.Contains(err.Error(), "did you mean") }

// fuzzed translates a text and returns what came out, as text.
func fuzzed(t *testing.T, text string) (string, error) {
	c := dockerfileCase(t, text)
	c.req.BuildArgs["arg"] = "value of ${arg}"
	c.env.dirs["context"][ignoreName] = "ignored\n*.tmp\n"
	out, err := c.translate()
	if err != nil {
		return err.Error(), err
	}
	d := &strings.Builder{}
	if r := out.Images[0].Root; r != nil {
		d.WriteString(r.Vertex.Recipe().String())
	}
	for _, h := range out.Images[0].Config.History {
		d.WriteString("\n" + h.CreatedBy)
	}
	return d.String(), nil
}

// FuzzExpand checks that no word, whatever variables are in it, makes expansion crash or its result long.
func FuzzExpand(f *testing.F) {
	for _, w := range []string{
		"$A", "${A:-b}", "${A#*.}", "${A%%.*}", "${A//a/$B}", "${B/a/${A//b/c}}", "'$A'", `"$A\$B"`, "${A:?no}", "${A", "$", "${A+${B-$A}}",
	} {
		f.Add(w, "a.b.c", "aaa")
	}
	f.Fuzz(func(t *testing.T, word, a, b string) {
		if _, err := measureText([]byte(word)); err != nil || len(a) > maxValue || len(b) > maxValue {
			return
		}
		tr := &translation{budget: &budget{left: budgetBytes}}
		scope := newVars()
		if scope.put("A", a) != nil || scope.put("B", b) != nil {
			t.Fatal("a value that is short enough is refused")
		}
		for _, escape := range []rune{'\\', '`'} {
			res, err := tr.expandWith(shell.NewLex(escape), word, scope)
			if err == nil && len(res.Result) > 2*(16<<20) {
				t.Errorf("%d bytes of word and %d of values became %d", len(word), len(a)+len(b), len(res.Result))
			}
		}
	})
}

// FuzzIgnoreFiles checks that any .dockerignore and any Dockerfile.dockerignore is read or refused, and that what is asked of
// the context does not depend on anything else.
func FuzzIgnoreFiles(f *testing.F) {
	f.Add("a\n!b\n", "")
	f.Add("!", "# x\n**/*.go")
	f.Fuzz(func(t *testing.T, shared, own string) {
		c := dockerfileCase(t, "FROM busybox\nCOPY a b /\n")
		c.env.dirs["context"][ignoreName] = shared
		if own != "" {
			c.env.dirs["context"][defaultName+ignoreName] = own
		}
		_, err := New().Translate(context.Background(), c.req, c.env)
		var se *frontend.SourceError
		if err != nil && !errors.As(err, &se) {
			t.Fatalf("error %v is a %T", err, err)
		}
		want := 3 // definition, .dockerignore and context
		if own != "" {
			want = 2
		}
		if err == nil && len(c.env.locals) != want {
			t.Fatalf("asked %d times: %v", len(c.env.locals), []op.Local(c.env.locals))
		}
	})
}
