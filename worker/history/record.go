package history

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// A Status is how far a build is.
type Status string

// The statuses, in BuildKit's words.
const (
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "error"
	Canceled  Status = "canceled"
)

// A Record is what is known of a build. It is a value: nobody changes one that was given away.
type Record struct {
	ID string
	// Origin is the request as the client put it. It has no secrets.
	Origin worker.Origin
	Tags   []string `json:",omitempty"`
	// TraceParent is the client's span that the build is part of, see Options.TraceParent.
	TraceParent string `json:",omitempty"`

	Created time.Time
	Ended   time.Time `json:",omitzero"` // zero while it runs
	Status  Status
	Error   *Error `json:",omitempty"`
	Steps   Steps
	Result  *Result `json:",omitempty"`

	Pinned bool `json:",omitempty"`
	// Internal builds are not for the user: they are not listed, and soon removed.
	Internal bool `json:",omitempty"`
	// Generation counts the changes of the record that a user or a service made, from 1.
	Generation int
	// Attachments are what services keep with the record, by names of theirs: see Store.Attach.
	Attachments map[string]ocispec.Descriptor `json:",omitempty"`
	// LogError says why the log lacks its end, if it does.
	LogError string `json:",omitempty"`
}

// Steps counts the vertices of a build.
type Steps struct {
	Total     int // known so far
	Cached    int
	Completed int // Cached included, and those that failed
	Warnings  int
}

// A Result is what a build made. One that has failed may have Exports and Documents, of what it had exported.
type Result struct {
	Images   []Image           `json:",omitempty"`
	Metadata map[string]string `json:",omitempty"` // as worker.BuildResult has it
	Report   []byte            `json:",omitempty"` // JSON, of a call other than a build
	// Exports and Documents are as worker.BuildResult has them.
	Exports   map[int]ocispec.Descriptor `json:",omitempty"`
	Documents []digest.Digest            `json:",omitempty"`
}

// An Image is one that was built.
type Image struct {
	Platform op.Platform
	ID       string // the digest of its config
	Names    []string
}

// Duration returns how long the build took, or has been running at now.
func (r *Record) Duration(now time.Time) time.Duration {
	if !r.Ended.IsZero() {
		now = r.Ended
	}
	return now.Sub(r.Created)
}

// clone returns a copy that shares nothing that changes.
func (r *Record) clone() *Record {
	c := *r
	c.Tags = slices.Clone(r.Tags)
	c.Attachments = maps.Clone(r.Attachments)
	return &c
}
