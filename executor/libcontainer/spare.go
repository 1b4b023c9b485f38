//go:build cgo

package libcontainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	lc "github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"golang.org/x/sys/unix"
)

// A spare is the process of a sandbox that nobody has asked for yet. It was started as any other, and is in its cgroups
// and in all of its namespaces but the network's; there it waits, before the first of libcontainer's code, for a plan
// that brings what distinguishes one sandbox from another: root, mounts, network namespace, standard streams and the
// configuration, in place of the one that it was started with. Nothing foreign has run in it, and it is used once.
//
// What the daemon waits for at the start of a sandbox is thereby halved: two executions of this program, five cgroups
// to be joined, each of which may wait for an RCU grace period, and six namespaces.
type spare struct {
	id     string
	shape  string
	box    *lc.Container
	config *configs.Config // box's; not to be changed before ready has returned
	init   *lc.Process
	sock   *os.File      // our end of the socket that plans come from
	ran    chan struct{} // closed when box.Start has returned
	runErr error         // what it returned; to be read after that
	waits  bool          // ready has returned already
	// skeleton is the key of the one that it has been told to make; staged says that it has.
	skeleton string
	staged   bool
	// Of one for a container only: how it hands over a terminal, and whether it has a network namespace of its own.
	console *console
	net     bool
}

// spareAge is how long a spare is kept. libcontainer allows a process a minute to ask for its mounts.
const spareAge = 15 * time.Second

// spares keeps one spare, shaped like the sandbox that was started last.
type spares struct {
	mu     sync.Mutex
	idle   *spare // guarded by mu, as all below
	making bool
	last   uint64
}

// shape names all that a spare and the sandbox that it becomes have to have in common: what libcontainer uses before the
// new process reads its configuration, or in the parent. It is empty for a sandbox that can't be made of a spare. A Single
// runtime's spare can hand over a terminal, and be asked for its network namespace: see fits.
func (r *Runtime) shape(c *configs.Config, terminal bool) string {
	special := (terminal || len(c.Networks) > 0) && !r.Single || len(c.NetDevices) > 0 || len(c.TimeOffsets) > 0 ||
		len(c.UIDMappings) > 0 || len(c.GIDMappings) > 0 || c.IntelRdt != nil || c.ExecCPUAffinity != nil ||
		c.RootlessEUID || c.RootlessCgroups || c.ParentDeathSignal != 0 ||
		c.HasHook(configs.Prestart, configs.CreateRuntime, configs.CreateContainer, configs.StartContainer, configs.Poststart)
	if special {
		return ""
	}
	var own []configs.NamespaceType
	for _, ns := range c.Namespaces {
		switch {
		case ns.Type == configs.NEWNET && (ns.Path != "" || r.Single):
		case ns.Path != "" || ns.Type == configs.NEWNET || ns.Type == configs.NEWUSER:
			return ""
		default:
			own = append(own, ns.Type)
		}
	}
	slices.Sort(own)
	b, err := json.Marshal(struct {
		Namespaces []configs.NamespaceType
		Rlimits    []configs.Rlimit
		OOMScore   *int
		Parent     string
		// Of the resources, those that matter when a process joins its cgroups; the others are set when it is ready.
		CPUs, Mems string
		RTRuntime  int64
		RTPeriod   uint64
	}{
		own, c.Rlimits, c.OomScoreAdj, path.Dir(c.Cgroups.Path), c.Cgroups.CpusetCpus, c.Cgroups.CpusetMems,
		c.Cgroups.CpuRtRuntime, c.Cgroups.CpuRtPeriod,
	})
	if err != nil {
		return ""
	}
	return string(b)
}

// The networks of a sandbox, as far as they matter to a spare.
const (
	hostNetwork = iota
	ownNetwork  // a namespace with nothing in it
	givenNetwork
)

func network(c *configs.Config) int {
	for _, ns := range c.Namespaces {
		switch {
		case ns.Type != configs.NEWNET:
		case ns.Path == "":
			return ownNetwork
		default:
			return givenNetwork
		}
	}
	return hostNetwork
}

// fits says whether s can be a sandbox of that shape and network. It can leave its own network for a given one.
func (s *spare) fits(shape string, network int) bool {
	return shape != "" && s.shape == shape && (network == givenNetwork || s.net == (network == ownNetwork))
}

// takeSpare returns a spare of that shape and network, or nil.
func (r *Runtime) takeSpare(shape string, network int) *spare {
	r.spares.mu.Lock()
	s := r.spares.idle
	if s == nil || !s.fits(shape, network) {
		if s != nil && r.Single {
			r.spares.idle = nil
			go s.discard() // there is no other use for it
		}
		r.spares.mu.Unlock()
		return nil
	}
	r.spares.idle = nil
	r.spares.mu.Unlock()
	if s.ready() != nil {
		s.discard()
		return nil
	}
	return s
}

// keepSpare has a spare ready for a sandbox like that of config, instead of one with another shape. It does not wait.
func (r *Runtime) keepSpare(shape string, config *configs.Config) {
	r.spares.mu.Lock()
	defer r.spares.mu.Unlock()
	old := r.spares.idle
	if shape == "" || r.spares.making || (old != nil && old.shape == shape) {
		return
	}
	r.spares.idle, r.spares.making = nil, true
	r.spares.last++
	id := "spare_" + strconv.FormatUint(r.spares.last, 10) // no sandbox has an underscore in its ID
	sk, _ := skeletonOf(config)
	config = r.blank(config, id)
	go func() {
		if old != nil {
			old.discard()
		}
		s, err := r.startSpare(id, shape, config, sk) // after an error, the next sandbox is started without, and reports it
		r.spares.mu.Lock()
		r.spares.making = false
		if err == nil {
			r.spares.idle = s
		}
		r.spares.mu.Unlock()
		if err == nil {
			time.AfterFunc(spareAge, func() { r.expire(s) })
		}
	}()
}

// expire discards s if nobody has taken it.
func (r *Runtime) expire(s *spare) {
	r.spares.mu.Lock()
	unused := r.spares.idle == s
	if unused {
		r.spares.idle = nil
	}
	r.spares.mu.Unlock()
	if unused {
		s.discard()
	}
}

// blank returns what of config a spare is started with.
func (r *Runtime) blank(config *configs.Config, id string) *configs.Config {
	out := &configs.Config{
		Rootfs: boxDir, Rlimits: config.Rlimits, OomScoreAdj: config.OomScoreAdj, RootPropagation: config.RootPropagation,
	}
	for _, ns := range config.Namespaces {
		if ns.Type != configs.NEWNET {
			out.Namespaces = append(out.Namespaces, ns)
		}
	}
	if network(config) == ownNetwork && r.Single {
		out.Namespaces = append(out.Namespaces, configs.Namespace{Type: configs.NEWNET})
	}
	group := *config.Cgroups
	resources := *group.Resources
	group.Path, group.Resources = path.Join(path.Dir(group.Path), id), &resources
	out.Cgroups = &group
	return out
}

// startSpare starts one and returns without waiting for it.
func (r *Runtime) startSpare(id, shape string, config *configs.Config, sk *skeleton) (*spare, error) {
	s := &spare{
		id: id, shape: shape, config: config, skeleton: sk.key(), ran: make(chan struct{}), net: network(config) == ownNetwork,
	}
	var err error
	if s.box, err = lc.Create(stateDir, id, config); err != nil {
		return nil, fmt.Errorf("creating spare sandbox %s: %w", id, err)
	}
	parent, child, err := planSocket()
	if err == nil {
		err = send(parent, &plan{Spare: true, Skeleton: sk}, nil)
	}
	if err != nil {
		return nil, errors.Join(err, s.box.Destroy())
	}
	s.sock = parent
	s.init = &lc.Process{Init: true, Args: []string{"/"}, Cwd: "/", LogLevel: logLevel, ExtraFiles: []*os.File{child}}
	if s.console, err = newConsole(s.init, r.Single); err != nil {
		s.sock.Close()
		child.Close()
		return nil, errors.Join(err, s.box.Destroy())
	}
	go func() {
		defer close(s.ran)
		s.runErr = s.box.Start(s.init)
		child.Close()
	}()
	return s, nil
}

// discard ends a spare that was not used, or whose command could not be started.
func (s *spare) discard() {
	s.sock.Close() // the process ends when there is no plan to come
	<-s.ran
	s.console.close()
	_ = s.box.Destroy()
	_ = os.RemoveAll(filepath.Join(stateDir, s.id))
}

// ready waits until the process waits for its plan, and libcontainer for the process.
func (s *spare) ready() error {
	if s.waits {
		return nil
	}
	b := make([]byte, 4096)
	n, err := s.sock.Read(b)
	s.staged = err == nil && string(b[:n]) == spareStaged
	if err == nil && !s.staged && string(b[:n]) != spareReady {
		err = errors.New(string(b[:n]))
	}
	if err != nil {
		return fmt.Errorf("waiting for spare sandbox %s: %w", s.id, err)
	}
	return nil
}

// become makes the spare, which is ready, the sandbox that config and o describe, and returns when it waits at its command.
// An error of the command is as from box.Start.
func (s *spare) become(config *configs.Config, o *Options, filter *os.File) (terminal *os.File, err error) {
	group := s.config.Cgroups // which the cgroup manager has, too
	group.Resources = config.Cgroups.Resources
	config.Cgroups = group
	places := s.useSkeleton(config, o.Root)
	if places != nil && o.Trace != nil {
		o.Trace("skeleton")
	}
	// lc.Create has seen the blank configuration only.
	if err := validate.Validate(config); err != nil {
		return nil, err
	}
	*s.config = *config
	body, err := s.message(o)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	p := &plan{
		Mounts: o.Attachments, Filter: filter != nil, Files: limitsFiles(config.Rlimits), Net: o.NetNS != nil, Config: true,
		Root: config.Rootfs, Places: places,
	}
	rest := []*os.File{filter, o.NetNS, body}
	for i, f := range o.Stdio {
		p.Stdio[i] = f != nil
		rest = append(rest, f)
	}
	rest = slices.DeleteFunc(rest, func(f *os.File) bool { return f == nil })
	if err := send(s.sock, p, rest); err != nil {
		return nil, err
	}
	<-s.ran
	if s.runErr != nil {
		if err := awaitAttach(s.sock); err != nil {
			return nil, err
		}
		return nil, s.runErr
	}
	s.sock.Close()
	defer s.console.close()
	if !o.Spec.Process.Terminal {
		return nil, nil
	}
	return s.console.master()
}

// initConfig is what libcontainer sends to a new process (its type of that name).
type initConfig struct {
	Config           *configs.Config       `json:"config"`
	Args             []string              `json:"args"`
	Env              []string              `json:"env"`
	UID              int                   `json:"uid"`
	GID              int                   `json:"gid"`
	AdditionalGroups []int                 `json:"additional_groups"`
	Cwd              string                `json:"cwd"`
	CreateConsole    bool                  `json:"create_console"`
	ConsoleWidth     uint16                `json:"console_width"`
	ConsoleHeight    uint16                `json:"console_height"`
	PassedFilesCount int                   `json:"passed_files_count"`
	AppArmorProfile  string                `json:"apparmor_profile"`
	Capabilities     *configs.Capabilities `json:"capabilities"`
	NoNewPrivileges  bool                  `json:"no_new_privileges"`
	ProcessLabel     string                `json:"process_label"`
	Rlimits          []configs.Rlimit      `json:"rlimits"`
	IOPriority       *configs.IOPriority   `json:"io_priority,omitempty"`
	Scheduler        *configs.Scheduler    `json:"scheduler,omitempty"`
	ContainerID      string                `json:"containerid"`
	Cgroup2Path      string                `json:"cgroup2_path,omitempty"`
	Networks         []*configs.Network    `json:"network"`
}

// message writes the configuration of the sandbox into a file in memory.
func (s *spare) message(o *Options) (*os.File, error) {
	c := *s.config
	// The rules for devices are the parent's business, and half of the text.
	c.Cgroups = &cgroups.Cgroup{Path: c.Cgroups.Path, Resources: &cgroups.Resources{CpusetCpus: c.Cgroups.CpusetCpus}}
	p := newProcess(o.Spec.Process, o.Stdio)
	m := &initConfig{
		Config: &c, Args: p.Args, Env: p.Env, UID: p.UID, GID: p.GID, AdditionalGroups: p.AdditionalGroups, Cwd: p.Cwd,
		PassedFilesCount: len(s.init.ExtraFiles), AppArmorProfile: c.AppArmorProfile, Capabilities: c.Capabilities,
		NoNewPrivileges: c.NoNewPrivileges, ProcessLabel: c.ProcessLabel, Rlimits: nil /* see keepFiles */, IOPriority: c.IOPriority,
		Scheduler: c.Scheduler, ContainerID: s.id, Networks: c.Networks,
		CreateConsole: o.Spec.Process.Terminal, ConsoleWidth: p.ConsoleWidth, ConsoleHeight: p.ConsoleHeight,
	}
	if isV2() {
		m.Cgroup2Path = filepath.Join("/sys/fs/cgroup", c.Cgroups.Path)
	}
	return inMemory(m)
}

// inMemory writes a configuration into a file in memory.
func inMemory(config any) (*os.File, error) {
	b, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	fd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making room for the configuration: %w", err)
	}
	f := os.NewFile(uintptr(fd), "config")
	if _, err := f.WriteAt(b, 0); err != nil { // the process reads it from here on: the position is shared
		f.Close()
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return f, nil
}
