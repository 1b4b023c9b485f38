package worker

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/executor"
)

// Containers are the containers of the daemon. Requests and answers are those of the Docker Engine API, which is what they
// are kept as. A container is named by its name, its ID or a unique prefix of the ID. Errors are of the classes of
// github.com/containerd/errdefs (NotFound, Conflict, InvalidArgument, …), which services make status codes of; their texts
// are docker's where scripts look for them. It is safe for concurrent use.
type Containers interface {
	// Create makes a container, which does not run. An image that the store does not have is NotFound: the client pulls.
	Create(ctx context.Context, req *ContainerCreate) (*container.CreateResponse, error)
	Start(ctx context.Context, ref string) error
	// Stop sends the container's stop signal, or the one given, and SIGKILL after timeout: nil for the container's own,
	// negative for never. Stopping what does not run is a NotModified error of this package.
	Stop(ctx context.Context, ref string, opt StopOptions) error
	Restart(ctx context.Context, ref string, opt StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, u *container.UpdateConfig) (*container.UpdateResponse, error)
	// Wait returns a channel of one answer; it has been registered when Wait returns, so that nothing that is started
	// afterwards ends unseen.
	Wait(ctx context.Context, ref string, c container.WaitCondition) (<-chan container.WaitResponse, error)
	Remove(ctx context.Context, ref string, opt RemoveContainerOptions) error
	Prune(ctx context.Context, filters Filters) (*container.PruneReport, error)

	List(ctx context.Context, opt ListContainersOptions) ([]container.Summary, error)
	Inspect(ctx context.Context, ref string, size bool) (*container.InspectResponse, error)
	// Top runs ps of the host with args and returns what belongs to the container.
	Top(ctx context.Context, ref string, args []string) (*container.TopResponse, error)
	Stats(ctx context.Context, ref string) (*container.StatsResponse, error)
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)

	// Attach connects to the first process; it does not wait for one.
	Attach(ctx context.Context, ref string, opt AttachOptions) (executor.Attachment, error)
	// Logs writes what the container has said, and with Follow what it says until it ends: in Docker's frames, or for a
	// container with a terminal as it is.
	Logs(ctx context.Context, ref string, opt LogsOptions, w io.Writer) error
	Resize(ctx context.Context, ref string, rows, cols uint16) error
	// Detached notes that a user has left a container, or with exec a process in it, by the keys for that.
	Detached(ref, exec string)

	ExecCreate(ctx context.Context, ref string, req *container.ExecCreateRequest) (id string, err error)
	// ExecStart runs it; with streams it is attached, else the attachment is nil.
	ExecStart(ctx context.Context, id string, req *container.ExecStartRequest, s executor.Streams) (executor.Attachment, error)
	ExecInspect(ctx context.Context, id string) (*container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, rows, cols uint16) error

	// StatPath describes a path in a container, running or not.
	StatPath(ctx context.Context, ref, path string) (*container.PathStat, error)
	// CopyFrom writes a tar of a path, which the base name of the path leads.
	CopyFrom(ctx context.Context, ref, path string, w func(*container.PathStat) io.Writer) error
	CopyTo(ctx context.Context, ref, path string, tar io.Reader, opt CopyToOptions) error
	Export(ctx context.Context, ref string, w io.Writer) error
	// Commit makes an image of a container and returns its ID.
	Commit(ctx context.Context, ref string, opt CommitOptions) (string, error)
}

// ContainerCreate is a request for a container.
type ContainerCreate struct {
	container.CreateRequest
	Name     string // made up if empty
	Platform *ocispec.Platform
	// ReadOnlyTop says that the read-only binds of HostConfig.Binds are so by themselves only, not what is mounted below
	// their sources: as it was before version 1.44 of the API.
	ReadOnlyTop bool
}

// StopOptions are those of stop and restart.
type StopOptions struct {
	Signal  string // "" for the container's own
	Timeout *int   // seconds
}

// RemoveContainerOptions are those of rm.
type RemoveContainerOptions struct{ Force, Volumes, Link bool }

// ListContainersOptions are those of ps.
type ListContainersOptions struct {
	All, Size bool
	Limit     int // the newest; 0 for all
	Filters   Filters
}

// AttachOptions are those of attach.
type AttachOptions struct {
	executor.Streams
	Logs   bool // what was said before comes first
	Stream bool
}

// LogsOptions are those of logs. The zero times mean no bound.
type LogsOptions struct {
	Stdout, Stderr, Timestamps, Details, Follow bool
	Since, Until                                time.Time
	Tail                                        int // lines; negative for all
}

// CopyToOptions are those of cp into a container.
type CopyToOptions struct{ NoOverwriteDirNonDir, CopyUIDGID bool }

// CommitOptions are those of commit.
type CommitOptions struct {
	Name, Author, Message string
	Changes               []string
	NoPause               bool
	Config                *container.Config // merged over the container's; may be nil
}

// An ImageUser is a container that uses an image.
type ImageUser struct {
	Container string // its ID
	Running   bool
}

// A VolumeUse is how a container mounts a volume, of which an event tells.
type VolumeUse struct {
	Container   string
	Destination string // in the container; "" if it is only looked at, of which no event tells
	ReadOnly    bool
	Propagation string
}

// Volumes are the volumes of the daemon. Errors are as those of Containers.
type Volumes interface {
	Create(ctx context.Context, req *volume.CreateRequest) (*volume.Volume, error)
	Inspect(ctx context.Context, name string) (*volume.Volume, error)
	List(ctx context.Context, filters Filters) (*volume.ListResponse, error)
	Remove(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, filters Filters) (*volume.PruneReport, error)
}

// Networks are the networks of the daemon. Errors are as those of Containers.
type Networks interface {
	Create(ctx context.Context, req *network.CreateRequest) (*network.CreateResponse, error)
	Inspect(ctx context.Context, ref string) (*network.Inspect, error)
	List(ctx context.Context, filters Filters) ([]network.Summary, error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, filters Filters) (*network.PruneReport, error)
	Connect(ctx context.Context, ref string, req *network.ConnectRequest) error
	Disconnect(ctx context.Context, ref string, req *network.DisconnectRequest) error
}

// Events are what happens in the daemon, as docker reports it. It is safe for concurrent use.
type Events interface {
	Publish(m events.Message)
	// Watch calls fn with the remembered events from since on, unless that is zero, and then with new ones until until,
	// or until ctx or fn ends it.
	Watch(ctx context.Context, since, until time.Time, filters Filters, fn func(events.Message) error) error
}
