package container

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
)

// The kinds of changes.
const (
	changeModified container.ChangeType = iota
	changeAdded
	changeDeleted
)

// Changes implements worker.Containers.
func (m *Manager) Changes(ctx context.Context, ref string) (_ []container.FilesystemChange, err error) {
	begin := time.Now()
	defer func() { m.meter("changes", begin, err) }()
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	lower, err := m.lowerOf(ctx, c.get())
	if err != nil {
		return nil, err
	}
	if lower != nil {
		defer lower.Close()
	}
	// What was made to mount on is removed at the end of a run, but not the copy of the image's directory that it was in.
	ch := &changes{lower: lower, stubs: c.stubs(), ended: !c.status().Alive()}
	if w, ok := m.deps.Snapshots.(snapshot.DraftWriter); ok {
		dir, _, err := w.DraftUpper(ctx, c.draft())
		if err == nil {
			err = ch.upper(ctx, dir)
		}
		if err != nil {
			return nil, err
		}
		return ch.sorted(), nil
	}
	err = c.layerTar(ctx, func(h *tar.Header, _ io.Reader) error { return ch.entry(h) })
	return ch.sorted(), err
}

// lowerOf mounts the image of a container; nil if it has no files.
func (m *Manager) lowerOf(ctx context.Context, rec *record) (*os.File, error) {
	if rec.Snapshot == "" {
		return nil, nil
	}
	return m.viewOf(ctx, rec.Snapshot)
}

// stubs are the paths at which there may be something empty that was only made to mount on.
func (c *ctr) stubs() map[string]bool {
	out := make(map[string]bool)
	add := func(target string) {
		for ; target != "/"; target = path.Dir(target) {
			out[target] = true
		}
	}
	for _, f := range ownFiles {
		add(f.target)
	}
	for _, p := range c.get().Mounts {
		add(p.Target)
	}
	for _, target := range []string{"/dev/console", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys", "/sys/fs/cgroup"} {
		add(target)
	}
	return out
}

// changes gathers what a layer changes.
type changes struct {
	lower *os.File
	stubs map[string]bool
	ended bool // stubs can only be directories of the image
	list  []container.FilesystemChange
}

func (ch *changes) sorted() []container.FilesystemChange {
	slices.SortFunc(ch.list, func(a, b container.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	if ch.list == nil {
		return []container.FilesystemChange{}
	}
	return ch.list
}

func (ch *changes) add(kind container.ChangeType, name string) {
	ch.list = append(ch.list, container.FilesystemChange{Kind: kind, Path: name})
}

// there says whether the image has a path.
func (ch *changes) there(name string) bool { return ch.lowerStat(name) != nil }

// lowerStat describes what the image has at a path; nil for nothing.
func (ch *changes) lowerStat(name string) *unix.Stat_t {
	if ch.lower == nil {
		return nil
	}
	dir, err := snapmount.ResolveNoSymlinks(ch.lower, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer dir.Close()
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	return &st
}

// sameDir says whether a directory is as in the image but for what is in it, or is not in the image.
func (ch *changes) sameDir(name string, mode uint32, uid, gid int) bool {
	st := ch.lowerStat(name)
	return st == nil || st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&0o7777 == mode&0o7777 && int(st.Uid) == uid && int(st.Gid) == gid
}

// upper walks the upper directory of an overlay.
func (ch *changes) upper(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = ch.dir(ctx, root, "/")
	return err
}

// dir reports what is in a directory, and says whether there was anything.
func (ch *changes) dir(ctx context.Context, root *os.Root, name string) (some bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	entries, err := fs.ReadDir(root.FS(), path.Join(".", name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		full := path.Join(name, e.Name())
		fi, err := e.Info()
		if err != nil {
			continue // it has vanished
		}
		said, err := ch.file(ctx, root, full, fi)
		if err != nil {
			return some, err
		}
		some = some || said
	}
	return some, nil
}

func (ch *changes) file(ctx context.Context, root *os.Root, full string, fi fs.FileInfo) (bool, error) {
	if isWhiteout(fi) {
		ch.add(changeDeleted, full)
		return true, nil
	}
	before := len(ch.list)
	some := false
	if fi.IsDir() {
		var err error
		if some, err = ch.dir(ctx, root, full); err != nil {
			return false, err
		}
	}
	if ch.stubs[full] && !some && ch.isStub(full, fi) {
		return false, nil
	}
	kind := changeAdded
	if ch.there(full) {
		kind = changeModified
	}
	ch.list = slices.Insert(ch.list, before, container.FilesystemChange{Kind: kind, Path: full})
	return true, nil
}

// isStub says whether a file, in which nothing has changed, is nothing but a place to mount on.
func (ch *changes) isStub(name string, fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok, ch.ended && !(fi.IsDir() && ch.there(name)):
		return false
	case fi.IsDir():
		return ch.sameDir(name, st.Mode, int(st.Uid), int(st.Gid))
	}
	return fi.Size() == 0 && !ch.there(name)
}

func isWhiteout(fi fs.FileInfo) bool {
	if fi.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == 0
}

// entry reports an entry of a layer tar.
func (ch *changes) entry(h *tar.Header) error {
	full := path.Clean("/" + h.Name)
	if full == "/" {
		return nil
	}
	if gone, ok := strings.CutPrefix(path.Base(full), layerWhiteout); ok {
		ch.add(changeDeleted, path.Join(path.Dir(full), gone))
		return nil
	}
	kind := changeAdded
	if ch.there(full) {
		kind = changeModified
	}
	ch.add(kind, full)
	return nil
}

// layerWhiteout begins the names of what a layer tar takes away (OCI image specification, layer.md).
const layerWhiteout = ".wh."

// target is where the layer of the container lies, for package layer.
func (c *ctr) target(ctx context.Context) (layer.Target, func(), error) {
	rec := c.get()
	mounts, err := c.m.keeper.Mounts(ctx, c.draft(), rec.autoRemove())
	if err != nil {
		return layer.Target{}, nil, err
	}
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return layer.Target{}, nil, errors.New("the writable layer cannot be read")
	}
	if t.Form != layer.Plain || rec.Snapshot == "" {
		return t, func() {}, nil
	}
	lower, err := c.m.viewOf(ctx, rec.Snapshot)
	if err != nil {
		return t, nil, err
	}
	t.Lower = []string{snapmount.Path(lower)}
	return t, func() { lower.Close() }, nil
}

// layerTar calls f with the entries of the layer that the container has made.
func (c *ctr) layerTar(ctx context.Context, f func(h *tar.Header, content io.Reader) error) error {
	t, release, err := c.target(ctx)
	if err != nil {
		return err
	}
	defer release()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(layer.Diff(ctx, t, w, layer.DiffOptions{}))
	}()
	err = eachEntry(r, f)
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	<-done
	return err
}

func eachEntry(r io.Reader, f func(h *tar.Header, content io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err == nil {
			err = f(h, tr)
		}
		if err != nil {
			return err
		}
	}
}
