//go:build cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/executor/sandbox"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// startBox starts a sandbox.
func (s *session) startBox(req *wire.Request, files []*os.File, p *proc, tr *trace) (_ *running, err error) {
	defer wire.CloseAll(files)
	spec := req.Spec
	if spec == nil {
		return nil, errors.New("no specification")
	}
	if err := sandbox.Validate(spec); err != nil {
		return nil, err
	}
	if spec.HostPID {
		return nil, errors.New("the host's pid namespace is not for sandboxes that end with the daemon")
	}
	opts, err := s.plan(req, files, tr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, libcontainer.Cleanup(spec.ID))
		}
	}()
	opts.Stdio = stdio(req, files)
	opts.Admit = func(cgroup string) bool { return s.mayStart(p, cgroup) }
	opts.AskHooks = func(pid int) error { return s.askHooks(req.ID, p, opts, pid) }
	box, terminal, err := s.rt.Start(opts)
	if errors.Is(err, libcontainer.ErrNotAdmitted) {
		return nil, errKilled
	}
	if err != nil {
		return nil, err
	}
	return &running{box: box, terminal: terminal, signal: box.Signal, wait: box.Wait, destroy: box.Destroy}, nil
}

// plan describes the sandbox that req asks for, and makes its places. The standard streams are left to the caller. What
// is not in the request, but changes the description, is done by adjust.
func (s *session) plan(req *wire.Request, files []*os.File, tr *trace, adjust ...func(*sandbox.Host)) (_ *libcontainer.Options, err error) {
	spec := req.Spec
	dir := libcontainer.Dir(spec.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, fmt.Errorf("making the place of sandbox %s: %w", spec.ID, err)
	}
	var attach []libcontainer.Attachment
	defer func() {
		if err != nil {
			closeAttachments(attach)
			err = errors.Join(err, libcontainer.Cleanup(spec.ID))
		}
	}()
	host, attach, err := s.layOut(req, files, dir)
	if err != nil {
		return nil, err
	}
	for _, f := range adjust {
		f(host)
	}
	tr.mark("place")
	root := attach[0].Mount
	users, err := sandbox.ReadUsers(root)
	if err == nil {
		host.User, err = users.Resolve(&spec.Process)
	}
	var desc *specs.Spec
	if err == nil {
		desc, err = sandbox.Describe(spec, host)
	}
	if err == nil {
		root, err = dup(root)
	}
	if err != nil {
		return nil, err
	}
	tr.mark("describe")
	return &libcontainer.Options{
		ID: spec.ID, Spec: desc, Root: root, Attachments: attach, NetNS: wire.Pick(files, req.Files.NetNS), Trace: tr.mark,
		Hooks: spec.Hooks, Bundle: req.Bundle,
	}, nil
}

// mayStart says whether nobody has asked to kill p yet; from then on a Kill finds it by its cgroup.
func (s *session) mayStart(p *proc, cgroup string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.cgroup = cgroup
	return !p.killed
}

// layOut makes, in dir, the places where the sandbox's mounts will be attached, and the files that it gets with the
// request. The first attachment is the root.
func (s *session) layOut(req *wire.Request, files []*os.File, dir string) (*sandbox.Host, []libcontainer.Attachment, error) {
	spec := req.Spec
	host := &sandbox.Host{Root: filepath.Join(dir, "root"), CgroupParent: s.cgroup}
	host.HardLimits, host.Capabilities = s.limits.Hard, s.limits.Capabilities
	host.Controllers, host.NoSwapLimit, host.CPUs = s.limits.Controllers, !s.limits.Swap, s.limits.CPUs
	var attach []libcontainer.Attachment
	add := func(index int, place string) error {
		mount, err := dup(wire.Pick(files, index))
		if err == nil {
			attach = append(attach, libcontainer.Attachment{Mount: mount, Path: place})
			err = makePlace(mount, place)
		}
		return err
	}
	if err := add(req.Files.Root, host.Root); err != nil {
		return nil, attach, fmt.Errorf("placing the root: %w", err)
	}
	if len(req.Files.Sources) != len(spec.Mounts) {
		return nil, attach, fmt.Errorf("%d sources for %d mounts", len(req.Files.Sources), len(spec.Mounts))
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		place := filepath.Join(dir, fmt.Sprintf("m%d", i))
		var err error
		switch m.Type {
		case executor.Bind:
			err = add(req.Files.Sources[i], place)
		case executor.File:
			err = writeFile(place, m)
		case executor.Tmpfs:
			place = ""
		}
		if err != nil {
			return nil, attach, fmt.Errorf("placing the mount of %s: %w", m.Target, err)
		}
		host.Sources = append(host.Sources, place)
	}
	var err error
	if host.Hosts, err = writeEtc(filepath.Join(dir, "hosts"), spec.Hosts); err != nil {
		return nil, attach, err
	}
	if host.ResolvConf, err = writeEtc(filepath.Join(dir, "resolv.conf"), spec.ResolvConf); err != nil {
		return nil, attach, err
	}
	host.PIDNS, host.IPCNS = nsPath(files, req.Files.PIDNS), nsPath(files, req.Files.IPCNS)
	for name, i := range map[string]int{"shm": req.Files.Shm, "init": req.Files.Init} {
		place := filepath.Join(dir, name)
		if i == 0 {
			continue
		}
		if err := add(i, place); err != nil {
			return nil, attach, fmt.Errorf("placing %s: %w", name, err)
		}
		if name == "shm" {
			host.Shm = place
		} else {
			host.Init = place
		}
	}
	if spec.Init && host.Init == "" {
		host.Init = initProgram
		if err := s.installInit(); err != nil {
			return nil, attach, err
		}
	}
	host.NetNS = nsPath(files, req.Files.NetNS)
	if m := spec.Network.Mode; host.NetNS == "" && m != executor.NetworkHost && m != executor.NetworkNone {
		return nil, attach, errors.New("no network namespace")
	}
	for _, n := range req.Nodes {
		host.Devices = append(host.Devices, sandbox.Device(n))
	}
	return host, attach, nil
}

// nsPath returns a path of a namespace for the process that joins it, or "" for none.
func nsPath(files []*os.File, i int) string {
	f := wire.Pick(files, i)
	if f == nil {
		return ""
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

// makePlace makes an empty directory or file at place, whichever mount can be attached to.
func makePlace(mount *os.File, place string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(place, 0o700)
	}
	return os.WriteFile(place, nil, 0o600)
}

// writeFile makes the file of a mount of type File. The private root is in memory, so it reaches no disk.
func writeFile(place string, m *executor.Mount) error {
	mode := os.FileMode(m.Mode)
	if mode == 0 {
		mode = 0o444
	}
	if err := os.WriteFile(place, m.Content, 0o600); err != nil {
		return err
	}
	if err := os.Chown(place, m.UID, m.GID); err != nil {
		return err
	}
	return os.Chmod(place, mode)
}

// writeEtc makes a file that is mounted over one of /etc. It returns "" for nil content.
func writeEtc(place string, content []byte) (string, error) {
	if content == nil {
		return "", nil
	}
	if err := os.WriteFile(place, content, 0o644); err != nil {
		return "", fmt.Errorf("writing %s: %w", filepath.Base(place), err)
	}
	return place, nil
}

func dup(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, errors.New("no descriptor")
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicating a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func closeAttachments(list []libcontainer.Attachment) {
	for _, a := range list {
		a.Mount.Close()
	}
}

// execProcess describes a process of Exec: with the user files of the sandbox's root as it is now.
func (s *session) execProcess(spec *executor.Spec, box *libcontainer.Container, p *executor.Process) (*specs.Process, error) {
	root, err := box.OpenRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	users, err := sandbox.ReadUsers(root)
	if err != nil {
		return nil, err
	}
	user, err := users.Resolve(p)
	if err != nil {
		return nil, err
	}
	caps, err := sandbox.ExecCapabilities(spec, p, s.limits.Capabilities)
	if err != nil {
		return nil, err
	}
	out, err := sandbox.DescribeProcess(p, user, caps)
	if err != nil {
		return nil, err
	}
	out.NoNewPrivileges = spec.NoNewPrivileges
	return out, nil
}

// makeCwd makes the working directory of a process of Exec, as builds have it. Containers do not: there one that is missing
// is an error.
func makeCwd(box *libcontainer.Container, p *specs.Process) error {
	root, err := box.OpenRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	return libcontainer.MakeDir(root, p.Cwd)
}
