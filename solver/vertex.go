package solver

import (
	"fmt"
	"strconv"
)

// An Op is one operation as plain data. The solver hashes it and hands it to a Runner, and never looks inside.
type Op interface {
	// WriteKey writes a version and every field that can influence Run, and nothing else.
	WriteKey(h *Hasher)
	// String is the operation as a user would name it, in one line.
	String() string
}

// Outputter is an Op with other than one output. Outputs must be constant for the Op.
type Outputter interface{ Outputs() int }

// Ephemeral is an Op whose results must not be remembered in the Cache: they live only as long as something outside
// the store (a directory of the client's) does. Running it again must be cheap.
type Ephemeral interface{ Ephemeral() bool }

// ByContent is an Op that says more of inputs with a Selector than a result depends on once the content that is selected
// is known: where in them it is, say.
type ByContent interface {
	// WriteStepKey writes what WriteKey writes but for that, for a step key. Two steps with equal keys on equal results
	// and equal selected contents must have equal results, timestamps apart.
	WriteStepKey(h *Hasher, inputs []Input)
}

// A Selector says what part of an input's content a vertex reads. What COPY, ADD and bind mounts read is plain data and
// part of the key. The zero Selector picks everything.
type Selector struct {
	Paths    []string // cleaned, slash-separated, absolute in the input; empty means "/"
	Wildcard bool     // Paths are filepath.Match patterns; names enter the digest, so a rename is seen
	Follow   bool     // a symlink that Paths name is followed inside the input's root
	Include  []string // patternmatcher syntax, relative to each path
	Exclude  []string // patternmatcher syntax, relative to each path
	// Named says that the name of what is selected counts if it is no directory: the last component of its path.
	Named bool
}

func (s *Selector) writeKey(h *Hasher) {
	// A selector that picks everything is not the same as none: see Input.Select.
	h.Bool("select", true)
	h.Strs("select.paths", s.Paths)
	h.Bool("select.wildcard", s.Wildcard)
	h.Bool("select.follow", s.Follow)
	h.Strs("select.include", s.Include)
	h.Strs("select.exclude", s.Exclude)
	h.Bool("select.named", s.Named)
}

// An Input is one output of another vertex that a vertex consumes.
type Input struct {
	Vertex *Vertex
	Output int
	// Select, if set, makes only the content that it selects enter the step key, not the result's identity. The
	// consumer must then read nothing else of the input.
	Select *Selector
}

// Meta is what a vertex carries for people. Nothing in it enters a key.
type Meta struct {
	Name        string   // as clients print it: "[build 2/3] RUN make"
	Group       string   // progress group, or empty
	Source      []Range  // where in the user's file it comes from
	File        string   // that file's name
	Text        []byte   // the whole of File, where it is not the one file that the graph comes from
	IgnoreCache bool     // never answered from the cache; the result is still recorded
	Internal    bool     // machinery; shown, but not a step of the user's
	Hidden      bool     // machinery of which nobody is told
	Platform    string   // "linux/amd64", where the vertex has one
	Tags        []string // free labels for the caller, such as a stage's name
	// Wire is what a codec remembers of the form that the vertex came in. Nobody else looks inside.
	Wire any
}

// A Range is a range of lines of a file, both ends included; the first line is 1.
type Range struct{ Start, End int }

// A Vertex is a node of a build graph: an operation and its inputs. It is immutable.
type Vertex struct {
	op      Op
	inputs  []Input
	outputs int
	key     Key
	doc     string
	opLen   int // how much of doc is the operation's own, before the inputs
	meta    Meta
}

// NewVertex makes a vertex. It panics when an input names no vertex or an output that the vertex does not have, since
// the graph would then be broken in a way that no input of a user's can cause.
func NewVertex(op Op, inputs []Input, meta Meta) *Vertex {
	v := &Vertex{op: op, inputs: inputs, outputs: 1, meta: meta}
	if o, ok := op.(Outputter); ok {
		v.outputs = o.Outputs()
	}
	var h Hasher
	op.WriteKey(&h)
	v.opLen = h.doc.Len()
	for i, in := range inputs {
		if in.Vertex == nil || in.Output < 0 || in.Output >= in.Vertex.outputs {
			panic(fmt.Sprintf("solver: input %d of %q does not exist", i, op))
		}
		h.Key("input."+strconv.Itoa(i), in.Vertex.key)
		if in.Output != 0 {
			h.Int("input."+strconv.Itoa(i)+".output", int64(in.Output))
		}
		if in.Select != nil {
			in.Select.writeKey(&h)
		}
	}
	v.doc, v.key = h.Document(), h.Sum()
	return v
}

// Recall makes a vertex that stands for one of an earlier build, whose recipe key it has, whatever op says. It is for
// telling what happened, and cannot be solved.
func Recall(recipe Key, op Op, inputs []Input, meta Meta) *Vertex {
	return &Vertex{op: op, inputs: inputs, outputs: 1, key: recipe, meta: meta}
}

// Op returns the operation.
func (v *Vertex) Op() Op { return v.op }

// Inputs returns the inputs. The slice must not be changed.
func (v *Vertex) Inputs() []Input { return v.inputs }

// Outputs returns how many results the vertex has.
func (v *Vertex) Outputs() int { return v.outputs }

// Recipe returns the recipe key: the hash of the operation and of the inputs' recipe keys.
func (v *Vertex) Recipe() Key { return v.key }

// Document returns the text that Recipe is the hash of.
func (v *Vertex) Document() string { return v.doc }

// Meta returns what the vertex carries for people.
func (v *Vertex) Meta() Meta { return v.meta }

// Name returns the name to print.
func (v *Vertex) Name() string {
	if v.meta.Name != "" {
		return v.meta.Name
	}
	return v.op.String()
}
