package op

import (
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
)

// Build solves the definition that a file of an input is, and has its result. It has one output.
type Build struct {
	// Inputs names inputs of the vertex, sorted by name. The one called DefinitionInput has the definition.
	Inputs []BuildInput
	// File is the definition's path in that input; empty for DefinitionFile.
	File string
	// Attrs are further attributes of the operation, sorted by name. They are only recorded.
	Attrs []BuildAttr
}

// A BuildInput is an input of a Build, by its index in the inputs of the vertex.
type BuildInput struct {
	Name  string
	Input int
}

// A BuildAttr is an attribute of a Build.
type BuildAttr struct{ Name, Value string }

// The input of a Build that has the definition, and the file that it is if nothing else is said, as in LLB.
const (
	DefinitionInput = "buildkit.llb.definition"
	DefinitionFile  = "buildkit.llb.definition"
)

// Definition returns the input and the path of the definition; ok is false if no input has one.
func (b *Build) Definition() (input int, file string, ok bool) {
	i := slices.IndexFunc(b.Inputs, func(x BuildInput) bool { return x.Name == DefinitionInput })
	if i < 0 {
		return 0, "", false
	}
	if file = b.File; file == "" {
		file = DefinitionFile
	}
	return b.Inputs[i].Input, file, true
}

// WriteKey implements solver.Op.
func (b *Build) WriteKey(h *solver.Hasher) {
	h.Version("build", 1)
	for _, in := range b.Inputs {
		h.Str("input", in.Name)
		h.Int("input.index", int64(in.Input))
	}
	h.Str("file", b.File)
	for _, a := range b.Attrs {
		h.Strs("attr", []string{a.Name, a.Value})
	}
}

func (b *Build) String() string {
	if b.File == "" {
		return "build"
	}
	return "build " + b.File
}

// Passthrough has some of its inputs as outputs, and does nothing.
type Passthrough struct {
	// ID makes equal operations differ, and says who asked for it.
	ID string
	// Out are the inputs that the outputs are, by their indices in the inputs of the vertex.
	Out []int
}

// Outputs implements solver.Outputter.
func (p *Passthrough) Outputs() int { return len(p.Out) }

// WriteKey implements solver.Op.
func (p *Passthrough) WriteKey(h *solver.Hasher) {
	h.Version("passthrough", 1)
	h.Str("id", p.ID)
	for _, i := range p.Out {
		h.Int("output", int64(i))
	}
}

func (p *Passthrough) String() string {
	return strings.TrimSpace(fmt.Sprintf("passthrough %s", p.ID))
}
