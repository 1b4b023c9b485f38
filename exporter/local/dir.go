package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// WriteDir writes the parts into the directory dir, which is made if it is not there. What is there and not in the
// parts stays. Sockets and devices are left out: a directory of a user's is no place for device nodes. A directory is
// never replaced by a file; that is an error. skipped are the paths of the devices that were left out.
//
// After an error some of the files are there, each whole.
func WriteDir(ctx context.Context, dir string, parts []Part) (skipped []string, err error) {
	if err := check(parts); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("exporting to %s: %w", dir, err)
	}
	root, err := dirfd.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("exporting to %s: %w", dir, err)
	}
	defer dirfd.Close(root)
	w := &dirWriter{root: root, files: newCensus(parts)}
	for i := range parts {
		if err := w.write(ctx, &parts[i]); err != nil {
			return nil, fmt.Errorf("exporting to %s: %w", dir, err)
		}
	}
	return w.skipped, nil
}

type dirWriter struct {
	root    int
	part    *Part
	files   census
	prefix  string
	dirs    []*treehash.Entry // to be given their metadata at the end
	links   []link
	first   map[uint64]string
	skipped []string
	temp    atomic.Int64
}

// A link is a further name of an inode, made when the first is there.
type link struct{ from, to string }

// write writes one tree: directories and special files one after the other, regular files by several goroutines.
func (w *dirWriter) write(ctx context.Context, p *Part) error {
	w.part, w.prefix, w.dirs, w.links, w.first = p, "", nil, nil, map[uint64]string{}
	if p.Dir != "" {
		e := synthetic(p)
		if err := w.mkdir(e.Path); err != nil {
			return err
		}
		w.dirs = append(w.dirs, e)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(8, max(4, runtime.GOMAXPROCS(0))))
	prefix := "/" + p.Dir
	err := walk(gctx, p.Tree, "/", func(e *treehash.Entry) error {
		to := path.Join(prefix, e.Path)
		if err := w.files.add(p, e); err != nil {
			return err
		}
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if first, ok := w.first[e.Hard]; ok && e.Hard != 0 {
				w.links = append(w.links, link{first, to})
				return nil
			}
			if e.Hard != 0 {
				w.first[e.Hard] = to
			}
			g.Go(func() error { return named(to, w.regular(gctx, e, to)) })
			return nil
		case unix.S_IFDIR:
			at := *e
			at.Path = to
			w.dirs = append(w.dirs, &at)
			return named(to, w.mkdir(to))
		case unix.S_IFCHR, unix.S_IFBLK:
			w.skipped = append(w.skipped, to)
			return nil
		}
		return named(to, w.special(e, to))
	})
	if werr := g.Wait(); werr != nil {
		err = werr // the walk then ends with the group's context
	}
	if err != nil {
		return err
	}
	for _, l := range w.links {
		if err := named(l.to, w.link(l)); err != nil {
			return err
		}
	}
	for _, e := range slices.Backward(w.dirs) {
		if err := named(e.Path, w.finish(e)); err != nil {
			return err
		}
	}
	return nil
}

func named(p string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("writing %q: %w", p, err)
}

// parent opens the directory that holds p. It has been made by this export, so nothing on the way is a symlink, unless
// somebody puts one there meanwhile, which is an error then.
func (w *dirWriter) parent(p string) (int, error) {
	fd, err := dirfd.Open(w.root, path.Dir(p), unix.O_RDONLY|unix.O_DIRECTORY)
	return fd, bare(err)
}

// mkdir makes a directory or takes the one that is there. Anything else that is not a directory is removed for it.
func (w *dirWriter) mkdir(p string) error {
	dir, err := w.parent(p)
	if err != nil {
		return err
	}
	defer dirfd.Close(dir)
	name := path.Base(p)
	err = unix.Mkdirat(dir, name, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st dirfd.Stat
	if err := dirfd.Lstat(dir, name, &st); err != nil {
		return bare(err)
	}
	if st.Type() == unix.S_IFDIR {
		return nil
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		return err
	}
	return unix.Mkdirat(dir, name, 0o700)
}

// replace makes a file under a name of our own with make, describes it, and gives it its name.
func (w *dirWriter) replace(p string, make func(dir int, name string) error) error {
	dir, err := w.parent(p)
	if err != nil {
		return err
	}
	defer dirfd.Close(dir)
	temp := ".boxbuild-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(w.temp.Add(1), 10)
	if err = make(dir, temp); err == nil {
		err = unix.Renameat(dir, temp, dir, path.Base(p))
		if err == nil {
			// Of two links to one file rename(2) leaves both.
			if err := unix.Unlinkat(dir, temp, 0); err != nil && err != unix.ENOENT {
				return err
			}
			return nil
		}
	}
	_ = unix.Unlinkat(dir, temp, 0)
	return err
}

func (w *dirWriter) regular(ctx context.Context, e *treehash.Entry, to string) error {
	r, err := w.part.Tree.Open(ctx, e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return w.replace(to, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), to)
		defer f.Close()
		n, err := io.Copy(f, r)
		if err != nil {
			return err
		}
		if n != e.Size {
			return io.ErrUnexpectedEOF
		}
		return w.describe(fd, e)
	})
}

// describe sets the metadata of an open file or directory. Extended attributes are set as far as the destination takes
// them.
func (w *dirWriter) describe(fd int, e *treehash.Entry) error {
	if err := unix.Fchmod(fd, e.Mode&0o7777); err != nil {
		return err
	}
	for k, v := range e.Xattr {
		err := dirfd.Setxattr(fd, "", k, v)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return bare(err)
		}
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(w.part.mtime(e).UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), ts, 0)
}

// special makes a symlink or a FIFO.
func (w *dirWriter) special(e *treehash.Entry, to string) error {
	return w.replace(to, func(dir int, name string) error {
		var err error
		if e.IsSymlink() {
			err = unix.Symlinkat(e.Link, dir, name)
		} else {
			err = unix.Mknodat(dir, name, unix.S_IFIFO|0o600, 0)
		}
		if err != nil {
			return err
		}
		if !e.IsSymlink() {
			fd, err := dirfd.Open(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
			if err != nil {
				return bare(err)
			}
			defer dirfd.Close(fd)
			if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), e.Mode&0o7777); err != nil {
				return err
			}
		}
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(w.part.mtime(e).UnixNano())}
		return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (w *dirWriter) link(l link) error {
	from, err := w.parent(l.from)
	if err != nil {
		return err
	}
	defer dirfd.Close(from)
	return w.replace(l.to, func(dir int, name string) error {
		return unix.Linkat(from, path.Base(l.from), dir, name, 0)
	})
}

func (w *dirWriter) finish(e *treehash.Entry) error {
	fd, err := dirfd.Open(w.root, e.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return bare(err)
	}
	defer dirfd.Close(fd)
	return w.describe(fd, e)
}

// bare strips the path from an error whose message gives a better one.
func bare(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
