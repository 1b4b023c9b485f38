package frontend

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// The interfaces of this file are what a frontend needs that lets somebody else decide, step by step, what to build: a
// client, or a program from an image. Each is found by assertion on an Env, and is safe for concurrent use. What they
// have made stays until the build ends, also if whoever asked has gone.

// A FileReader is an Env that looks at the file systems of results. Paths are absolute in a result; symlinks are resolved
// inside it. What is not there is an fs.ErrNotExist.
type FileReader interface {
	// ReadRange returns length bytes of a file from offset, or fewer at its end; at most 16 MiB. A length of 0 is all that
	// there is, as an error if that is more.
	ReadRange(ctx context.Context, in solver.Input, path string, offset, length int64) ([]byte, error)
	// ReadDir returns what is in a directory, sorted by name, with the names as paths. Pattern, if it is not empty, is one
	// of path.Match that names have to match.
	ReadDir(ctx context.Context, in solver.Input, dir, pattern string) ([]FileInfo, error)
	// StatFile describes a file, or what a symlink leads to.
	StatFile(ctx context.Context, in solver.Input, path string) (*FileInfo, error)
}

// A FileInfo describes a file.
type FileInfo struct {
	Path     string
	Mode     uint32 // st_mode: type and permission bits as in stat(2)
	UID, GID uint32
	Size     int64
	MTime    time.Time
	Link     string // target of a symlink
	Rdev     uint64 // of a device node
	Xattr    map[string][]byte
}

// An Evaluator is an Env that can have something made before the whole is.
type Evaluator interface {
	// Evaluate solves ins, all at once. A failure is a *solver.VertexError.
	Evaluate(ctx context.Context, ins ...solver.Input) error
}

// A Ruler is an Env whose sources are subject to a policy.
type Ruler interface {
	// Allowed returns the source that the build uses in place of src, which may be src, or an error that says that it is
	// denied. Pin and what a Resolver does ask by themselves.
	Allowed(ctx context.Context, src op.Source) (op.Source, error)
}

// A Resolver is an Env that says more of a source than what it is pinned to.
type Resolver interface {
	// ResolveImage looks an image up, as img.Resolve says.
	ResolveImage(ctx context.Context, img op.Source) (*ImageMeta, error)
	// Attestations returns what an image that ResolveImage has found is attested and signed with, and the content of what
	// attests any of predicates. It is nil for what has no OCI index, or is in no registry.
	Attestations(ctx context.Context, img *ImageMeta, predicates []string) (*AttestationChain, error)
	// ResolveGit finds the commit of a repository, and with objects returns what Git has of it and of its tag.
	ResolveGit(ctx context.Context, src *op.Git, objects bool) (*GitMeta, error)
	// ResolveHTTP fetches a file. If sum is not nil, the sum of its content and the suffix is computed too.
	ResolveHTTP(ctx context.Context, src *op.HTTP, sum *SumRequest) (*HTTPMeta, error)
}

// ImageMeta is what an image turned out to be.
type ImageMeta struct {
	// Pinned is the source for what was found.
	Pinned *op.Image
	// Digest is what the reference names: that of the index, if it is one that is known.
	Digest digest.Digest
	Config []byte // as it is stored
}

// An AttestationChain leads from an index to what attests how its image for a platform was made, and to who has signed that.
type AttestationChain struct {
	Root          digest.Digest // of the index
	ImageManifest digest.Digest // of the image in it; empty if it is not there
	Attestation   digest.Digest // of the manifest of attestations; empty if there is none
	Signatures    []digest.Digest
	// Blobs are all of these but the image's manifest, with what the signatures consist of.
	Blobs map[digest.Digest]AttestationBlob
}

// An AttestationBlob is content with the descriptor that led to it.
type AttestationBlob struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// GitMeta is what a reference to a repository turned out to be.
type GitMeta struct {
	Ref            string // the full name; empty for a hash
	Checksum       string // the hash of what Ref names: of the tag, for an annotated one
	CommitChecksum string // of the commit, if Checksum is not that
	Commit, Tag    []byte // the objects, where they were asked for
}

// A SumRequest asks for the sum of a file's content with a suffix.
type SumRequest struct {
	Algorithm digest.Algorithm
	Suffix    []byte
}

// HTTPMeta is what a server said of a file.
type HTTPMeta struct {
	Digest   digest.Digest
	Filename string
	Modified time.Time // zero if the server does not say
	Sum      digest.Digest
}

// Containers is an Env that runs processes which are not part of the graph: what they write is thrown away.
type Containers interface {
	// NewContainer prepares a container, solving what it mounts. Nothing runs in it yet. What the build has not been granted
	// is an error. The container ends at the latest with the build.
	NewContainer(ctx context.Context, spec *ContainerSpec) (Container, error)
}

// A ContainerSpec describes a container.
type ContainerSpec struct {
	Mounts     []ContainerMount // one is "/"
	Network    op.Network
	Hostname   string
	ExtraHosts []op.HostIP
	Platform   op.Platform
}

// A ContainerMount is a mount of a container. Input and Output of the ExecMount mean nothing here.
type ContainerMount struct {
	op.ExecMount
	In *solver.Input // nil for an empty one
	// Left, if it is not empty, is mounted instead of In: what a step of this build has left that failed, see
	// solver.LeftError.
	Left solver.Result
}

// A Container is a sandbox that processes are started in. It is safe for concurrent use.
type Container interface {
	// Start starts a process. The first one makes the sandbox, and all others end with it. Cancelling ctx before it
	// returns aborts it; afterwards ctx has no more effect. A command that cannot be executed is an error of Wait.
	Start(ctx context.Context, p *ProcessSpec) (Process, error)
	// ReadRange, ReadDir and StatFile look at the mount of that index in ContainerSpec.Mounts, as it is now; otherwise
	// they are those of FileReader.
	ReadRange(ctx context.Context, mount int, path string, offset, length int64) ([]byte, error)
	ReadDir(ctx context.Context, mount int, dir, pattern string) ([]FileInfo, error)
	StatFile(ctx context.Context, mount int, path string) (*FileInfo, error)
	// Close ends what runs and gives everything back. It is idempotent.
	Close() error
}

// A ProcessSpec is a process to start. A nil Stdin reads nothing; a nil writer discards. What the process wrote has been
// written when Wait returns. Nothing is closed.
type ProcessSpec struct {
	Args, Env []string
	Cwd, User string
	Secrets   []op.SecretEnv
	Security  op.Security
	Proxy     *op.ProxyEnv
	Ulimits   []op.Ulimit
	Terminal  bool // Stderr is unused then
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
}

// A Process is one that was started. It is safe for concurrent use.
type Process interface {
	Signal(sig syscall.Signal) error
	// Resize sets the size of the terminal; it is an error if there is none.
	Resize(rows, cols uint16) error
	// Wait waits for the end, and returns the exit code, 128+n for signal n. err says that the process did not start or
	// that its end was not seen; a code other than 0 is no error.
	Wait(ctx context.Context) (code int, err error)
}

// A Logger is an Env whose steps can have output.
type Logger interface {
	// LoggedStep is Step for fn that writes what the user is to see of it, and which is not shown if that is nothing. log is
	// safe for concurrent use.
	LoggedStep(ctx context.Context, name string, fn func(ctx context.Context, log io.Writer) error) error
}
