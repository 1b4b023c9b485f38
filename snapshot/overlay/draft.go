package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/store"
)

// Fill implements store.Driver: it makes the upper and the work directory of a draft.
func (d *driver) Fill(_ context.Context, dir string, chain []store.Layer) error {
	fs := dir + "/fs"
	if err := os.Mkdir(fs, 0o755); err != nil {
		return err
	}
	if len(chain) == 0 {
		return os.Chmod(fs, 0o755) // whatever the umask
	}
	if err := os.Mkdir(dir+"/work", 0o700); err != nil {
		return err
	}
	return copyRoot(chain[0].FS(), fs)
}

// copyRoot gives the directory to the attributes of the directory from.
func copyRoot(from, to string) error {
	r, err := readRoot(from)
	if err != nil {
		return err
	}
	if int(r.stat.Uid) != os.Geteuid() || int(r.stat.Gid) != os.Getegid() {
		if err := os.Lchown(to, int(r.stat.Uid), int(r.stat.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Chmod(to, r.stat.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	for name, value := range r.xattrs {
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return fmt.Errorf("setting %s on %s: %w", name, to, err)
		}
	}
	return setTime(to, r.stat.Mtim)
}

func setTime(path string, t unix.Timespec) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: path, Err: err}
	}
	return nil
}

// A root is the attributes of a layer's root directory.
type root struct {
	stat   unix.Stat_t
	xattrs map[string][]byte // without overlayfs's own
}

func readRoot(path string) (r root, err error) {
	if err := unix.Lstat(path, &r.stat); err != nil {
		return r, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	names, err := listXattrs(path)
	if err != nil || len(names) == 0 {
		return r, err
	}
	r.xattrs = make(map[string][]byte)
	for _, name := range names {
		// What belongs to this file system or to this mount does not belong to the tree.
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || name == "security.selinux" {
			continue
		}
		value, err := getXattr(path, name)
		if err != nil {
			return r, fmt.Errorf("reading %s of %s: %w", name, path, err)
		}
		r.xattrs[name] = value
	}
	return r, nil
}

// same says whether two roots are equal but for times.
func (r root) same(o root) bool {
	if r.stat.Mode != o.stat.Mode || r.stat.Uid != o.stat.Uid || r.stat.Gid != o.stat.Gid || len(r.xattrs) != len(o.xattrs) {
		return false
	}
	for name, value := range r.xattrs {
		if other, ok := o.xattrs[name]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}

func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			buf = make([]byte, 64<<10) // the kernel's limit
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("listing attributes of %s: %w", path, err)
		default:
			return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
		}
	}
}

func getXattr(path, name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10)
		n, err = unix.Lgetxattr(path, name, buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Inspect implements store.Driver.
func (d *driver) Inspect(dir string, chain []store.Layer, files bool) (m store.Marks, err error) {
	fs := dir + "/fs"
	mark, err := getXattr(fs, d.opaque)
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return m, fmt.Errorf("reading %s of %s: %w", d.opaque, fs, err)
	}
	m.Opaque = string(mark) == "y"
	if files || m.Opaque || len(chain) == 0 {
		return m, nil
	}
	mine, err := readRoot(fs)
	if err != nil {
		return m, err
	}
	parents, err := readRoot(chain[0].FS())
	if err != nil {
		return m, err
	}
	m.Empty = mine.same(parents)
	if m.Empty && mine.stat.Mtim != parents.stat.Mtim {
		// Something was made and removed again. Whether the layer is part of a mount must make no difference.
		err = setTime(fs, parents.stat.Mtim)
	}
	return m, err
}
