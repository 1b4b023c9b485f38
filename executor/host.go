package executor

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"
)

// A Host starts containers: sandboxes that outlive the program that started them. Each has a keeper, a process of its
// own, which holds the streams, writes the log and records how every process ended. A keeper is found again by the
// directory of its container, whoever asks. A Host is safe for concurrent use.
//
//	Create ──> created ──Run("")──> running ──> ended ──Delete──> gone
//	              └── Open, by a daemon that has been restarted, in each of these states
type Host interface {
	// Create starts the keeper of the container whose directory is dir, and has it make all that spec says; the first
	// process waits for Run. dir is on a disk and the container's alone: the keeper has its socket and its records there.
	// When it fails nothing is left behind.
	Create(ctx context.Context, dir string, spec *Spec, opt HostOptions) (Container, error)
	// Open finds the container of dir again. When its keeper is gone, because all has ended or the machine was restarted,
	// the error is a *GoneError.
	Open(ctx context.Context, dir string) (Container, error)
}

// HostOptions are what the keeper of a container does beyond its sandbox.
type HostOptions struct {
	// OpenStdin gives the first process a standard input that attachments write to; without it it reads nothing.
	// StdinOnce ends it when the first attachment that writes has closed its side, or has gone.
	OpenStdin, StdinOnce bool
	Log                  Log
}

// A Log says where a keeper writes what the first process says.
type Log struct {
	Driver   string            // "json-file", "local" or "none", as docker's log drivers
	Path     string            // of the file; older ones are Path.1, Path.2, …
	MaxSize  int64             // bytes of a file until it is rotated; 0 for no limit
	MaxFiles int               // kept, with the one being written; 0 means 1
	Compress bool              // older files with gzip
	Attrs    map[string]string // with each line: labels and variables that the user named
	Buffer   int64             // bytes that may wait for the disk until lines are lost; 0 has the process wait for it
}

// A Container is a sandbox with a keeper. Its processes have IDs: "" is the first, the others are the caller's. Methods
// are safe for concurrent use. A Container of a keeper that has gone answers with a *GoneError.
type Container interface {
	// Add prepares one more process, which waits for Run as the first does.
	Add(ctx context.Context, id string, p *Process, openStdin bool) error
	// Attach connects to streams of a process that has not ended, before it runs or later. What comes out of a terminal is
	// as it is, else in Docker's frames (a stream's number, three zeros, four bytes of length). What an attachment does not
	// read for long is lost to it, and never holds up the process.
	Attach(ctx context.Context, id string, s Streams) (Attachment, error)
	// Run lets a process run. A command that cannot be executed is a *StartError.
	Run(ctx context.Context, id string) error
	// Signal sends sig to a process, os.ErrProcessDone once that has ended.
	Signal(ctx context.Context, id string, sig syscall.Signal) error
	// Resize sets the size of the terminal of a process.
	Resize(ctx context.Context, id string, rows, cols uint16) error
	// Wait waits until a process has ended and its output has been written in full. The end of the first process ends all.
	Wait(ctx context.Context, id string) (Exit, error)
	// Pid returns the number of a process in the host's namespace, 0 while or when it has none.
	Pid(id string) int
	// Pids are all processes of the container, as the host numbers them.
	Pids(ctx context.Context) ([]int, error)
	// Pause freezes all processes, Resume lets them go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Update replaces the limits.
	Update(ctx context.Context, l Limits) error
	Stats(ctx context.Context) (*Stats, error)
	// Delete kills what still runs, ends the keeper and gives every resource back but the directory. It is idempotent.
	Delete(ctx context.Context) error
	// Close forgets the container, which runs on.
	Close() error
}

// An OOMWatcher is a Container that tells when memory is short for its processes, while they run.
type OOMWatcher interface {
	// WatchOOM has told called each time the kernel kills, or is about to kill, a process of the container for want of
	// memory, from a goroutine that others wait for, until stop returns. stop is idempotent.
	WatchOOM(told func()) (stop func(), err error)
}

// A Lister is a Container that knows which processes it has, also those of a caller that is gone.
type Lister interface {
	// List returns the IDs of the processes that have not ended, in no order.
	List(ctx context.Context) ([]string, error)
}

// A Limiter is a Host that knows which limits containers can have here.
type Limiter interface {
	// Limitable says what the kernel and the cgroups of containers can limit. A limit that is not among it is an error of Create
	// or has no effect.
	Limitable() Limitable
}

// Limitable are the limits of containers that there are, by the fields of Limits.
type Limitable struct {
	Memory, Swap, MemoryReservation, Swappiness, OOMKillDisable, Pids bool
	CPUShares, CPUQuota, CPUSet                                       bool
	BlkioWeight, BlkioWeightDevice                                    bool
	ReadBPS, WriteBPS, ReadIOPS, WriteIOPS                            bool // of block devices
}

// A Confiner is a Host that knows by which security modules containers can be confined here.
type Confiner interface {
	// Confines says which modules the kernel has enabled. A profile or a label of another is an error of Create.
	Confines() Modules
}

// Modules are the security modules of a kernel, by the fields of Spec.
type Modules struct{ AppArmor, SELinux bool }

// Streams say which streams of a process an attachment has.
type Streams struct{ Stdin, Stdout, Stderr bool }

// An Attachment is a connection to a process. Read returns io.EOF when the process has ended and all has been read. Close
// detaches.
type Attachment interface {
	io.ReadWriteCloser
	// CloseWrite ends the standard input, after what has been written. Of a process whose input is to outlive its attachments
	// it ends the attachment instead: Read returns io.EOF then.
	CloseWrite() error
}

// A GoneError says that a container's keeper is there no more.
type GoneError struct {
	Exit  Exit // of the first process
	Known bool // whether Exit is
}

func (e *GoneError) Error() string { return "the container has ended" }

// ErrNotRunning is the answer to what needs a process that runs. Callers test for it with errors.Is.
var ErrNotRunning = errors.New("not running")

// Stats are what a container has used since it was made. What the kernel does not tell is zero.
type Stats struct {
	Read time.Time

	CPUTotal, CPUUser, CPUKernel time.Duration
	CPUPer                       []time.Duration // by CPU; nil on cgroup v2
	Periods, Throttled           uint64
	ThrottledTime                time.Duration

	Memory, MemoryPeak, MemoryLimit uint64            // bytes
	MemoryDetail                    map[string]uint64 // memory.stat, by the kernel's names
	OOMKills                        uint64

	Pids, PidsLimit uint64
	IO              []IOStat
}

// IOStat is what a container has read from and written to a block device.
type IOStat struct {
	Major, Minor uint64
	Op           string // "read", "write", "sync", "async", "discard", "total"
	Bytes, Ops   uint64
}
