package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// Options change how Unpack works.
type Options struct {
	// KeepKind refuses to put a directory where something else is, or the other way round.
	KeepKind bool
	// Owner, if not nil, owns everything instead of whom the tar says.
	Owner *Owner
}

// An Owner is a user and a group, by number.
type Owner struct{ UID, GID int }

// Unpack writes the files of a tar below the directory at a path. An entry that would lead out of that
// directory by its name is refused.
func Unpack(ctx context.Context, root *os.File, dir string, r io.Reader, opt Options) error {
	d, err := mount.Resolve(root, path.Clean("/"+dir), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) {
		return notDir(dir)
	}
	if err != nil {
		return err
	}
	d.Close()
	u := &unpacker{root: root, dir: path.Clean("/" + dir), opt: opt}
	t := tar.NewReader(&cancelReader{ctx, r})
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.entry(h, t)
		}
		if err != nil {
			return err
		}
	}
	return u.setTimes()
}

// MountPoint opens a directory, or a file, to mount something on. It is made if it does not exist.
func MountPoint(root *os.File, name string, dir bool) (*os.File, error) {
	name = path.Clean("/" + name)
	f, err := mount.Resolve(root, name, unix.O_PATH)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	u := &unpacker{root: root}
	if dir {
		return u.parent(name)
	}
	up, err := u.parent(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer up.Close()
	fd, err := unix.Openat(int(up.Fd()), path.Base(name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	unix.Close(fd)
	return mount.Resolve(root, name, unix.O_PATH)
}

// An unpacker is one call of Unpack.
type unpacker struct {
	root *os.File
	dir  string
	opt  Options
	made []dirTime // directories, whose times are set when all is in them
}

type dirTime struct {
	name string
	at   time.Time
}

// errOutside is the refusal of a name.
var errOutside = errors.New("it leads out of the directory")

// inside returns a name of the tar as a path in the tree.
func (u *unpacker) inside(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("entry %q: %w", name, errOutside)
		}
	}
	return path.Join(u.dir, path.Clean("/"+name)), nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("entry %q: unknown type %q", h.Name, h.Typeflag)
	}
	name, err := u.inside(h.Name)
	if err != nil {
		return err
	}
	if name == u.dir {
		return nil // the directory itself stays what it is
	}
	dir, err := u.parent(path.Dir(name))
	if err != nil {
		return fmt.Errorf("entry %q: %w", h.Name, err)
	}
	defer dir.Close()
	base := path.Base(name)
	if err := u.makeRoom(int(dir.Fd()), base, h); err != nil {
		return err
	}
	if err := u.create(int(dir.Fd()), base, h, content); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if h.Typeflag == tar.TypeDir {
		u.made = append(u.made, dirTime{name, h.ModTime})
	}
	return nil
}

// parent opens the directory at a path, which is made if it does not exist.
func (u *unpacker) parent(name string) (*os.File, error) {
	d, err := mount.Resolve(u.root, name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, fs.ErrNotExist) || name == "/" {
		return d, err
	}
	up, err := u.parent(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer up.Close()
	if err := unix.Mkdirat(int(up.Fd()), path.Base(name), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return mount.Resolve(u.root, name, unix.O_PATH|unix.O_DIRECTORY)
}

// makeRoom removes what is in the way of an entry.
func (u *unpacker) makeRoom(dir int, base string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: h.Name, Err: err}
	}
	isDir, toDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	switch {
	case isDir && toDir:
		return nil
	case isDir && u.opt.KeepKind:
		return fmt.Errorf("cannot overwrite directory %q with non-directory %q", path.Join(u.dir, h.Name), u.dir)
	case toDir && u.opt.KeepKind:
		return fmt.Errorf("cannot overwrite non-directory %q with directory %q", path.Join(u.dir, h.Name), u.dir)
	case isDir:
		return removeAll(dir, base)
	}
	return unix.Unlinkat(dir, base, 0)
}

// removeAll removes a directory with all below it; what is mounted there stays, and is an error.
func removeAll(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Unlinkat(fd, n, 0)
		if errors.Is(err, unix.EISDIR) {
			err = removeAll(fd, n)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// create makes the file of an entry, where nothing is in the way but a directory for a directory.
func (u *unpacker) create(dir int, base string, h *tar.Header, content io.Reader) error {
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(dir, base, h, content)
	case tar.TypeDir:
		if err := unix.Mkdirat(dir, base, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.link(dir, base, h.Linkname)
	case tar.TypeFifo:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|mode, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(dir, base, kind|mode, int(dev)); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := u.attributes(fd, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return setTime(dir, base, h.ModTime)
}

func (u *unpacker) file(dir int, base string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := u.attributes(fd, h); err != nil {
		return err
	}
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), []unix.Timespec{ts, ts}, 0)
}

// link makes a hard link to a file that the tar has named before.
func (u *unpacker) link(dir int, base, target string) error {
	name, err := u.inside(target)
	if err != nil {
		return err
	}
	from, err := mount.Resolve(u.root, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer from.Close()
	return unix.Linkat(int(from.Fd()), path.Base(name), dir, base, 0)
}

// attributes sets owner, mode and extended attributes of the file that is open as fd, in this order since a change of the
// owner takes the others away.
func (u *unpacker) attributes(fd int, h *tar.Header) error {
	uid, gid := h.Uid, h.Gid
	if o := u.opt.Owner; o != nil {
		uid, gid = o.UID, o.GID
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("changing the owner: %w", err)
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := unix.Chmod(procPath(fd), uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("changing the mode: %w", err)
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !kept(attr) {
			continue
		}
		if err := unix.Setxattr(procPath(fd), attr, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("setting %s: %w", attr, err)
		}
	}
	return nil
}

func setTime(dir int, base string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// setTimes sets the times of the directories, the last first: what is below was made later.
func (u *unpacker) setTimes() error {
	for i := len(u.made) - 1; i >= 0; i-- {
		d, err := u.parent(path.Dir(u.made[i].name))
		if err != nil {
			return err
		}
		err = setTime(int(d.Fd()), path.Base(u.made[i].name), u.made[i].at)
		d.Close()
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("setting the time of %s: %w", u.made[i].name, err)
		}
	}
	return nil
}

// Copy copies what is in the directory at a path of the tree from to the directory to, which is empty and gets the other's
// attributes.
func Copy(ctx context.Context, from *os.File, name string, to *os.File) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := Pack(ctx, Source{Root: from, Name: strings.TrimSuffix(name, "/") + "/.", exact: true}, w)
		w.CloseWithError(err)
		packed <- err
	}()
	err := Unpack(ctx, to, "/", r, Options{})
	r.CloseWithError(err)
	if perr := <-packed; err == nil {
		err = perr
	}
	if err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	return sameRoot(from, name, to)
}

// sameRoot gives to the owner, mode and times of a directory.
func sameRoot(from *os.File, name string, to *os.File) error {
	d, err := mount.Resolve(from, path.Clean("/"+name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return err
	}
	fd := int(to.Fd())
	if err := unix.Fchownat(fd, "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("changing the owner: %w", err)
	}
	if err := unix.Chmod(procPath(fd), st.Mode&0o7777); err != nil {
		return fmt.Errorf("changing the mode: %w", err)
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts, 0)
}
