// Package executor runs processes in sandboxes: what RUN does in a build, and what a container does.
//
// An Executor knows paths, file descriptors and processes; it knows neither images nor snapshots. A caller describes a
// sandbox with a Spec, gets a Sandbox whose first process runs already, may start others in it, waits, and closes.
// Everything that a build or a container executes goes through this one path, so that there is one place that decides
// on namespaces, capabilities, seccomp and mounts. Package executor/sandbox makes those decisions, as pure functions
// from a Spec; package executor/libcontainer carries them out inside the program boxshim; package executor/shim is the
// Executor of the daemon that talks to it.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// An Executor starts sandboxes. It is safe for concurrent use.
type Executor interface {
	// Start makes a sandbox and starts its first process. It returns once the process runs, or with an error and
	// nothing left behind. Cancelling ctx before Start returns aborts it; afterwards ctx has no more effect.
	// A command that does not exist or may not be executed is a *StartError.
	Start(ctx context.Context, spec *Spec, io IO) (Sandbox, error)
}

// A Sandbox is a running process tree with its namespaces, mounts and cgroup. Its methods are safe for concurrent use.
type Sandbox interface {
	// Exec runs one more process in the sandbox and waits for it. Cancelling ctx kills that process.
	Exec(ctx context.Context, p *Process, io IO) (Exit, error)
	// Signal sends sig to the first process. It returns os.ErrProcessDone once that has ended.
	Signal(sig syscall.Signal) error
	// Wait waits until the first process has ended and its output has been written in full. It may be called any
	// number of times. An error means that the end was not seen (the shim died), or that ctx was cancelled.
	Wait(ctx context.Context) (Exit, error)
	// Close kills what is left of the process tree and gives every resource back. When it returns no process of the
	// sandbox runs and nothing holds the root's mounts. It is idempotent.
	Close() error
}

// A Spawner is a Sandbox that starts a process without waiting for it. All sandboxes of this module's executors are.
type Spawner interface {
	// Spawn starts one more process in the sandbox, as Exec does. Cancelling ctx before Spawn returns aborts it;
	// afterwards ctx has no more effect.
	Spawn(ctx context.Context, p *Process, io IO) (Running, error)
}

// A Running is a process that was started. Its methods are safe for concurrent use. The Sandbox of a Spawner is one, for
// its first process.
type Running interface {
	// Signal sends sig. It returns os.ErrProcessDone once the process has ended.
	Signal(sig syscall.Signal) error
	// Resize sets the size of the process's terminal, in characters. Without a terminal it is an error.
	Resize(rows, cols uint16) error
	// Wait is as that of Sandbox.
	Wait(ctx context.Context) (Exit, error)
}

// ErrNoTerminal is returned by Resize for a process that has none.
var ErrNoTerminal = errors.New("the process has no terminal")

// IO is where the standard streams of a process go. A nil Stdin reads nothing; a nil writer discards. The executor
// writes whatever the process wrote before Wait or Exec returns; it closes nothing.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// A Spec describes a sandbox. The zero value of each optional field is Docker's default.
type Spec struct {
	ID       string // unique for the executor; [a-z0-9-]{1,64}
	Hostname string
	Domain   string
	// Root is the root file system: a detached mount or a directory, by descriptor. The executor uses a copy; the
	// caller keeps its own and closes it. ReadOnly makes the root read-only.
	Root     *os.File
	ReadOnly bool
	Process  Process
	Mounts   []Mount // in order; on top of those that every sandbox has (/proc, /dev, /sys, …)
	// Hosts and ResolvConf are the contents of /etc/hosts and /etc/resolv.conf, mounted over the root's; nil leaves
	// the root's file in place.
	Hosts, ResolvConf []byte

	Network Network
	Limits  Limits
	// CgroupPath is the parent of the sandbox's cgroup; empty for the executor's own. An Executor has, as BuildKit, a cgroup
	// of its name below the parent, which is below the root of the hierarchies with or without a slash in front. With a Host
	// it is docker's: an absolute one is below the root of the hierarchies, another below the cgroup of this process, and it
	// is made if it is missing, and stays.
	CgroupPath string

	// Privileged lifts every restriction: all capabilities, all devices, no seccomp, nothing masked.
	Privileged bool
	CapAdd     []string // "NET_ADMIN" or "CAP_NET_ADMIN" or "ALL"
	CapDrop    []string
	// NoNewPrivileges sets the flag of that name for the first process and every Exec.
	NoNewPrivileges bool
	Seccomp         Seccomp
	Devices         []Device
	Ulimits         []Ulimit // a hard limit above the executor's own is lowered to that
	Sysctls         map[string]string
	ShmSize         int64 // bytes of /dev/shm; 0 means 64 MiB
	NoShm           bool  // there is none
	HostPID         bool
	HostIPC         bool // with a keeper also the host's /dev/shm
	HostUTS         bool
	HostCgroup      bool
	WritableCgroups bool // not with HostCgroup: the sandbox may make cgroups in its own
	// PIDNamespace and IPCNamespace are paths of namespaces to join, those of another container's process: /proc/PID/ns/pid
	// and /proc/PID/ns/ipc. With the latter, /dev/shm is that of the same process.
	PIDNamespace, IPCNamespace string
	Init                       bool // run a minimal init as the first process

	DeviceRules []DeviceRule // access to devices that have no node yet
	// MaskedPaths and ReadonlyPaths take the place of Docker's; nil leaves those, and empty lists hide and protect nothing.
	MaskedPaths, ReadonlyPaths []string
	// OOMScoreAdj is from -1000 to 1000; nil leaves the executor's own. To lower that takes CAP_SYS_RESOURCE.
	OOMScoreAdj *int
	// Umask is that of the first process and of every Exec, at most 0777; nil means 0022.
	Umask *uint32
	// AppArmor is a profile that the kernel has loaded, SELinux a label of the process. It is an error if the kernel knows no
	// such thing; "" and, for AppArmor, "unconfined" ask for none.
	AppArmor, SELinux string
	// Hooks are run as the OCI runtime specification says, those of a stage in order. They are the administrator's: what a
	// caller's user says must never get here.
	Hooks []Hook
}

// A DeviceRule allows access to devices, as device_cgroup does.
type DeviceRule struct {
	Type         string // "c", "b", or "a" for both
	Major, Minor int64  // -1 for all
	Access       string // of "rwm"
}

// A Process is what to execute.
type Process struct {
	Args []string
	Env  []string // KEY=value; nothing is added but HOME, and PATH if it lacks one
	Cwd  string   // absolute, in the sandbox; made if missing
	// User is "", "user", "uid", "user:group", "uid:gid" or a mix, resolved with the root's /etc/passwd and
	// /etc/group, as USER in a Dockerfile is. AddGroups are names or numbers of further groups.
	User      string
	AddGroups []string
	Terminal  bool
	Rows      uint16 // of the terminal
	Cols      uint16
	// Privileged gives all capabilities to this process of Exec.
	Privileged bool
	// Ambient has the process keep its capabilities whoever its user is, and all that it starts: they are inheritable and
	// ambient, as BuildKit makes those of a command with security=insecure.
	Ambient bool
}

// A Mount is one more file system in a sandbox.
type Mount struct {
	Target string // absolute, in the sandbox; resolved inside the root, and made if missing
	// Source is, for a bind mount, what appears at Target: a directory, file or detached mount by descriptor. Symlinks
	// have been resolved by whoever opened it. The caller keeps and closes it.
	Source   *os.File
	Type     MountType
	ReadOnly bool
	NoExec   bool
	NoSuid   bool
	NoDev    bool
	Size     int64 // of a tmpfs, in bytes; 0 means the kernel's default
	Mode     uint32
	UID, GID int
	// Content is, for a File, what the file holds. It is never written to a disk.
	Content []byte
	// NonRecursive leaves out, of a Bind, the mounts below the source. ReadOnlyTop lets ReadOnly apply to the source's own
	// mount, and not to those below it.
	NonRecursive, ReadOnlyTop bool
	// Data are further options of a Tmpfs: nr_inodes=, nr_blocks=, size= in percent, mpol=, huge=.
	Data []string
	// Flags are further options of a Bind or a Tmpfs, in order: see IsMountFlag.
	Flags []string
	// Propagation is one of "", "private", "rprivate", "slave", "rslave", "shared", "rshared".
	Propagation string
}

// A MountType is the kind of a Mount.
type MountType int

// The kinds of mounts.
const (
	Bind  MountType = iota
	Tmpfs           // an empty file system in memory
	File            // a file in memory with Content
)

// A NetworkMode says which network a sandbox sees.
type NetworkMode int

// The network modes.
const (
	NetworkBridge NetworkMode = iota // a namespace of its own, from the pool, with NAT and DNS
	NetworkNone                      // a namespace of its own with nothing but lo
	NetworkHost                      // the host's
	NetworkPath                      // the namespace at Network.Path
)

// Network is the network of a sandbox.
type Network struct {
	Mode NetworkMode
	Path string
}

// A Seccomp says which system call filter applies.
type Seccomp struct {
	Unconfined bool
	Profile    []byte // JSON in Docker's format; nil means the default profile
}

// A Device is a device node that a sandbox may use: one of the host's, or all of a directory of the host's, or, where Type
// is set, the one of these numbers.
type Device struct {
	HostPath, Path string
	Access         string // of "rwm"

	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// A Ulimit is a resource limit, by the name that setrlimit(2) gives it, in lower case without RLIMIT_.
type Ulimit struct {
	Name       string
	Soft, Hard uint64
}

// Limits bound what a sandbox may use. Zero means no limit.
type Limits struct {
	Memory     int64 // bytes
	MemorySwap int64 // bytes of memory and swap together; -1 for unlimited swap
	CPUShares  uint64
	CPUQuota   int64  // microseconds a period
	CPUPeriod  uint64 // microseconds
	CPUSetCPUs string
	CPUSetMems string
	Pids       int64

	MemoryReservation int64   // bytes, a soft limit
	Swappiness        *uint64 // 0 to 100; of cgroup v1 only
	OOMKillDisable    bool    // of cgroup v1 only
	CPURealtimePeriod uint64  // microseconds; of cgroup v1 only, as the next
	CPURealtime       int64   // microseconds a period
	BlkioWeight       uint16  // 10 to 1000
	Blkio             []BlkioLimit
}

// A BlkioLimit bounds the use of a block device. Zero means no limit.
type BlkioLimit struct {
	// Path is the device; or else these are its numbers.
	Path                string
	Major, Minor        int64
	Weight              uint16 // 10 to 1000
	ReadBPS, WriteBPS   uint64 // bytes a second
	ReadIOPS, WriteIOPS uint64 // operations a second
}

// An Exit is how a process ended.
type Exit struct {
	Code      int            // as a shell sees it: 128+n for signal n
	Signal    syscall.Signal // what killed it, or 0
	OOMKilled bool           // the kernel killed a process of the sandbox for want of memory
	At        time.Time
	Usage     Usage
}

// Usage is what a sandbox has used.
type Usage struct {
	CPU        time.Duration
	PeakMemory int64 // bytes
}

// Err returns nil for exit code 0, else an *ExitError for the process with the arguments args.
func (e Exit) Err(args []string, limit int64) error {
	if e.Code == 0 {
		return nil
	}
	return &ExitError{Args: args, Exit: e, MemoryLimit: limit}
}

// size is a number of bytes as people read it: in the largest unit of which it is a whole number.
func size(n int64) string {
	unit := 0
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	for n != 0 && n%1024 == 0 && unit < len(units)-1 {
		n, unit = n/1024, unit+1
	}
	return fmt.Sprintf("%d %s", n, units[unit])
}

// An ExitError is a process that ended with other than 0.
type ExitError struct {
	Args        []string
	Exit        Exit
	MemoryLimit int64 // bytes; 0 means none
}

// Error has BuildKit's words for the plain case, and names what killed the process in the others.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("process %q did not complete successfully: ", joinArgs(e.Args))
	switch {
	case e.Exit.OOMKilled && e.MemoryLimit > 0:
		return s + fmt.Sprintf("exit code: %d: killed for want of memory (limit %s)", e.Exit.Code, size(e.MemoryLimit))
	case e.Exit.OOMKilled:
		return s + fmt.Sprintf("exit code: %d: killed for want of memory (the machine ran out)", e.Exit.Code)
	case e.Exit.Signal != 0:
		return s + fmt.Sprintf("exit code: %d: killed by signal %d (%s)", e.Exit.Code, int(e.Exit.Signal), e.Exit.Signal)
	}
	return s + fmt.Sprintf("exit code: %d", e.Exit.Code)
}

func joinArgs(args []string) string {
	var s string
	for i, a := range args {
		if i > 0 {
			s += " "
		}
		s += a
	}
	return s
}

// A StartError says that the command of a process could not be executed.
type StartError struct {
	Path string
	Code int // what a shell would exit with: 127 for not found, 126 otherwise
	Err  error
}

func (e *StartError) Error() string { return fmt.Sprintf("starting %q: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }
