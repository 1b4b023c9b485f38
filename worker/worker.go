// Package worker is what a daemon hosts: the builder, the images, and later containers, networks and volumes. This root
// package holds the requests and answers that they and the services above them share; the services (worker/api/…) are
// thin adapters between a wire protocol and these types.
package worker

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter/local"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/session"
)

// Errors of Images, found with errors.Is.
var (
	ErrNotFound  = errors.New("No such image") //nolint:staticcheck // docker's words, which scripts look for
	ErrInUse     = errors.New("image is in use")
	ErrAmbiguous = errors.New("more than one image matches")
)

// ErrRunning is the error of a build whose ID is that of one that runs. It is found with errors.Is.
var ErrRunning = errors.New("a build of that ID is running")

// ErrRecorded is the error of a build whose ID is that of one that has ended, and which the history has. It is found with
// errors.Is.
var ErrRecorded = errors.New("the history has a build of that ID; choose another, or remove that build")

// ErrDraining is what a daemon that goes down answers to a new build, and the cause with which it cancels one.
var ErrDraining = errors.New("the daemon is going down")

// A Builder performs builds. It is safe for concurrent use.
type Builder interface {
	// Build performs one build and reports its events to events, which is called from one goroutine at a time and must
	// not block for long. Cancelling ctx cancels the build; Build returns once everything that only it needed has
	// ended. An error of the user's text is a *frontend.SourceError or a *solver.VertexError. With an error there may be a
	// result all the same: what had been exported, and no more of it than Exports and Documents.
	Build(ctx context.Context, req *BuildRequest, events func(solver.Event)) (*BuildResult, error)
}

// A BuildRequest is one build.
type BuildRequest struct {
	ID       string // unique; made up if empty
	Frontend frontend.Request
	// Use is the frontend that translates; nil for the daemon's own, which reads Dockerfiles.
	Use frontend.Frontend
	// Origin is the request as the client put it, for the history only.
	Origin Origin
	// Internal says that the history need not remember the build: it is no user's.
	Internal bool
	// Explain adds to the error of a build what its client's side knows of the cause; nil adds nothing. The history calls it.
	Explain func(error) error
	// Begun is called once the history knows the build, before anything happens in it; nil for nobody.
	Begun func()
	// Warnings are about the request itself: each is reported as one of the build's.
	Warnings []solver.Warning
	// Missing are warnings about what the result will not have. They are reported if there is one.
	Missing []solver.Warning
	// Policy is applied to every source before it is pinned; nil allows all.
	Policy SourcePolicy
	// AskRegistries says that tags mean what their registries say now, whatever was pulled before, and that images which are
	// pulled get no name in the store: see op.ResolveRegistry. The first counts for images that ask for nothing else.
	AskRegistries bool

	Sources  Sources
	Keychain authn.Keychain  // the user's registry credentials; nil for none
	Session  session.Session // the client's secrets and agents; nil for none
	Call     frontend.Call   // what is wanted; anything but Build has only a Report for a result
	Tags     []string        // names for the image, as the user wrote them
	Outputs  []Output
	// Platforms are those that the result is to be for, in the client's words. If it is for others there is a warning; none
	// for a client that is not to be warned.
	Platforms []string
	// More returns further outputs, for a client that chooses them when it knows what a frontend says of the result, and
	// warnings about them; it may be nil.
	More func(ctx context.Context, metadata map[string][]byte) ([]Output, []solver.Warning, error)
}

// An Origin is a request for a build in the client's words. It has no secrets.
type Origin struct {
	Frontend string            // "dockerfile.v0", "gateway.v0"; empty where the client directs the build itself
	Attrs    map[string]string // of the frontend, by BuildKit's names
	Outputs  []OriginOutput
}

// An OriginOutput is an output in the client's words.
type OriginOutput struct {
	Type  string
	Attrs map[string]string
}

// Sources give a build the directories of its client.
type Sources interface {
	// Directory returns the client's directory of that name ("context", "dockerfile", a named context).
	Directory(ctx context.Context, name string) (filesync.Source, error)
}

// SessionSources is what Sources have whose client may name the sessions of others.
type SessionSources interface {
	// SessionDirectory is Directory in the session of that ID.
	SessionDirectory(ctx context.Context, session, name string) (filesync.Source, error)
}

// LayoutSources is what Sources have whose client keeps OCI layouts other than as directories.
type LayoutSources interface {
	// Layout returns the files of the layout of that name, in the session of that ID or, if it is empty, in the build's own.
	Layout(ctx context.Context, session, store string) (Layout, error)
}

// A Layout is the files of an OCI layout. It is safe for concurrent use.
type Layout interface {
	// Open opens a file by its name in the layout, "blobs/sha256/…"; fs.ErrNotExist if it is not there.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// A SourcePolicy says what of the world a build may use.
type SourcePolicy interface {
	// Apply returns what is to be used in place of src, which may be src, or an error that says that it is denied. It does
	// not change src. What it needs to know of a source it asks look, under ctx; that is not subject to the policy.
	Apply(ctx context.Context, src op.Source, look frontend.Resolver) (op.Source, error)
}

// Uploads is what Sources have of a client that sends files as its build context.
type Uploads interface {
	// Upload returns what the client sends under that ID, which can be had once. A read fails unless all has come.
	Upload(ctx context.Context, id string) (io.ReadCloser, error)
}

// An OutputType is the kind of an Output.
type OutputType string

// The kinds of outputs.
const (
	OutputImage  OutputType = "image"  // into the store, and to a registry with Push
	OutputDocker OutputType = "docker" // a tar that `docker load` reads
	OutputOCI    OutputType = "oci"    // an OCI layout, as a tar or a directory
	OutputLocal  OutputType = "local"  // the files, in a directory
	OutputTar    OutputType = "tar"    // the files, as a tar
	OutputNone   OutputType = "cacheonly"
)

// An Output is what becomes of the result.
type Output struct {
	Type OutputType
	Push bool
	// Attrs are what the user wrote besides (compression=…, name=…); unknown ones are an error of Build.
	Attrs map[string]string
	// Documented says that an image gets its manifest also if it stays in the store, which costs compressing it.
	Documented bool
	// Attested says that attestations are asked for, which an image would have an index for: without them it has one if
	// there are annotations that need it.
	Attested bool
	// Dest is where bytes go for docker, oci, local and tar.
	Dest Dest
}

// A Dest takes what an Output writes. Exactly one of its fields is set.
type Dest struct {
	// Dir is a directory of this machine that the daemon writes itself, after it has checked that the client may.
	Dir string
	// Stream takes a tar; the files of a directory output are one too, which the client unpacks. An archive of an image that it
	// answers with ErrDeclined has been exported all the same. It may be a Described.
	Stream io.WriteCloser
	// Files takes what a directory output has, for a client that asks for the files that it lacks. The trees are valid
	// until it returns.
	Files func(ctx context.Context, parts []local.Part) error
	// Blob takes the blobs of an oci output one by one: layers, configurations, manifests, and the index if there is one.
	Blob func(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
}

// ErrDeclined is the error of a stream whose client has looked at what is to come and wants none of it, since it has that
// already.
var ErrDeclined = errors.New("the client has the output already")

// A Described is a stream that wants to know what it takes.
type Described interface {
	// Describe is called before the first byte of an image's archive, with what BuildResult.Metadata says of this output.
	Describe(metadata map[string]string)
}

// A BuildResult is what a build made.
type BuildResult struct {
	Images   []BuiltImage
	Metadata map[string]string // as BuildKit's exporter response: "containerimage.digest", "image.name", …
	Report   report.Document   // nil for a Build
	// LastNamed is what BuildKit says for "image.name": the names of the last output that gives any, with commas, of an image as
	// the frontend has written them, if it has.
	LastNamed string
	// Exports are, by the place of an output among those of the request that export anything, the manifests or indexes that
	// left the store. Documents are they and what they name but for layers; the store has them as long as something, such
	// as the history, lets it know that they are of use.
	Exports   map[int]ocispec.Descriptor
	Documents []digest.Digest
}

// A BuiltImage is the image for one platform.
type BuiltImage struct {
	Platform op.Platform
	ID       digest.Digest // of the config
	Names    []string
}

// Images are the images of the store. It is safe for concurrent use. Errors wrap ErrNotFound, ErrInUse and ErrAmbiguous.
type Images interface {
	List(ctx context.Context) ([]ImageSummary, error)
	// Inspect finds an image by name, ID or unique prefix of the ID. Of a name for several platforms it is the one for p;
	// for nil the daemon's own, or else any. So it is with History.
	Inspect(ctx context.Context, ref string, p *op.Platform) (*ImageDetail, error)
	History(ctx context.Context, ref string, p *op.Platform) ([]HistoryEntry, error)
	Tag(ctx context.Context, src, dst string) error
	// Remove removes a name, or an image by ID, with docker's rules; it says what was untagged and what deleted.
	Remove(ctx context.Context, ref string, opt RemoveOptions) ([]Removed, error)
	Pull(ctx context.Context, ref string, opt TransferOptions) (*PullResult, error)
	Push(ctx context.Context, ref string, opt TransferOptions) (ocispec.Descriptor, error)
	// Tags returns the tags that the registry has of a repository, sorted.
	Tags(ctx context.Context, repository string, opt TransferOptions) ([]string, error)
	// Load reads a docker-load tar or an OCI layout tar, compressed or not, and returns the names that it set.
	Load(ctx context.Context, r io.Reader, opt LoadOptions) ([]Loaded, error)
	// Save writes a tar that Load and docker load read. Of names for several platforms it saves the images for those
	// given, or without any all that are there.
	Save(ctx context.Context, refs []string, platforms []op.Platform, w io.Writer) error
	// Import makes an image of one layer of a tar of files, with the Dockerfile instructions in changes applied.
	Import(ctx context.Context, r io.Reader, opt ImportOptions) (digest.Digest, error)
	DiskUsage(ctx context.Context) (*DiskUsage, error)
	// Prune removes what nothing uses, as opt says.
	Prune(ctx context.Context, opt PruneOptions) (*PruneReport, error)
}

// TransferOptions are those of pulls and pushes.
type TransferOptions struct {
	Keychain authn.Keychain
	// Platform is which image of several to pull, nil for the daemon's own; or which to push alone, nil for all.
	Platform *op.Platform
	Quiet    bool
	Progress func(solver.Status)
}

// LoadOptions are those of Load.
type LoadOptions struct {
	Platforms []op.Platform // only images for these; none for all
	Progress  func(solver.Status)
}

// ImportOptions are those of Import.
type ImportOptions struct {
	Name     string // may be empty
	Message  string
	Changes  []string // CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
	Platform *op.Platform
}

// RemoveOptions are those of Remove.
type RemoveOptions struct {
	Force   bool
	NoPrune bool // untagged parents stay, and what nothing refers to any more
	// Platforms are those whose images are removed, of a name for several; the name stays with the others.
	Platforms []op.Platform
}

// ImageSummary is a line of a list of images.
type ImageSummary struct {
	ID          digest.Digest
	Names       []string // canonical references with tags; empty for a dangling image
	RepoDigests []string
	// NameDigests are the digests of what registries had under Names when these were last pulled or pushed, where that is
	// known; "" for one that was removed.
	NameDigests map[string]digest.Digest
	Created     time.Time
	Size        int64 // bytes of the files in all layers
	SharedSize  int64 // of those, bytes of layers that other images have too
	ContentSize int64 // bytes of the blobs that the store has of it
	ConfigSize  int64 // of those, bytes of the config, which ID is the digest of
	Labels      map[string]string
	Platform    op.Platform
	Parent      digest.Digest // the image that it was made of by a commit, while that is there; "" for none
}

// ImageDetail is everything about an image.
type ImageDetail struct {
	ImageSummary
	Config frontend.ImageConfig
	// Raw is the config as stored.
	Raw        []byte
	Layers     []digest.Digest // diff IDs, lowest first
	LastTagged time.Time
}

// HistoryEntry is a step of an image's history, newest first as docker prints them.
type HistoryEntry struct {
	ID        string // of the image for the newest, else "<missing>"
	Created   time.Time
	CreatedBy string
	Size      int64
	Comment   string
	Tags      []string
}

// Removed is one effect of Remove: exactly one field is set.
type Removed struct {
	Untagged string
	Deleted  string
}

// PullResult says what was pulled.
type PullResult struct {
	Name    string
	Digest  digest.Digest // of the manifest or index
	ID      digest.Digest
	Updated bool // false if the store had it
}

// Loaded is one image that Load set.
type Loaded struct {
	Name string // empty if the archive has none
	ID   digest.Digest
}

// DiskUsage says what the store holds.
type DiskUsage struct {
	Images     UsageClass
	BuildCache UsageClass
	Records    []UsageRecord
	Total      int64 // bytes of all that the store keeps, each once
}

// UsageClass sums up a kind of objects.
type UsageClass struct {
	Total, Active     int
	Size, Reclaimable int64
}

// UsageRecord is one object of the build cache.
type UsageRecord struct {
	ID          string
	Parent      string   // the first of Parents
	Parents     []string // what it stands on; it frees only its own bytes
	Type        string   // "regular", "source.local", "exec.cachemount", …
	Description string
	Size        int64
	Created     time.Time
	LastUsed    time.Time
	Uses        int
	InUse       bool
	Shared      bool // an image has it too: removing the record frees nothing
	Mutable     bool // it is written to by who uses it, as a cache mount is
}

// PruneOptions say what to prune.
type PruneOptions struct {
	All       bool          // also what has a name but no use; for the cache, what images share
	Images    bool          // dangling images, or all unused with All
	Cache     bool          // the build cache
	KeepFor   time.Duration // spare what was used within that time
	KeepBytes int64         // stop once the cache is as small as that
	Labels    []string      // only images with (or, with "!=", without) these labels
	// Match says which records of the cache may be removed; nil for all.
	Match func(*UsageRecord) bool
	// Records has the report say what was removed of the cache, which costs looking at all of it before.
	Records bool
}

// PruneReport says what was pruned.
type PruneReport struct {
	Images []Removed
	Cache  []string
	// Records are those of Cache, with PruneOptions.Records, as they were before.
	Records []UsageRecord
	Freed   int64
}
