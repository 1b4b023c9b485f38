// Package mount turns what a snapshotter says about mounting into a detached mount: a mount that is attached nowhere,
// in no namespace, and lives as long as a file descriptor of it.
//
// # Life cycle
//
//	snapshot.Mount ──Open──> *os.File ──Close──> gone
//	                            └──Sub──> *os.File of a path below
//
// Nothing shows in /proc/mounts, there is no mount point to make or to clean up, and when the process dies, however it
// dies, the kernel takes everything back. A detached mount is used in three ways:
//
//   - through Path, as a prefix of ordinary paths. Only for trees that nobody else writes to, since such paths follow
//     symbolic links out of the tree;
//   - through Resolve, which never leaves the tree, whoever changes it meanwhile;
//   - by handing the descriptor to another process, which attaches it in its own namespace with move_mount(2).
//
// # Kernels
//
// With Linux 6.7 or later an overlay is made with fsopen(2), a layer at a time. Before that the layers have to fit in
// the one page that mount(2) takes: the mount is made by a thread with a mount namespace of its own, whose working
// directory is /proc/self/fd, so that a layer's name is the number of a descriptor and five hundred of them fit.
// Linux 5.6 is the oldest that works (openat2, open_tree).
//
// The package keeps no state but what it has learnt of the kernel. All functions are safe for concurrent use.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// MaxLayers is how many lower layers overlayfs stacks (OVL_MAX_STACK in fs/overlayfs).
const MaxLayers = 500

// ErrTooManyLayers is returned by Open for an overlay of more than MaxLayers lower layers.
var ErrTooManyLayers = errors.New("overlayfs stacks at most 500 layers")

// An Option changes how Open and Sub work.
type Option func(*options)

type options struct {
	legacy   bool
	readOnly bool
}

// Legacy makes Open and Sub work as they do on kernels that lack the newer system calls. It is for tests: which way is
// taken is found out otherwise.
func Legacy() Option { return func(o *options) { o.legacy = true } }

// ReadOnly makes the result read-only, whatever it is made from.
func ReadOnly() Option { return func(o *options) { o.readOnly = true } }

func gather(opts []Option) options {
	var o options
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Open makes a detached mount of mounts, which must be what one call of a snapshotter returned: exactly one mount. The
// caller closes the file, and must not use mounts again while the file is open: one directory for writing (Upper) must
// not be in two overlays. Use Sub(f, "/") for a second descriptor of an equal mount.
//
// ctx is only looked at before the work begins, since mounting cannot be interrupted.
func Open(ctx context.Context, mounts []snapshot.Mount, opts ...Option) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if len(mounts) != 1 {
		return nil, fmt.Errorf("mounting a snapshot: %d mounts given, want 1", len(mounts))
	}
	m, o := mounts[0], gather(opts)
	var fd int
	var err error
	switch m.Type {
	case "bind":
		fd, err = openBind(m, o)
	case "overlay":
		fd, err = openOverlay(m, o)
	default:
		err = errors.New("unknown type")
	}
	if err != nil {
		return nil, fmt.Errorf("mounting %s: %w", describe(m), err)
	}
	return os.NewFile(uintptr(fd), "detached mount of "+describe(m)), nil
}

// Path returns a path that leads to the root of f for as long as f is open, in this process only.
func Path(f *os.File) string { return procFD(int(f.Fd())) }

// Attach attaches f at target, an existing directory (or file, if f's root is one), in the mount namespace of the
// calling thread. From then on f is that attached mount. The caller unmounts it.
func Attach(f *os.File, target string) error {
	err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attaching %s at %s: %w", f.Name(), target, err)
	}
	return nil
}

func describe(m snapshot.Mount) string {
	switch {
	case m.Type == "overlay" && m.Upper != "":
		return fmt.Sprintf("overlay of %d layers under %s", len(m.Lower), m.Upper)
	case m.Type == "overlay" && len(m.Lower) > 0:
		return fmt.Sprintf("overlay of %d layers with %s on top", len(m.Lower), m.Lower[0])
	case m.Type == "overlay":
		return "overlay of no layers"
	}
	return m.Type + " of " + m.Source
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openBind clones the tree at m.Source, without what is mounted below it.
func openBind(m snapshot.Mount, o options) (int, error) {
	readOnly := o.readOnly || m.ReadOnly()
	for _, opt := range m.Options {
		if opt != "ro" && opt != "rw" && opt != "bind" {
			return -1, fmt.Errorf("unknown option %q", opt)
		}
	}
	if o.legacy {
		return legacyBind(m.Source, readOnly)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, cloneFlags|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("cloning the tree: %w", err)
	}
	err = setAttributes(fd, readOnly)
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return legacyBind(m.Source, readOnly)
	}
	return -1, err
}

const cloneFlags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC

// setAttributes makes the detached mount fd read-only, if asked to, and takes it out of the peer group of what it was
// cloned from: mounts that appear there must not appear in it.
func setAttributes(fd int, readOnly bool) error {
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("setting mount attributes: %w", err)
	}
	return nil
}
