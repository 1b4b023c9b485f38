package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// Create implements executor.Host.
func (h *Host) Create(ctx context.Context, dir string, spec *executor.Spec, opt executor.HostOptions) (_ executor.Container, err error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	spec, err = h.prepareSpec(spec)
	if err != nil {
		return nil, err
	}
	switch old, err := dial(dir); {
	case err == nil:
		old.close()
		return nil, fmt.Errorf("container of %s: exists already", dir)
	case !isGone(err):
		return nil, err
	}
	h.clearAway(dir)
	for _, name := range []string{wire.ExitFile, wire.StateFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("clearing the directory of a container: %w", err)
		}
	}
	parent, err := h.parentOf(dir, spec)
	if err != nil {
		return nil, err
	}
	spec.CgroupPath = "" // spec is a copy
	call := &wire.Call{Op: wire.Create, Create: &wire.NewContainer{Options: opt, Cgroup: parent, AppArmor: h.Confines().AppArmor}}
	call.Create.Request.Spec, call.Create.Request.Bundle = withoutFiles(spec), filepath.Join(dir, bundleDir)
	p := &parcel{c: call.Create}
	defer p.close()
	if err := h.pack(ctx, p, dir, spec); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(filepath.Join(dir, wire.SocketFile))
		}
	}()
	keeper, err := h.take(spec)
	if err != nil {
		return nil, err
	}
	defer h.stock()
	a, files, err := h.make(ctx, keeper.conn, call, p.files)
	if err == nil {
		h.learn(filterKey(spec), a, files)
		wire.CloseAll(files)
		err = a.Err.Err()
	}
	if err != nil {
		keeper.conn.close()
		p.close() // the keeper's socket is open for as long as anybody has it
		h.abandon(ctx, dir)
		<-keeper.done
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("making the container: %w", h.lastWords(dir))
		}
		return nil, err
	}
	return &hosted{h: h, dir: dir, conn: keeper.conn, cgroup: a.Cgroup, trace: a.Trace}, nil
}

// make has a keeper make a container, and runs its hooks meanwhile.
func (h *Host) make(ctx context.Context, k *keeperConn, call *wire.Call, in []*os.File) (*wire.Answer, []*os.File, error) {
	a, files, err := k.call(ctx, call, in)
	if err != nil || a.Wait == nil || len(files) != 1 {
		return a, files, err
	}
	req := &call.Create.Request
	err = h.createHooks(ctx, filepath.Dir(req.Bundle), req.Spec, a.Wait, files[0])
	wire.CloseAll(files)
	return k.call(ctx, &wire.Call{Op: wire.Ran, Err: wire.ErrorOf(err)}, nil)
}

// abandon has nothing be left of a container whose Create has failed: also where it was only given up.
func (h *Host) abandon(ctx context.Context, dir string) {
	if c, err := dial(dir); err == nil {
		_, files, _ := c.call(context.WithoutCancel(ctx), &wire.Call{Op: wire.Delete}, nil)
		wire.CloseAll(files)
		c.close()
	}
	h.clearAway(dir)
}

// lastWords returns what a keeper that ended without an answer has written.
func (h *Host) lastWords(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "keeper.log"))
	if err != nil || len(b) == 0 {
		return errors.New("its keeper has ended")
	}
	var t tail
	_, _ = t.Write(b)
	return fmt.Errorf("its keeper has ended: %s", strings.TrimSpace(string(t.bytes())))
}

func isGone(err error) bool {
	var gone *executor.GoneError
	return errors.As(err, &gone)
}

// prepareSpec returns spec as a container has it: mounts are private unless it says otherwise, and block devices are known
// by their numbers.
func (h *Host) prepareSpec(spec *executor.Spec) (*executor.Spec, error) {
	out := *spec
	out.Mounts = append([]executor.Mount(nil), spec.Mounts...)
	for i := range out.Mounts {
		if m := &out.Mounts[i]; m.Type == executor.Bind && m.Propagation == "" {
			m.Propagation = "rprivate"
		}
	}
	l, err := h.numberedLimits(&spec.Limits)
	if err != nil {
		return nil, err
	}
	out.Limits = *l
	return &out, nil
}

// numberedLimits looks up the numbers of block devices, and whether they can be weighed.
func (h *Host) numberedLimits(l *executor.Limits) (*executor.Limits, error) {
	out := *l
	weighed := l.BlkioWeight > 0
	for i := range l.Blkio {
		weighed = weighed || l.Blkio[i].Weight > 0
	}
	// A weight out of range is refused as such, where all limits are checked.
	if weighed && !h.cgroups.Weighs(h.opts.CgroupParent) {
		return nil, errors.New("weight of block devices: this machine's kernel, or the scheduler of its devices, has none")
	}
	out.Blkio = append([]executor.BlkioLimit(nil), l.Blkio...)
	for i := range out.Blkio {
		d := &out.Blkio[i]
		if d.Path == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return nil, fmt.Errorf("looking up block device %s: %w", d.Path, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return nil, fmt.Errorf("looking up block device %s: it is none", d.Path)
		}
		d.Major, d.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return &out, nil
}

// A parcel is a message for a keeper, with its files.
type parcel struct {
	c       *wire.NewContainer
	files   []*os.File
	release []func() // to be called when the keeper has them
}

// add adds a file, which close closes, and returns its index.
func (p *parcel) add(f *os.File) int {
	p.files = append(p.files, f)
	return len(p.files)
}

// close may be called again.
func (p *parcel) close() {
	wire.CloseAll(p.files)
	for _, f := range p.release {
		f()
	}
	p.files, p.release = nil, nil
}

// pack opens and copies all of the host's that the container gets.
func (h *Host) pack(ctx context.Context, p *parcel, dir string, spec *executor.Spec) (err error) {
	req := &p.c.Request
	if req.Nodes, err = nodes(spec); err != nil {
		return err
	}
	if p.files, err = mountFiles(spec, &req.Files); err != nil {
		return err
	}
	if err := h.packNamespaces(ctx, p, spec); err != nil {
		return err
	}
	if f := h.filter(filterKey(spec)); f != nil {
		fd, err := unix.FcntlInt(f.code.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("using a filter: %w", err)
		}
		p.c.Filter, p.c.Program = f.config, p.add(os.NewFile(uintptr(fd), "filter"))
	}
	if spec.Init {
		f, err := openReadOnly(h.opts.Binary)
		if err != nil {
			return err
		}
		req.Files.Init = p.add(f)
	}
	open, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the container's directory: %w", err)
	}
	p.c.Dir = p.add(open)
	if l := &p.c.Options.Log; l.Driver != "" && l.Driver != "none" {
		logs, err := os.Open(filepath.Dir(l.Path))
		if err != nil {
			return fmt.Errorf("opening the directory of the log: %w", err)
		}
		p.c.LogDir = p.add(logs)
	}
	l, err := listen(dir)
	if err != nil {
		return err
	}
	p.c.Listener = p.add(l)
	if len(p.files) > wire.MaxFiles {
		return fmt.Errorf("%d mounts: %d descriptors more than can be sent", len(spec.Mounts), len(p.files)-wire.MaxFiles)
	}
	return nil
}

// packNamespaces opens the namespaces that the container joins.
func (h *Host) packNamespaces(ctx context.Context, p *parcel, spec *executor.Spec) error {
	files := &p.c.Request.Files
	ns, release, err := h.opts.network(ctx, &spec.Network)
	if err != nil {
		return err
	}
	if ns != nil {
		fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			release()
			return fmt.Errorf("using the network namespace: %w", err)
		}
		p.release = append(p.release, release)
		files.NetNS = p.add(os.NewFile(uintptr(fd), "network"))
	}
	for path, index := range map[string]*int{spec.PIDNamespace: &files.PIDNS, spec.IPCNamespace: &files.IPCNS} {
		if path == "" {
			continue
		}
		f, err := openNamespace(path)
		if err != nil {
			return fmt.Errorf("joining a namespace: %w", err)
		}
		*index = p.add(f)
	}
	proc := ""
	switch {
	case spec.IPCNamespace != "":
		proc = filepath.Dir(filepath.Dir(spec.IPCNamespace))
	case spec.HostIPC:
		proc = "/proc/self"
	}
	if proc != "" {
		shm, err := sharedMemory(proc)
		if err != nil {
			return err
		}
		files.Shm = p.add(shm)
	}
	return nil
}

// openReadOnly returns a file as a detached mount that can't be written through.
func openReadOnly(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
		if err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("making a mount of %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
