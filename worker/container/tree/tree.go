// Package tree reads and writes files in the tree of a container as tars, for `docker cp` and the like.
//
// A tree is an open directory: the root of a container that runs, which may change it at any moment, or of one that does
// not. Whatever its symbolic links say, nothing outside of it is ever read or written: each path is resolved by the kernel
// as if the tree's root were "/" (openat2 with RESOLVE_IN_ROOT), to a directory that is held by a descriptor, and what is
// done to the last component of a name follows no link.
//
// Functions of this package keep no state; the goroutines that they start have ended when they return.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// An Info describes a file.
type Info struct {
	Name  string // the base name of the path that was asked for
	Size  int64
	Mode  fs.FileMode
	Mtime time.Time
	// Link is, for a symbolic link, the path that it leads to, absolute in the tree.
	Link string
}

// Stat describes the file at a path. A symbolic link is described itself, unless the path ends in "/" or "/.".
func Stat(root *os.File, name string) (*Info, error) {
	dir, base, err := parent(root, name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	in := &Info{
		Name: path.Base(path.Clean("/" + name)), Size: st.Size, Mode: fileMode(st.Mode), Mtime: time.Unix(st.Mtim.Unix()),
	}
	if in.Mode&fs.ModeSymlink != 0 {
		in.Link, err = Real(root, name)
	}
	return in, err
}

// parent opens the directory of the last component of a path, which it returns too. That is "." if the path leads through
// the last component, whatever it is.
func parent(root *os.File, name string) (dir *os.File, base string, err error) {
	clean := path.Clean("/" + name)
	if clean == "/" || strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") {
		dir, err = mount.Resolve(root, clean, unix.O_PATH|unix.O_DIRECTORY)
		return dir, ".", err
	}
	dir, err = mount.Resolve(root, path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY)
	return dir, path.Base(clean), err
}

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// Real returns where a path leads, without symbolic links: as far as it exists. It is for showing only, since the tree may
// change.
func Real(root *os.File, name string) (string, error) {
	todo := strings.Split(path.Clean("/"+name), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		target, err := readlink(root, at, part)
		switch {
		case errors.Is(err, unix.EINVAL): // it is no link
			at = next
			continue
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return path.Join(append([]string{next}, todo...)...), nil
		case err != nil:
			return "", err
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "resolve", Path: name, Err: unix.ELOOP}
		}
		if path.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

func readlink(root *os.File, dir, base string) (string, error) {
	d, err := mount.Resolve(root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return readlinkat(int(d.Fd()), base)
}

func readlinkat(dir int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: base, Err: err}
	}
	return string(buf[:n]), nil
}

// fileMode turns the kernel's mode into Go's.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	}
	for bit, to := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= to
		}
	}
	return mode
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// notDir is docker's error for a path that has to be a directory.
func notDir(name string) error {
	return fmt.Errorf("extracting to %s: %w", name, unix.ENOTDIR)
}
