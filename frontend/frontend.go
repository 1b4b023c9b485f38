// Package frontend turns what a user writes into a graph of vertices.
//
// A Frontend translates a Request; it touches the world only through its Env, which pins sources, reads files of
// vertices and looks up image configurations. It never runs a step itself and never links a driver. What comes out is,
// for each platform, the vertex whose result is the image's root file system, and the image's configuration.
package frontend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// ImageConfig is the configuration of an image: OCI's with Docker's extensions (health check, ONBUILD, shell).
type ImageConfig = dockerspec.DockerOCIImage

// A Frontend translates requests. It is safe for concurrent use.
type Frontend interface {
	// Translate returns the graph for req. An error that comes from the user's text is a *SourceError, one that is
	// about the request itself (an unknown target) a *UsageError or a *SourceError.
	Translate(ctx context.Context, req *Request, env Env) (*Output, error)
}

// An Env is what a frontend may ask of the builder. It is safe for concurrent use, and answers of one build are
// consistent: the same question has the same answer.
type Env interface {
	// Pin returns src with what it names fixed: a tag to a digest, a directory to the root of its content. It does not
	// change src. What cannot be found is an error which says so and names it. A digest that an Image already has may be
	// that of an index; the answer has the manifest's for its platform.
	Pin(ctx context.Context, src op.Source) (op.Source, error)
	// ImageConfig returns the configuration of a pinned image.
	ImageConfig(ctx context.Context, img *op.Image) (*ImageConfig, error)
	// ReadFile returns a file's content, at most 16 MiB, from a result; fs.ErrNotExist if it is not there, ErrNoFile if
	// something else is. Symlinks are resolved inside the result.
	ReadFile(ctx context.Context, in solver.Input, path string) ([]byte, error)
	// Step runs fn as a vertex that is shown to the user under name and has no result: "[internal] load metadata for
	// …". What fn returns Step returns.
	Step(ctx context.Context, name string, fn func(ctx context.Context) error) error
	// Warn reports something that the user should know and that fails nothing. It is shown with the vertex that w.Vertex
	// names, if there has been such, or else with the user's file.
	Warn(w solver.Warning)
}

// ErrNoFile says that a path leads to what is no regular file, or to a symlink that leads round in circles.
var ErrNoFile = errors.New("not a regular file")

// A LargeFileError says that a directory of the client's has a file that is larger than the source allows (op.Local.Largest).
type LargeFileError struct {
	Path      string // in the directory, with a slash before it
	Size, Max int64  // bytes
}

func (e *LargeFileError) Error() string {
	return fmt.Sprintf("%.300q has %d bytes, more than the %d allowed", e.Path, e.Size, e.Max)
}

// A HeadReader is an Env that can read the beginning of a file of any size.
type HeadReader interface {
	// ReadHead is ReadFile for at most the first n bytes.
	ReadHead(ctx context.Context, in solver.Input, path string, n int) ([]byte, error)
}

// A SourceStepper is an Env that shows the pinning of a source which a client has defined where that client looks for it.
type SourceStepper interface {
	// SourceStep is Step under the name of v, the source, and under known, the digest by which the client knows it. While fn
	// runs, part is shown as under way, unless it is empty. What was done before under the same digest is not shown again.
	SourceStep(ctx context.Context, v *solver.Vertex, known digest.Digest, part string, fn func(ctx context.Context) error) error
}

// An Asker is an Env that shows a question as that of all builds which ask it.
type Asker interface {
	// AskStep is Step for fn that finds out what src is. To a client that shows several builds at once, those that ask this
	// under the same name have one step.
	AskStep(ctx context.Context, name string, src op.Source, fn func(ctx context.Context) error) error
}

// AskStep is env.AskStep if env has that and src is an image, and else env.Step.
func AskStep(ctx context.Context, env Env, name string, src op.Source, fn func(ctx context.Context) error) error {
	if a, ok := env.(Asker); ok {
		if _, ok := src.(*op.Image); ok {
			return a.AskStep(ctx, name, src, fn)
		}
	}
	return env.Step(ctx, name, fn)
}

// A Dater is an Env that can tell when a source was made.
type Dater interface {
	// SourceTime returns the time of a pinned source: of the commit of a Git, what a server says of an HTTP or else the
	// time of the youngest regular file in it if it is an archive. It is nil for what has none.
	SourceTime(ctx context.Context, src op.Source) (*time.Time, error)
}

// A Request is what a user asks a frontend for.
type Request struct {
	// Context is the build context, unpinned; nil if there is none. Include, Exclude and Follow of a Local are the
	// frontend's to set.
	Context op.Source
	// ContextSubdir is the directory of a Context that is not a Local which COPY and ADD read from; "" is its root. The
	// Dockerfile is at the root all the same.
	ContextSubdir string
	// Dockerfile is where Filename is read from, unpinned: often a Local of another name with the same directory. It
	// is nil if Text is set.
	Dockerfile op.Source
	Filename   string // "Dockerfile" if empty
	Text       []byte // the Dockerfile itself
	// Contexts are the named contexts: "base" to a source, or to "target:name", a stage of the same file.
	Contexts map[string]string

	Target    string
	BuildArgs map[string]string
	Labels    map[string]string
	Platforms []op.Platform // asked for; empty means Default
	// Multi says, if set, whether the result is an index; else it is one for several platforms. The build argument
	// BUILDKIT_MULTI_PLATFORM goes before it.
	Multi *bool
	// Default is the platform of the daemon.
	Default op.Platform

	NoCache       bool
	NoCacheStages []string // only these stages, if not empty
	Pull          bool     // look tags up in the registry even if the store has them
	PreferLocal   bool     // use what the store has under a tag even if the builder asks registries
	Network       op.Network
	ExtraHosts    []op.HostIP
	Hostname      string
	ShmSize       int64
	Ulimits       []op.Ulimit
	Limits        op.ExecLimits
	CgroupParent  string
	Entitlements  []string // see ParseGrants; what is here the daemon allows

	// Inputs are trees that whoever asks has made, by name. Those called "context" and "dockerfile" are what Context and
	// Dockerfile would be if these are directories of the client's; a named context "input:name" is one, too.
	Inputs map[string]Tree
	// Attrs is the request as a client of BuildKit's put it; nil for others. Frontends from images read them.
	Attrs map[string]string
	// Session is the client's, as BuildKit names it; may be empty.
	Session string
	// SharedKeys tell directories of the client's apart that have one name, by the name of the context: see op.Local.
	SharedKeys map[string]string
	// Sessions say whose a directory is, by its name, that is not the client's own.
	Sessions map[string]string
	// Forwarded says that it has been settled which frontend the Dockerfile is for, whatever its syntax line says.
	Forwarded bool
}

// A Tree is a tree that was made before a request.
type Tree struct {
	Root *solver.Input // nil for the empty one
	// Config is the configuration of the image that it is of, as it was written; nil for none.
	Config []byte
}

// A ForeignError says that a Dockerfile is for another frontend, which is in an image.
type ForeignError struct {
	Ref     string // of the image
	Cmdline string // the whole line after "syntax="
	Err     error  // what to tell if there is no way to run it, with where it was asked for
}

func (e *ForeignError) Error() string { return e.Err.Error() }

// Unwrap returns the error that it stands for.
func (e *ForeignError) Unwrap() error { return e.Err }

// An Output is what a request was translated to.
type Output struct {
	Images []Image // one a platform, in the order of the request
	// Multi says that the result is an index of Images, also if there is one only.
	Multi bool
	// File and Text are the user's file that it was translated from, which the vertices' ranges are in.
	File string
	Text []byte
	// Metadata is what else the frontend says of the result, by BuildKit's names; usually nil.
	Metadata map[string][]byte
}

// An Image is the translation for one platform.
type Image struct {
	Platform op.Platform
	// Root is the vertex output that is the root file system; nil for an image without layers.
	Root *solver.Input
	// Config has everything but the layers: RootFS is empty, Created may be nil, and the history's entries lack times.
	Config ImageConfig
	// Raw is, if it is not nil, the configuration as somebody else wrote it: what counts instead of Config, with all that
	// boxbuild does not know of.
	Raw []byte
	// Layers are the vertex outputs that make a layer each, lowest first, one for each history entry that is not empty
	// beyond the base image. Root is the last one, or Base.
	Layers []solver.Input
	// Base is the image that it starts from; nil for scratch. BaseConfig is its configuration.
	Base       *op.Image
	BaseConfig *ImageConfig
	// Epoch is SOURCE_DATE_EPOCH: the latest time that anything in the image may have. It is nil if there is none.
	Epoch *time.Time
}

// A SourceError is an error in a file of the user's: it knows where.
type SourceError struct {
	File   string
	Text   []byte // of the whole file
	Ranges []solver.Range
	Err    error
}

// Error names file and line; Quote has the lines themselves.
func (e *SourceError) Error() string {
	if len(e.Ranges) == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Ranges[0].Start, e.Err)
}

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// Quote returns the lines in question with a few around them, as BuildKit prints them.
func (e *SourceError) Quote() string {
	ranges := make([]report.Range, len(e.Ranges))
	for i, r := range e.Ranges {
		ranges[i] = report.Range{Start: report.Position{Line: r.Start}, End: report.Position{Line: r.End}}
	}
	return report.Quote(e.File, e.Text, ranges)
}

// maxWhole is the size up to which a file is given whole with what is said of a few of its lines, in bytes.
const maxWhole = 256 << 10

// Excerpt returns what programs have to know of Text to show the lines in question and a few around them: all of it, or if
// that is long the text up to there with all other lines empty. It is nil if nothing can be shown, or that is long too.
func (e *SourceError) Excerpt() []byte {
	if len(e.Text) <= maxWhole {
		return e.Text
	}
	if len(e.Ranges) == 0 {
		return nil
	}
	const around = 5 // as many as clients show
	first, last := e.Ranges[0].Start, 0
	for _, r := range e.Ranges {
		first, last = min(first, r.Start), max(last, r.Start, r.End)
	}
	var out []byte
	n := 0
	for line := range bytes.Lines(e.Text) {
		if n++; n > last+around || len(out)+len(line) > maxWhole {
			break
		}
		if n < first-around {
			line = line[len(line)-1:]
		}
		out = append(out, line...)
	}
	if n < first {
		return nil
	}
	return slices.Clip(out)
}

// Targets are the root file systems of the images; an image that is empty has none.
func (o *Output) Targets() []solver.Input {
	var targets []solver.Input
	for i := range o.Images {
		if root := o.Images[i].Root; root != nil {
			targets = append(targets, *root)
		}
	}
	return targets
}

// A UsageError is a request that cannot be met whatever the files say.
type UsageError struct{ Message string }

func (e *UsageError) Error() string { return e.Message }

// ParseDigest is digest.Parse limited to what boxbuild uses in paths: SHA-256 and SHA-512.
func ParseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("parsing digest %q: %w", s, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("parsing digest %q: unsupported algorithm %s", s, a)
	}
	return d, nil
}
