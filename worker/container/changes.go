package container

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

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
	t, err := c.layerDir(ctx)
	if err != nil {
		return nil, err
	}
	if t.Form != layer.Plain {
		err = ch.upper(ctx, t.Dir, t.Form)
		return ch.sorted(), err
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

// layerDir is where the layer of the container lies.
func (c *ctr) layerDir(ctx context.Context) (layer.Target, error) {
	mounts, err := c.m.keeper.Mounts(ctx, c.draft(), c.get().autoRemove())
	if err != nil {
		return layer.Target{}, err
	}
	t, ok := layer.TargetOf(mounts)
	if !ok {
		return layer.Target{}, errors.New("the writable layer cannot be read")
	}
	return t, nil
}

// target is layerDir, with what it is compared to, for package layer.
func (c *ctr) target(ctx context.Context) (layer.Target, func(), error) {
	rec := c.get()
	t, err := c.layerDir(ctx)
	if err != nil {
		return t, nil, err
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
