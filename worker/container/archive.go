package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/layer"
	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/tree"
)

var errPermission = errdefs.ErrPermissionDenied

// StatPath implements worker.Containers.
func (m *Manager) StatPath(ctx context.Context, ref, name string) (*container.PathStat, error) {
	c, err := m.findForFiles(ref, name)
	if err != nil {
		return nil, err
	}
	var out *container.PathStat
	err = c.withTree(ctx, func(root *os.File, _ bool) error {
		out, err = stat(root, name)
		return err
	})
	if err != nil {
		return nil, pathError(ref, name, err)
	}
	return out, nil
}

func (m *Manager) findForFiles(ref, name string) (*ctr, error) {
	if name == "" {
		return nil, worker.Invalidf("missing parameter: path")
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, worker.Invalidf("invalid path: %q", name)
	}
	return m.find(ref)
}

func stat(root *os.File, name string) (*container.PathStat, error) {
	in, err := tree.Stat(root, name)
	if err != nil {
		return nil, err
	}
	if in.Name == "/" || in.Name == "." {
		in.Name = "/"
	}
	return &container.PathStat{Name: in.Name, Size: in.Size, Mode: in.Mode, Mtime: in.Mtime, LinkTarget: in.Link}, nil
}

// pathError gives an error about a path in a container, named as the client has, docker's words.
func pathError(ref, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return worker.NotFoundf("Could not find the file %s in container %s", name, ref)
	case errors.Is(err, unix.ENOTDIR):
		return worker.Invalidf("the path %s in container %s is not a directory", name, ref)
	case errors.Is(err, unix.ELOOP):
		return worker.Invalidf("the path %s in container %s leads through too many symbolic links", name, ref)
	case errors.Is(err, unix.EROFS):
		return worker.Errorf(errPermission, "the path %s in container %s is read-only", name, ref)
	}
	return err
}

// hidden are the directories that the kernel or the runtime fills for a container that runs. Whoever copies what is above
// them gets them empty: they are no files of the container's, and some cannot even be read.
func hidden(rec *record) []string {
	dirs := []string{"/dev", "/proc", "/sys"}
	for target := range rec.HostConfig.Tmpfs {
		dirs = append(dirs, path.Clean("/"+target))
	}
	for i := range rec.Mounts {
		if rec.Mounts[i].Type == mount.TypeTmpfs {
			dirs = append(dirs, path.Clean("/"+rec.Mounts[i].Target))
		}
	}
	return dirs
}

// CopyFrom implements worker.Containers.
func (m *Manager) CopyFrom(ctx context.Context, ref, name string, w func(*container.PathStat) io.Writer) error {
	c, err := m.findForFiles(ref, name)
	if err != nil {
		return err
	}
	err = c.withTree(ctx, func(root *os.File, live bool) error {
		st, err := stat(root, name)
		if err != nil {
			return err
		}
		src := tree.Source{Root: root, Name: name, Base: base(name)}
		if live {
			src.Hidden = hidden(c.get())
		}
		return tree.Pack(ctx, src, w(st))
	})
	if err != nil {
		return pathError(ref, name, err)
	}
	c.publish(events.ActionArchivePath, nil)
	return nil
}

// CopyTo implements worker.Containers.
func (m *Manager) CopyTo(ctx context.Context, ref, name string, content io.Reader, opt worker.CopyToOptions) error {
	c, err := m.findForFiles(ref, name)
	if err != nil {
		return err
	}
	err = c.withTree(ctx, func(root *os.File, _ bool) error {
		real, err := tree.Real(root, name)
		if err != nil {
			return err
		}
		rec := c.get()
		if err := c.readOnlyAt(rec, real); err != nil {
			return err
		}
		o := tree.Options{KeepKind: opt.NoOverwriteDirNonDir}
		if opt.CopyUIDGID {
			if o.Owner, err = ownerIn(root, rec.Config.User); err != nil {
				return err
			}
		}
		err = unpack(ctx, root, name, content, o)
		if _, missing := stat(root, name); missing == nil && errors.Is(err, fs.ErrNotExist) { // in /proc nothing can be made
			return worker.Invalidf("writing to the path %s in container %s: %v", name, ref, err)
		}
		return err
	})
	if err != nil {
		return pathError(ref, name, err)
	}
	c.publish(events.ActionExtractToDir, nil)
	return nil
}

// unpack writes an archive, compressed or not, to a directory in root.
func unpack(ctx context.Context, root *os.File, name string, content io.Reader, o tree.Options) error {
	r, _, err := layer.Decompress(content)
	if err != nil {
		return worker.Invalidf("reading the archive: %v", err)
	}
	defer r.Close()
	return tree.Unpack(ctx, root, name, r, o)
}

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 16 << 20

// ownerIn finds the user of a container; nil for none.
func ownerIn(root *os.File, name string) (*tree.Owner, error) {
	if name == "" {
		return nil, nil
	}
	passwd, err := openRegular(root, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openRegular(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	u, err := user.GetExecUser(name, nil, io.LimitReader(passwd, maxUserFile), io.LimitReader(group, maxUserFile))
	if err != nil {
		return nil, worker.Invalidf("%v", err)
	}
	return &tree.Owner{UID: u.Uid, GID: u.Gid}, nil
}

// openRegular opens a file in root, or something empty where there is none that is regular.
func openRegular(root *os.File, name string) (io.ReadCloser, error) {
	f, err := snapmount.Resolve(root, name, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(eof{}), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return io.NopCloser(eof{}), err
	}
	return os.Open(snapmount.Path(f))
}

// Export implements worker.Containers.
func (m *Manager) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if p := c.status().Phase; p == Dead || p == Removing {
		return worker.Conflictf("You cannot export container %s which is %s", c.id, p)
	}
	root, release, err := c.rootFS(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := tree.PackTree(ctx, root, w); err != nil {
		return worker.Errorf(class(err), "exporting container %s: %v", c.id, err)
	}
	c.publish(events.ActionExport, nil)
	return nil
}
