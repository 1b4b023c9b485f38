// Package solver is the engine: it takes a graph of vertices, each an operation on the results of others, and finds
// their results, running only what no cache record answers and no concurrent build is running already.
//
// The solver knows nothing of images, files or processes. It touches the world through a Runner and remembers through
// a Cache; both are passed in. DESIGN.md beside this file has the state machine and the reasons.
//
// A vertex has two keys. Its recipe key is the hash of its operation and of its inputs' recipe keys, and so is known
// before anything runs. Its step key is the hash of its operation and, for each input, of the content that the input's
// Selector picks, or else of the result's identity; it is known once the inputs are done. A hit on the recipe key ends
// the matter without a look at the inputs. A hit on the step key is early cut-off: inputs that ran again but came out
// the same invalidate nothing.
package solver

import (
	"context"
	"errors"
	"time"
)

// A Result names an immutable output. It is a value; Runner.Hold keeps what it names alive.
type Result string

// ErrMiss says that a cache has no record, or that what a Result names is gone. It is not a failure: the solver
// goes on by running the step.
var ErrMiss = errors.New("not in the cache")

// A Runner is the solver's only way to touch the world. It is safe for concurrent use.
type Runner interface {
	// Hold keeps what r names alive for as long as the build does whose context ctx is: the very context that Solve got.
	// It returns ErrMiss if it is gone. Holding twice is the same as once.
	Hold(ctx context.Context, r Result) error
	// Digest returns the digest of the content that sel picks from r; a nil sel picks everything. It returns ErrMiss
	// if r is gone; an error that says which path is missing when sel names one that r has not.
	Digest(ctx context.Context, r Result, sel *Selector) (Digest, error)
	// Run performs step and returns as many results as its vertex has outputs. The results stay alive at least until
	// the builds that wait for them have called Hold, which is when ctx ends. An input that is gone is reported as a
	// *LostError. When ctx is cancelled Run returns soon, with everything that it started ended.
	//
	// ctx belongs to the step and not to one build. It has the values of the context of one build that waits for the
	// step: first the one that asked first and, when that one leaves, of another, which holds the step's inputs as well.
	Run(ctx context.Context, step *Step) ([]Result, error)
}

// An Admitter is a Runner that bounds what runs at once. Admit blocks until step may run and returns what gives its
// resources back; the solver calls Admit before Run, in the order in which it would have steps run, and release after.
// Release must not block. It may come a little after the end of Run: when the steps that have become ready by it are in
// the queue, so that a build that has begun something goes on with that.
//
// For each build and Go type of Op one call of Admit is outstanding at a time. So an Admitter that serves first who came
// first is fair between builds, and steps of one type do not wait behind those of another. ctx ends when a step that goes
// before this one has become ready; the call is made again later. A step that several builds wait for may be admitted
// for each, also at the same time; what comes too late is released at once.
type Admitter interface {
	Admit(ctx context.Context, step *Step) (release func(), err error)
}

// A Step is one run of a vertex's operation.
type Step struct {
	Vertex *Vertex
	Key    Key      // the step key
	Inputs []Result // parallel to Vertex.Inputs
	// Log takes the output of the operation as it comes. It may be called concurrently, and must not be called after
	// Run has returned. It copies data. The solver hands all that is written to every build that waits for the step.
	Log func(stream Stream, data []byte)
	// Status reports how far a part of the operation is: a layer's download, an export. As Log, otherwise.
	Status func(Status)
	// Warn reports something that the user should know and that fails nothing. As Log, otherwise.
	Warn func(Warning)
}

// A LostError is returned by Runner.Run when inputs of the step have vanished; the solver finds them again.
type LostError struct{ Inputs []int }

func (e *LostError) Error() string { return "an input of the step is gone" }

// A Stream is one of the two output streams of a step.
type Stream int

// The streams, numbered as file descriptors.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// A Status is the progress of a named part of a step.
type Status struct {
	ID             string // unique in the vertex: "sha256:…", "exporting layers"
	Action         string // "downloading", "extracting"; empty if the ID says it all
	Current, Total int64  // bytes, or 0 when unknown
	Started, Ended time.Time
}

// A Warning tells a user of something that fails nothing.
type Warning struct {
	Short  string
	Detail []string
	URL    string
	File   string
	Source []Range
	Quote  string // the lines of Source, marked, ready to print; may be empty
	Text   []byte // of the whole of File, if that is known; not to be changed
	// What follows are a client's own words, for clients that know them.
	Vertex     string  `json:",omitempty"` // what the client calls the vertex that the warning is of
	Level      int     `json:",omitempty"` // 0 for 1
	Columns    []Range `json:",omitempty"` // of Source, which has as many: the characters in the lines
	Language   string  `json:",omitempty"` // of File; empty for Dockerfile
	Definition []byte  `json:",omitempty"` // of the tree with File, as the client's protocol has it
}

// A Cache remembers the results of keys. It is safe for concurrent use.
type Cache interface {
	// Get returns what was put last under k, or ErrMiss; never (nil, nil).
	Get(ctx context.Context, k Key) ([]Result, error)
	// Put records out under k, replacing what was there.
	Put(ctx context.Context, k Key, out []Result) error
}

// A Describer is a Cache that also keeps what a key is the hash of, to explain a miss with later.
type Describer interface {
	Describe(ctx context.Context, k Key, rec Record)
}

// A Record describes a key that has been put.
type Record struct {
	Document string        // what the key is the hash of
	Name     string        // the vertex's name
	Recipe   Key           // the vertex's recipe key
	Duration time.Duration // how long the step ran; the value of the record
}

// A Build is a request to solve: the vertices asked for and where to report.
type Build struct {
	ID      string  // unique among the builds of the solver
	Targets []Input // what is asked for; Select is ignored
	// Events takes every event of the build, in order, from one goroutine at a time. It must not block for long.
	Events func(Event)
}

// An EventKind says what an Event reports.
type EventKind int

// The kinds of events. A vertex has at most one Started and exactly one of Cached, Done, Failed and Canceled; one that
// was never needed has none. Vertices of a build that are equal, by recipe key and in whether they ignore the cache, are
// one: the events are those of the vertex that is met first. Output may come after the final event when a result was
// lost and the step had to run again.
const (
	_        EventKind = iota
	Declared           // the vertex belongs to what is being solved; for all vertices before anything else, inputs first
	Started            // its step has started to run, here or in another build that this one has joined
	Cached             // found, by a recipe or step key
	Done               // ran to its end
	Failed             // Err says why
	Canceled           // given up, since the build failed elsewhere or was cancelled
	Logged             // Stream and Data
	Progress           // Status
	Warned             // Warning
)

// An Event is something that happened to a vertex of a build.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Vertex  *Vertex
	Stream  Stream
	Data    []byte
	Status  Status
	Warning Warning
	Err     error
	// Key and Hit say, for Cached, which key was hit: the recipe key or the step key. For Started, Key is the step key.
	Key Key
	Hit HitKind
}

// A HitKind says what a cache hit was found by.
type HitKind int

// The kinds of hits.
const (
	NoHit HitKind = iota
	RecipeHit
	StepHit
)

// A VertexError is a failure of a vertex: the error with the vertex whose step it was.
type VertexError struct {
	Vertex *Vertex
	Err    error
	// Shown is the vertex as which the work of Vertex was shown to people; nil if that is Vertex.
	Shown *Vertex
}

func (e *VertexError) Error() string { return e.Err.Error() }

// Unwrap returns the failure itself.
func (e *VertexError) Unwrap() error { return e.Err }
