package dockerfile

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var rewrite = flag.Bool("rewrite", false, "write what the translation makes into the golden files")

// TestGraph checks the graph, the configuration and the history of each case in testdata/graph, or the error: what is
// asked of the Env, every field of a key, every selector. Run it with -rewrite to take over a change.
func TestGraph(t *testing.T) {
	files, err := filepath.Glob("testdata/graph/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c := readCase(t, file)
			got := c.describe()
			i := slices.IndexFunc(c.ar.Files, func(f txtar.File) bool { return f.Name == "want" })
			if *rewrite {
				if i < 0 {
					i = len(c.ar.Files)
					c.ar.Files = append(c.ar.Files, txtar.File{Name: "want"})
				}
				c.ar.Files[i].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(c.ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if i < 0 {
				t.Fatal("the file has no section want; run with -rewrite")
			}
			if diff := cmp.Diff(string(c.ar.Files[i].Data), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// describe translates the case and writes down what comes out.
func (c *testcase) describe() string {
	var b strings.Builder
	out, err := c.translate()
	slices.Sort(c.env.steps)
	for _, s := range c.env.steps {
		fmt.Fprintf(&b, "step %s\n", s)
	}
	for i := range c.env.locals {
		l := &c.env.locals[i]
		fmt.Fprintf(&b, "ask  %s follow=%q exclude=%q\n", l.Name, l.Follow, l.Exclude)
	}
	slices.SortFunc(c.env.warnings, func(a, b solver.Warning) int { return strings.Compare(a.Short, b.Short) })
	for _, w := range c.env.warnings {
		fmt.Fprintf(&b, "warn %s %v\n", w.Short, w.Source)
	}
	if err != nil {
		b.WriteString("error " + err.Error() + "\n")
		var se *frontend.SourceError
		if errors.As(err, &se) {
			b.WriteString(se.Quote())
		}
		return b.String()
	}
	g := &dump{b: &b, ids: map[*solver.Vertex]int{}}
	for i := range out.Images {
		g.image(&out.Images[i])
	}
	return b.String()
}

// A dump writes graphs as text, each vertex after its inputs and once.
type dump struct {
	b   *strings.Builder
	ids map[*solver.Vertex]int
}

func (d *dump) image(img *frontend.Image) {
	if img.Root != nil {
		d.vertex(img.Root.Vertex)
	}
	for i := range img.Layers {
		d.vertex(img.Layers[i].Vertex)
	}
	fmt.Fprintf(d.b, "image %s", op.PlatformString(img.Platform))
	if img.Root != nil {
		fmt.Fprintf(d.b, " root=%s", d.input(*img.Root))
	}
	d.b.WriteString(" layers=")
	for i, l := range img.Layers {
		if i > 0 {
			d.b.WriteByte(',')
		}
		d.b.WriteString(d.input(l))
	}
	if img.Base != nil {
		fmt.Fprintf(d.b, " base=%s", img.Base.Ref)
	}
	if img.Epoch != nil {
		fmt.Fprintf(d.b, " epoch=%d", img.Epoch.Unix())
	}
	d.b.WriteByte('\n')
	c := img.Config.Config
	fmt.Fprintf(d.b, "  user=%q workdir=%q env=%q entrypoint=%q cmd=%q\n", c.User, c.WorkingDir, c.Env, c.Entrypoint, c.Cmd)
	fmt.Fprintf(d.b, "  ports=%v volumes=%v labels=%v stop=%q shell=%q onbuild=%q\n",
		c.ExposedPorts, c.Volumes, c.Labels, c.StopSignal, c.Shell, c.OnBuild)
	for _, h := range img.Config.History {
		layer := "layer"
		if h.EmptyLayer {
			layer = "empty"
		}
		fmt.Fprintf(d.b, "  %s %q\n", layer, h.CreatedBy)
	}
}

func (d *dump) input(in solver.Input) string {
	s := fmt.Sprintf("v%d", d.ids[in.Vertex])
	if in.Output != 0 {
		s += fmt.Sprintf(".%d", in.Output)
	}
	if sel := in.Select; sel != nil {
		s += fmt.Sprintf("{%q", sel.Paths)
		if sel.Wildcard {
			s += " wildcard"
		}
		if sel.Follow {
			s += " follow"
		}
		if sel.Named {
			s += " named"
		}
		if len(sel.Include) > 0 {
			s += fmt.Sprintf(" include=%q", sel.Include)
		}
		if len(sel.Exclude) > 0 {
			s += fmt.Sprintf(" exclude=%q", sel.Exclude)
		}
		s += "}"
	}
	return s
}

func (d *dump) vertex(v *solver.Vertex) {
	if _, ok := d.ids[v]; ok {
		return
	}
	for _, in := range v.Inputs() {
		d.vertex(in.Vertex)
	}
	d.ids[v] = len(d.ids) + 1
	m := v.Meta()
	fmt.Fprintf(d.b, "v%d %q", d.ids[v], v.Name())
	for _, r := range m.Source {
		fmt.Fprintf(d.b, " %s:%d-%d", m.File, r.Start, r.End)
	}
	if m.IgnoreCache {
		d.b.WriteString(" nocache")
	}
	if m.Group != "" {
		fmt.Fprintf(d.b, " group=%q", m.Group)
	}
	d.b.WriteByte('\n')
	for _, in := range v.Inputs() {
		fmt.Fprintf(d.b, "  in %s\n", d.input(in))
	}
	var h solver.Hasher
	v.Op().WriteKey(&h)
	for line := range strings.Lines(h.Document()) {
		d.b.WriteString("  " + line)
	}
	if e, ok := v.Op().(*op.Exec); ok {
		d.exec(e)
	}
}

// exec writes what is in no key.
func (d *dump) exec(e *op.Exec) {
	if p := e.Meta.Proxy; p != nil {
		fmt.Fprintf(d.b, "  proxy %+v\n", *p)
	}
	for _, m := range e.Mounts {
		if m.Type == op.MountCache {
			fmt.Fprintf(d.b, "  cache %s %q sharing=%d\n", m.Dest, m.Cache.ID, m.Cache.Sharing)
		}
	}
}
