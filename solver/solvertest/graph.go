package solvertest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
)

// A Graph is named vertices. It is not safe for concurrent use while it changes.
//
// As text, a line defines a vertex:
//
//	name = kind arg input … [!nocache]
//
// An input is the name of a vertex defined before, optionally followed by ".N" for its output N and by "[path,…]" for
// what is selected of it; "[]" selects everything by content. Defining a name anew replaces it for the lines after.
type Graph struct {
	Names  []string // in the order of their first definition
	byName map[string]*solver.Vertex
}

// Vertex returns the vertex called name, or nil.
func (g *Graph) Vertex(name string) *solver.Vertex { return g.byName[name] }

// Parse reads a graph from text. Empty lines and lines that start with # are skipped.
func Parse(text string) (*Graph, error) {
	g := &Graph{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := g.Define(line); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// MustParse is Parse for tests, whose text is known to be right.
func MustParse(text string) *Graph {
	g, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return g
}

// Define adds the vertex that line defines.
func (g *Graph) Define(line string) error {
	f := strings.Fields(line)
	if len(f) < 4 || f[1] != "=" {
		return fmt.Errorf("reading %q: not a definition", line)
	}
	op := Op{Kind: f[2]}
	switch op.Kind {
	case "const", "add", "mul", "split", "sum", "temp":
	default:
		return fmt.Errorf("reading %q: no such operation", line)
	}
	var err error
	if op.Arg, err = strconv.Atoi(f[3]); err != nil || op.Arg < 0 || op.Kind == "split" && op.Arg == 0 {
		return fmt.Errorf("reading %q: bad argument", line)
	}
	meta := solver.Meta{Name: f[0]}
	var inputs []solver.Input
	for _, s := range f[4:] {
		if s == "!nocache" {
			meta.IgnoreCache = true
			continue
		}
		in, err := g.Input(s)
		if err != nil {
			return fmt.Errorf("reading %q: %w", line, err)
		}
		inputs = append(inputs, in)
	}
	g.Add(f[0], solver.NewVertex(op, inputs, meta))
	return nil
}

// Add puts v into the graph under name.
func (g *Graph) Add(name string, v *solver.Vertex) {
	if g.byName == nil {
		g.byName = make(map[string]*solver.Vertex)
	}
	if g.byName[name] == nil {
		g.Names = append(g.Names, name)
	}
	g.byName[name] = v
}

// Input reads an input as it stands in a definition.
func (g *Graph) Input(s string) (solver.Input, error) {
	var in solver.Input
	if name, sel, ok := strings.Cut(s, "["); ok {
		s = name
		in.Select = &solver.Selector{}
		if sel = strings.TrimSuffix(sel, "]"); sel != "" {
			in.Select.Paths = strings.Split(sel, ",")
		}
	}
	if name, out, ok := strings.Cut(s, "."); ok {
		s = name
		var err error
		if in.Output, err = strconv.Atoi(out); err != nil {
			return in, fmt.Errorf("bad output %q", out)
		}
	}
	in.Vertex = g.byName[s]
	if in.Vertex == nil || in.Output < 0 || in.Output >= in.Vertex.Outputs() {
		return in, fmt.Errorf("no output %d of %q", in.Output, s)
	}
	return in, nil
}

// Inputs reads inputs that are known to be right, separated by spaces.
func (g *Graph) Inputs(names string) []solver.Input {
	var out []solver.Input
	for _, s := range strings.Fields(names) {
		in, err := g.Input(s)
		if err != nil {
			panic(err)
		}
		out = append(out, in)
	}
	return out
}

// Chain is a graph of n vertices v0, v1, …, each consuming the one before.
func Chain(n int) *Graph {
	g := &Graph{}
	for i := range n {
		var in []solver.Input
		op := Op{"const", 1}
		if i > 0 {
			op = Op{"add", i}
			in = []solver.Input{{Vertex: g.byName["v"+strconv.Itoa(i-1)]}}
		}
		name := "v" + strconv.Itoa(i)
		g.Add(name, solver.NewVertex(op, in, solver.Meta{Name: name}))
	}
	return g
}

// Wide is a graph of n vertices, of which the last consumes all the others.
func Wide(n int) *Graph {
	g := &Graph{}
	var in []solver.Input
	for i := range n {
		name := "v" + strconv.Itoa(i)
		op := Op{"const", i}
		if i == n-1 {
			op = Op{"add", 1}
		}
		var mine []solver.Input
		if i == n-1 {
			mine = in
		}
		v := solver.NewVertex(op, mine, solver.Meta{Name: name})
		in = append(in, solver.Input{Vertex: v})
		g.Add(name, v)
	}
	return g
}

// Random makes up a graph of n vertices. A vertex consumes up to three earlier ones, mostly late ones so that the graph
// is deep, with and without selectors; some vertices are equal to others, some have two outputs, some are ephemeral or
// ignore the cache.
func Random(rng *rand.Rand, n int) *Graph {
	g := &Graph{}
	kinds := []string{"add", "add", "mul", "split", "sum"}
	for i := range n {
		name := "v" + strconv.Itoa(i)
		meta := solver.Meta{Name: name, IgnoreCache: rng.IntN(50) == 0}
		op := Op{Kind: "const", Arg: rng.IntN(10)}
		if rng.IntN(30) == 0 {
			op.Kind = "temp"
		}
		var in []solver.Input
		if i > 3 && rng.IntN(8) != 0 {
			op = Op{Kind: kinds[rng.IntN(len(kinds))], Arg: 1 + rng.IntN(4)}
			for range 1 + rng.IntN(3) {
				in = append(in, randomInput(rng, g, i))
			}
		}
		g.Add(name, solver.NewVertex(op, in, meta))
	}
	return g
}

func randomInput(rng *rand.Rand, g *Graph, i int) solver.Input {
	from := rng.IntN(i)
	if rng.IntN(3) != 0 {
		from = i - 1 - rng.IntN(min(i, 8))
	}
	in := solver.Input{Vertex: g.byName["v"+strconv.Itoa(from)]}
	in.Output = rng.IntN(in.Vertex.Outputs())
	switch rng.IntN(3) {
	case 0:
		in.Select = &solver.Selector{Paths: []string{"/mod/" + strconv.Itoa(1+rng.IntN(5))}}
	case 1:
		in.Select = &solver.Selector{}
	}
	return in
}
