// Package solvertest tests solvers, caches and what is built on them with operations on integers.
//
// Graph is a build graph as text, Random makes one up, and Eval is a naive evaluator to compare a solver with. World is
// a Runner whose results are integers; it counts what it runs, can lose its results, and can be made to fail. Faulty
// puts random losses on top. Cache is a solver.Cache in memory, and TestCache is the suite that any such cache passes.
//
// Everything here is safe for concurrent use, unless it says otherwise. No package but tests may import this one.
package solvertest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
)

// modulus keeps results small, so that equal ones come about by chance and early cut-off has something to do.
const modulus = 1009

// An Op is an operation on integers modulo 1009.
type Op struct {
	// Kind is "const" (Arg), "add" (Arg plus the inputs), "mul" (Arg times the inputs), "split" (two outputs: the sum of
	// the inputs divided by Arg, and the remainder), "sum" (the inputs; Arg is only where they are to be found, and is
	// not in the step key if all of them are selected) or "temp" (a const that is Ephemeral).
	Kind string
	Arg  int
}

// WriteKey implements solver.Op.
func (o Op) WriteKey(h *solver.Hasher) {
	h.Version("int."+o.Kind, 1)
	h.Int("arg", int64(o.Arg))
}

// WriteStepKey implements solver.ByContent.
func (o Op) WriteStepKey(h *solver.Hasher, inputs []solver.Input) {
	identity := func(in solver.Input) bool { return in.Select == nil }
	if o.Kind == "sum" && !slices.ContainsFunc(inputs, identity) {
		o.Arg = -1
	}
	o.WriteKey(h)
}

func (o Op) String() string { return fmt.Sprintf("%s %d", o.Kind, o.Arg) }

// Outputs implements solver.Outputter.
func (o Op) Outputs() int {
	if o.Kind == "split" {
		return 2
	}
	return 1
}

// Ephemeral implements solver.Ephemeral.
func (o Op) Ephemeral() bool { return o.Kind == "temp" }

// Eval computes the operation on what is seen of its inputs.
func (o Op) Eval(in []int) []int {
	sum, product := 0, 1
	for _, x := range in {
		sum += x
		product = product * x % modulus
	}
	switch o.Kind {
	case "add":
		return []int{(sum + o.Arg) % modulus}
	case "sum":
		return []int{sum % modulus}
	case "mul":
		return []int{product * o.Arg % modulus}
	case "split":
		return []int{sum % modulus / o.Arg, sum % modulus % o.Arg}
	default:
		return []int{o.Arg % modulus}
	}
}

// View returns what sel picks from x. The content of an integer has the paths /mod/N, for any positive N, which hold it
// modulo N; the selection of several paths is their sum. A nil or empty selector picks the integer itself. Any other
// path is missing.
func View(x int, sel *solver.Selector) (int, error) {
	if sel == nil || len(sel.Paths) == 0 {
		return x, nil
	}
	sum := 0
	for _, p := range sel.Paths {
		dir, base := path.Split(p)
		n, err := strconv.Atoi(base)
		if dir != "/mod/" || err != nil || n <= 0 {
			return 0, fmt.Errorf("selecting %s: no such path", strings.Join(sel.Paths, " "))
		}
		sum += x % n
	}
	return sum, nil
}

// Eval computes what the targets come to, one after another and without any cache. It is what solvers are compared
// with.
func Eval(targets []solver.Input) ([]int, error) {
	values := make(map[*solver.Vertex][]int)
	stack := make([]*solver.Vertex, 0, len(targets))
	for _, t := range targets {
		stack = append(stack, t.Vertex)
	}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		if values[v] != nil {
			stack = stack[:len(stack)-1]
			continue
		}
		var missing []*solver.Vertex
		var in []int
		for _, i := range v.Inputs() {
			got, ok := values[i.Vertex]
			if !ok {
				missing = append(missing, i.Vertex)
				continue
			}
			x, err := View(got[i.Output], i.Select)
			if err != nil {
				return nil, err
			}
			in = append(in, x)
		}
		if missing != nil {
			stack = append(stack, missing...)
			continue
		}
		stack = stack[:len(stack)-1]
		values[v] = v.Op().(Op).Eval(in)
	}
	out := make([]int, len(targets))
	for i, t := range targets {
		out[i] = values[t.Vertex][t.Output]
	}
	return out, nil
}
