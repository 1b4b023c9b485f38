package container

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/layer"
	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
)

// An upperWalk finds out what the upper directory of an overlay changes, as docker's overlay2 does: by the difference of two
// trees. The kernel copies a file up when its metadata is set or when it is opened for writing, and its directories with
// it; what is as it was then is no change. What an opaque directory hides is one.
type upperWalk struct {
	*changes
	now, was *os.Root // was is nil if there was nothing
	mark     string   // the attribute of opaque directories
}

// upper walks the upper directory of an overlay.
func (ch *changes) upper(ctx context.Context, dir string, form layer.Form) error {
	w := &upperWalk{changes: ch, mark: "trusted.overlay.opaque"}
	if form == layer.UserOverlay {
		w.mark = "user.overlay.opaque" // in a user namespace
	}
	var err error
	if w.now, err = os.OpenRoot(dir); err != nil {
		return err
	}
	defer w.now.Close()
	if ch.lower != nil {
		if w.was, err = os.OpenRoot(snapmount.Path(ch.lower)); err != nil {
			return err
		}
		defer w.was.Close()
	}
	return w.dir(ctx, ".", w.was != nil)
}

// dir reports what is in a directory; below says that it was one before.
func (w *upperWalk) dir(ctx context.Context, name string, below bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	entries, err := fs.ReadDir(w.now.FS(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a container that runs has taken it away
	}
	if err != nil {
		return err
	}
	if below && attribute(w.now, name, w.mark) == "y" {
		if err := w.hidden(name, entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		full := path.Join(name, e.Name())
		fi, err := e.Info()
		if err != nil {
			continue // it has vanished
		}
		var old fs.FileInfo
		if below {
			if old, err = w.was.Lstat(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := w.file(ctx, full, fi, old); err != nil {
			return err
		}
	}
	return nil
}

// file reports a file that was old before, nil for none, and what is in it.
func (w *upperWalk) file(ctx context.Context, name string, fi, old fs.FileInfo) error {
	if isWhiteout(fi) {
		if old != nil {
			w.add(changeDeleted, "/"+name)
		}
		return nil
	}
	kind := changeAdded
	if old != nil {
		kind = changeModified
	}
	at := len(w.list)
	w.add(kind, "/"+name)
	if fi.IsDir() {
		if err := w.dir(ctx, name, old != nil && old.IsDir()); err != nil {
			return err
		}
	}
	if len(w.list) == at+1 && old != nil && !w.differs(name, fi, old) {
		w.list = w.list[:at] // and nothing in it has changed
	}
	return nil
}

// differs says whether a file is another than it was. The content is not read: who writes to it sets its time.
func (w *upperWalk) differs(name string, fi, old fs.FileInfo) bool {
	a, ok := fi.Sys().(*syscall.Stat_t)
	b, okOld := old.Sys().(*syscall.Stat_t)
	if !ok || !okOld || a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return true
	}
	if fi.IsDir() {
		return false // its size and time say nothing beyond what is in it
	}
	if a.Size != b.Size || a.Mtim != b.Mtim {
		return true
	}
	return fi.Mode().IsRegular() && attribute(w.now, name, "security.capability") != attribute(w.was, name, "security.capability")
}

// hidden reports what an opaque directory, which has entries, does not show any more.
func (w *upperWalk) hidden(name string, entries []fs.DirEntry) error {
	has := make(map[string]bool, len(entries))
	for _, e := range entries {
		has[e.Name()] = true
	}
	gone, err := fs.ReadDir(w.was.FS(), name)
	if err != nil {
		return err
	}
	for _, e := range gone {
		if !has[e.Name()] {
			w.add(changeDeleted, path.Join("/", name, e.Name()))
		}
	}
	return nil
}

// attribute returns an extended attribute of a regular file or directory; "" if it has none.
func attribute(root *os.Root, name, key string) string {
	f, err := root.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	var value string
	err = rc.Control(func(fd uintptr) {
		b := make([]byte, 64) // a capability has 24 bytes, a mark has one
		if n, err := unix.Fgetxattr(int(fd), key, b); err == nil {
			value = string(b[:n])
		}
	})
	if err != nil {
		return ""
	}
	return value
}

func isWhiteout(fi fs.FileInfo) bool {
	if fi.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == 0
}
