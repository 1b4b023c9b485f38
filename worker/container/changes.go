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
	ch := &changes{lower: lower}
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

// lowerOf mounts what a container's layer stands on; nil for nothing.
func (m *Manager) lowerOf(ctx context.Context, rec *record) (*os.File, error) {
	if rec.lower() == "" {
		return nil, nil
	}
	return m.viewOf(ctx, rec.lower())
}

// changes gathers what a layer changes.
type changes struct {
	lower *os.File // what it is changed from; nil for nothing
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

// there says whether a path was there before.
func (ch *changes) there(name string) bool {
	if ch.lower == nil {
		return false
	}
	dir, err := snapmount.ResolveNoSymlinks(ch.lower, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer dir.Close()
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// upper walks the upper directory of an overlay.
func (ch *changes) upper(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return ch.dir(ctx, root, "/")
}

// dir reports what is in a directory.
func (ch *changes) dir(ctx context.Context, root *os.Root, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	entries, err := fs.ReadDir(root.FS(), path.Join(".", name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		full := path.Join(name, e.Name())
		fi, err := e.Info()
		if err != nil {
			continue // it has vanished
		}
		if err := ch.file(ctx, root, full, fi); err != nil {
			return err
		}
	}
	return nil
}

func (ch *changes) file(ctx context.Context, root *os.Root, full string, fi fs.FileInfo) error {
	if isWhiteout(fi) {
		ch.add(changeDeleted, full)
		return nil
	}
	kind := changeAdded
	if ch.there(full) {
		kind = changeModified
	}
	ch.add(kind, full)
	if fi.IsDir() {
		return ch.dir(ctx, root, full)
	}
	return nil
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
	if t.Form != layer.Plain || rec.lower() == "" {
		return t, func() {}, nil
	}
	lower, err := c.m.viewOf(ctx, rec.lower())
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
