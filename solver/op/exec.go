package op

import (
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
)

// Exec runs a process on a root file system. It has an output for each mount that has one, in the order of
// ExecMount.Output; by convention output 0 is the root.
type Exec struct {
	Meta     ExecMeta
	Mounts   []ExecMount // the one with Dest "/" is the root and must be there
	Network  Network
	Security Security
	Secrets  []SecretEnv
	Devices  []ExecDevice
	Platform Platform
	// Ulimits, Limits and CgroupParent bound the process. They are not part of the key.
	Limits ExecLimits
}

// ExecMeta is the process of an Exec.
type ExecMeta struct {
	Args           []string
	Env            []string
	Cwd            string
	User           string
	Hostname       string
	ExtraHosts     []HostIP
	Proxy          *ProxyEnv // not part of the key
	ValidExitCodes []int     // empty means 0
	ShmSize        int64     // bytes; 0 means 64 MiB
	Ulimits        []Ulimit
	CgroupParent   string
	// RemoveStubs removes mount points that were made for the process, with their parents.
	RemoveStubs bool
}

// HostIP is a line of /etc/hosts.
type HostIP struct{ Host, IP string }

// ProxyEnv is the proxy settings of a process.
type ProxyEnv struct{ HTTP, HTTPS, FTP, No, All string }

// Ulimit is a resource limit by its name in setrlimit(2), in lower case without RLIMIT_.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// ExecLimits bound what an Exec may use; zero means no limit.
type ExecLimits struct {
	Memory, MemorySwap     int64 // bytes
	CPUShares              int64
	CPUQuota, CPUPeriod    int64 // microseconds
	CPUSetCPUs, CPUSetMems string
}

// A Network is the network of an Exec.
type Network int

// The networks, numbered as in LLB.
const (
	NetworkSandbox Network = iota
	NetworkHost
	NetworkNone
)

// A Security is the security mode of an Exec.
type Security int

// The security modes, numbered as in LLB.
const (
	SecuritySandbox Security = iota
	SecurityInsecure
)

// NoOutput and NoInput are the numbers of an absent output and input.
const (
	NoOutput = -1
	NoInput  = -1
)

// ExecMount is a mount of an Exec.
type ExecMount struct {
	Input    int    // index into the vertex's inputs, or NoInput for an empty one
	Selector string // path inside the input
	Dest     string
	Output   int // index of the result that what was written becomes, or NoOutput
	ReadOnly bool
	Type     MountType
	Cache    CacheMount
	Tmpfs    int64 // size in bytes, 0 for none
	Secret   SecretMount
	SSH      SSHMount
	// ContentKey makes a read-only input count by its content rather than by its identity; the vertex's input must
	// have a Selector then. It is written by the frontend and only recorded here for LLB.
	ContentKey bool
	// ContentCache is what an LLB definition says of that. It is only recorded.
	ContentCache ContentCache
	// ResultID names the mount's result where the processes of a client's containers share one. It has no influence on
	// what runs.
	ResultID string
}

// A ContentCache says whether an input of an Exec counts by its content, numbered as in LLB.
type ContentCache int

// The modes of content caching. The first leaves it to the builder.
const (
	ContentCacheDefault ContentCache = iota
	ContentCacheOn
	ContentCacheOff
)

// A MountType is the kind of an ExecMount, numbered as in LLB.
type MountType int

// The mount types.
const (
	MountBind   MountType = 0
	MountSecret MountType = 1
	MountSSH    MountType = 2
	MountCache  MountType = 3
	MountTmpfs  MountType = 4
)

// CacheMount names a directory that persists between builds. Its contents are no part of any key.
type CacheMount struct {
	ID      string
	Sharing CacheSharing
}

// A CacheSharing says what concurrent users of a cache mount see.
type CacheSharing int

// The sharing modes, numbered as in LLB.
const (
	SharingShared CacheSharing = iota
	SharingPrivate
	SharingLocked
)

// SecretMount is a secret of the client's as a file.
type SecretMount struct {
	ID       string
	UID, GID int
	Mode     uint32
	Optional bool
}

// SSHMount is the client's SSH agent as a socket.
type SSHMount struct {
	ID       string
	UID, GID int
	Mode     uint32
	Optional bool
}

// SecretEnv is a secret of the client's in the environment.
type SecretEnv struct {
	ID, Name string
	Optional bool
}

// ExecDevice is a CDI device.
type ExecDevice struct {
	Name     string
	Optional bool
}

// Outputs implements solver.Outputter.
func (e *Exec) Outputs() int {
	n := 0
	for _, m := range e.Mounts {
		n = max(n, m.Output+1)
	}
	return n
}

// WriteKey implements solver.Op. Not part of it: the proxy, cache mounts' identity, secrets' and agents' contents,
// addresses of extra hosts, and limits.
func (e *Exec) WriteKey(h *solver.Hasher) {
	h.Version("exec", 1)
	m := &e.Meta
	h.Strs("args", m.Args)
	h.Strs("env", m.Env)
	h.Str("cwd", m.Cwd)
	if m.User != "" {
		h.Str("user", m.User)
	}
	if m.Hostname != "" {
		h.Str("hostname", m.Hostname)
	}
	for _, x := range m.ExtraHosts {
		h.Str("extrahost", x.Host)
	}
	for _, c := range m.ValidExitCodes {
		h.Int("validexit", int64(c))
	}
	for _, u := range m.Ulimits {
		h.Str("ulimit", u.Name+"="+strconv.FormatInt(u.Soft, 10)+":"+strconv.FormatInt(u.Hard, 10))
	}
	if m.ShmSize != 0 {
		h.Int("shmsize", m.ShmSize)
	}
	h.Bool("removestubs", m.RemoveStubs)
	if e.Network != NetworkSandbox {
		h.Int("network", int64(e.Network))
	}
	if e.Security != SecuritySandbox {
		h.Int("security", int64(e.Security))
	}
	for _, s := range e.Secrets {
		h.Str("secretenv", s.ID+"="+s.Name)
		h.Bool("secretenv.optional", s.Optional)
	}
	for _, d := range e.Devices {
		h.Str("device", d.Name)
		h.Bool("device.required", !d.Optional) // one that could do without it may have
	}
	writePlatform(h, e.Platform)
	for i := range e.Mounts {
		e.Mounts[i].writeKey(h)
	}
}

func (m *ExecMount) writeKey(h *solver.Hasher) {
	h.Str("mount", m.Dest)
	h.Int("mount.type", int64(m.Type))
	h.Int("mount.input", int64(m.Input))
	h.Int("mount.output", int64(m.Output))
	h.Bool("mount.readonly", m.ReadOnly)
	if m.Selector != "" && m.Selector != "/" {
		h.Str("mount.selector", m.Selector)
	}
	switch m.Type {
	case MountTmpfs:
		if m.Tmpfs != 0 {
			h.Int("mount.size", m.Tmpfs)
		}
	case MountSecret:
		h.Strs("mount.secret", []string{
			m.Secret.ID, strconv.Itoa(m.Secret.UID), strconv.Itoa(m.Secret.GID),
			strconv.FormatUint(uint64(m.Secret.Mode), 8), strconv.FormatBool(m.Secret.Optional),
		})
	case MountSSH:
		h.Strs("mount.ssh", []string{
			m.SSH.ID, strconv.Itoa(m.SSH.UID), strconv.Itoa(m.SSH.GID),
			strconv.FormatUint(uint64(m.SSH.Mode), 8), strconv.FormatBool(m.SSH.Optional),
		})
	case MountBind, MountCache:
	}
}

func (e *Exec) String() string { return strings.Join(e.Meta.Args, " ") }
