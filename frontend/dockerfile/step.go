package dockerfile

import (
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A step is an instruction that changes the file system, with nothing left to expand: one vertex, most often. It is
// plain data, so that a stage can be worked through before it is known what its steps read.
type step interface{ head() *stepHead }

// stepHead is what all steps have.
type stepHead struct {
	name    string
	source  []solver.Range
	noCache bool
}

func (h *stepHead) head() *stepHead { return h }

// from is where a step reads files: the end of a stage, a tree, or a text in the Dockerfile itself.
type from struct {
	stage *stage
	tree  *tree
}

// A runStep is RUN.
type runStep struct {
	stepHead
	meta     op.ExecMeta
	script   *op.Mkfile // a here-document to be executed, mounted at scriptDir
	mounts   []runMount
	secrets  []op.SecretEnv
	devices  []op.ExecDevice
	network  op.Network
	security op.Security
	limits   op.ExecLimits
}

// scriptDir is where a here-document that is a script is mounted.
const scriptDir = "/dev/pipes/"

// A runMount is one mount of a RUN.
type runMount struct {
	op.ExecMount           // Input is filled by the graph
	from         from      // neither set: empty
	owner        *op.Mkdir // a cache's directory with an owner of its own
}

// A copyStep is COPY or ADD.
type copyStep struct {
	stepHead
	copies []copySource
	link   bool // onto nothing, then laid over the stage
}

// A copySource is one source of a copyStep.
type copySource struct {
	from   from
	inline *op.Mkfile // the source is this text
	action op.Copy
	sel    solver.Selector
}

// A mkdirStep is WORKDIR.
type mkdirStep struct {
	stepHead
	dir op.Mkdir
}

// addStep appends a step; it makes a layer.
func (st *state) addStep(s step, size int) error {
	st.steps = append(st.steps, s)
	return st.t.budget.spend(size + len(s.head().name))
}
