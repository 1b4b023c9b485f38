package solvertest_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files with what is got")

// A script is a golden file: definitions of vertices, as Graph has them, and commands, on one solver. Under each build
// stands, with a | before each line, what came of it:
//
//	build x y …    solves the targets: the story of each vertex, the order of the runs, and the values or the error
//	lose x …       has the last results of the vertices vanish from the world
//	forget x …     deletes the cache records of the vertices' recipes
//	fail x         has the vertex fail in the next build
//	lose-in x y    has the results of y vanish, once, when x is about to run
type script struct {
	t     *testing.T
	g     solvertest.Graph
	w     solvertest.World
	c     solvertest.Cache
	s     *solver.Solver
	fail  string
	hook  [2]string
	known map[string][]solver.Result // the last results of vertices that have run
	out   strings.Builder
}

// Every golden file holds what the solver does: which vertices are looked at, which run, in what order, and which are
// found by what. With room for one job of each kind, all of that is determined.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.graph")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			x := &script{t: t, known: make(map[string][]solver.Result)}
			x.s = solver.New(x, &x.c, solver.Options{Parallelism: 1, Probes: 1, Hashes: 1})
			for line := range strings.Lines(string(want)) {
				if !strings.HasPrefix(line, "|") {
					x.out.WriteString(line)
					x.line(strings.TrimSpace(line))
				}
			}
			got := x.out.String()
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func (x *script) line(line string) {
	f := strings.Fields(line)
	if len(f) == 0 || line[0] == '#' {
		return
	}
	switch f[0] {
	case "build":
		x.build(x.g.Inputs(strings.Join(f[1:], " ")))
	case "lose":
		for _, name := range f[1:] {
			x.lose(name)
		}
	case "forget":
		for _, name := range f[1:] {
			x.c.Delete(x.g.Vertex(name).Recipe())
		}
	case "fail":
		x.fail = f[1]
	case "lose-in":
		x.hook = [2]string{f[1], f[2]}
	default:
		if err := x.g.Define(line); err != nil {
			x.t.Fatal(err)
		}
	}
}

func (x *script) lose(name string) {
	for _, r := range x.known[name] {
		x.w.Lose(r)
	}
}

// ran returns what ran in the order of the graph: which of two independent steps is ready first is the machine's choice.
func (x *script) ran() []string {
	ran := x.w.Ran()
	slices.SortStableFunc(ran, func(a, b string) int {
		return slices.Index(x.g.Names, a) - slices.Index(x.g.Names, b)
	})
	return ran
}

func (x *script) build(targets []solver.Input) {
	x.w.Forget()
	var events solvertest.Events
	out, err := x.s.Solve(x.t.Context(), &solver.Build{Targets: targets, Events: events.Add})
	x.fail, x.hook = "", [2]string{}
	for _, bad := range events.Check() {
		x.t.Error(bad)
	}
	for _, name := range x.g.Names {
		switch story := events.Story(name); story {
		case "-":
		case "":
			fmt.Fprintf(&x.out, "| %s:\n", name)
		default:
			fmt.Fprintf(&x.out, "| %s: %s\n", name, story)
		}
	}
	fmt.Fprintln(&x.out, strings.TrimSpace("| ran: "+strings.Join(x.ran(), " ")))
	if err != nil {
		fmt.Fprintf(&x.out, "| error: %v\n", err)
		return
	}
	got := x.w.Values(out)
	if want, err := solvertest.Eval(targets); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		x.t.Errorf("got %v, want %v, %v", got, want, err)
	}
	fmt.Fprintf(&x.out, "| got: %s\n", strings.Trim(fmt.Sprint(got), "[]"))
}
