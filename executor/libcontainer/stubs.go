//go:build cgo

package libcontainer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stubs are the directories and empty files that had to be made in a root as mount points. They are no part of what
// the process did there, so remove takes them away and puts back the times of the directories they were in.
//
// Everything is done by descriptors of directories that were opened inside the root, without following links out of
// it: whatever the process moves or links in the meantime, only what was made is removed (CVE-2024-23652).
type stubs []stub

type stub struct {
	parent        *os.File // O_PATH
	name          string
	dir           bool
	ino           uint64
	before, after unix.Timespec // the parent's mtime before and after the stub was made
}

// A mountPoint is a path in a root, and whether a directory belongs there.
type mountPoint struct {
	path string
	dir  bool
}

// makeStubs makes those of points that are not there. A root that can't be written to is no error here: the runtime
// will have a better one.
func makeStubs(root *os.File, points []mountPoint) (stubs, error) {
	var out stubs
	for _, p := range points {
		fd, err := openIn(int(root.Fd()), p.path, unix.O_PATH)
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			continue
		}
		made, err := makeStub(root, p)
		out = append(out, made...)
		if err != nil {
			out.remove()
			return nil, fmt.Errorf("making mount point %s: %w", p.path, err)
		}
	}
	return out, nil
}

// makeStub makes one mount point with the directories that lack above it, where the links in its path lead to.
func makeStub(root *os.File, p mountPoint) (stubs, error) {
	var out stubs
	for {
		parts, have, whole := resolve(root, p.path)
		if have == len(parts) {
			return out, nil
		}
		made, err := makePath(root, parts, have, p.dir || !whole)
		out = append(out, made...)
		if whole || err != nil || len(made) < len(parts)-have {
			return out, err
		}
	}
}

// makePath makes what lacks of a path without links, of which the first have elements exist. What can't be made for a
// reason that the runtime will report is no error.
func makePath(root *os.File, parts []string, have int, dir bool) (stubs, error) {
	parent, err := openIn(int(root.Fd()), strings.Join(parts[:have], "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, nil // a file or something unreadable in the way
	}
	var out stubs
	for i := have; ; i++ {
		last := i == len(parts)-1
		s, err := makeOne(parent, parts[i], dir || !last)
		if s == nil || err != nil {
			return out, err
		}
		out = append(out, *s)
		if last {
			return out, nil
		}
		if parent, err = openIn(parent, parts[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW); err != nil {
			return out, err
		}
	}
}

// maxLinks is how many links a mount point's path may go through, as the runtime has it.
const maxLinks = 255

// resolve follows the links in name, also dangling ones, as far as they can be followed: up to a ".." in a directory that
// has to be made first, for the kernel finds no way over it. It returns the elements of the path without links, how many
// of them exist, and whether that is the whole path; no elements for a path that can't be a mount point, which the
// runtime will report.
func resolve(root *os.File, name string) (parts []string, have int, whole bool) {
	todo := strings.Split(path.Clean("/"+name), "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			if have < len(parts) {
				return parts, have, false
			}
			parts = parts[:max(len(parts)-1, 0)]
			have = len(parts)
			continue
		}
		if have < len(parts) {
			parts = append(parts, next)
			continue
		}
		target, err := readLink(root, strings.Join(append(parts, next), "/"))
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return nil, 0, true
			}
			if path.IsAbs(target) {
				parts, have = nil, 0
			}
			todo = slices.Concat(strings.Split(target, "/"), todo)
		case errors.Is(err, unix.ENOENT):
			parts = append(parts, next)
		case errors.Is(err, unix.EINVAL):
			parts = append(parts, next)
			have = len(parts)
		default:
			return nil, 0, true
		}
	}
	return parts, have, true
}

// readLink returns where the link name in root points to, or EINVAL if it is no link.
func readLink(root *os.File, name string) (string, error) {
	fd, err := openIn(int(root.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EINVAL // so it is with an empty name and no link
	}
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// makeOne makes one entry in the directory parent, whose descriptor it takes over. It returns nil for one that can't
// be made for a reason which the runtime will report.
func makeOne(parent int, name string, dir bool) (*stub, error) {
	s := &stub{parent: os.NewFile(uintptr(parent), name), name: name, dir: dir}
	st, err := statAt(parent, "")
	if err != nil {
		s.parent.Close()
		return nil, err
	}
	s.before = st.Mtim
	if dir {
		err = unix.Mkdirat(parent, name, 0o755)
	} else {
		var fd int
		fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_WRONLY, 0o644)
		if err == nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		s.parent.Close()
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EEXIST) {
			return nil, nil
		}
		return nil, err
	}
	made, err := statAt(parent, name)
	if err == nil {
		s.ino = made.Ino
		st, err = statAt(parent, "")
		s.after = st.Mtim
	}
	return s, err
}

// remove removes what is still as it was made, the last made first, and closes all descriptors. What can't be removed
// (a directory that the process put something into) stays.
func (l stubs) remove() {
	for i := len(l) - 1; i >= 0; i-- {
		l[i].remove()
	}
}

func (s *stub) remove() {
	defer s.parent.Close()
	parent := int(s.parent.Fd())
	st, err := statAt(parent, s.name)
	if err != nil || st.Ino != s.ino || (st.Mode&unix.S_IFMT == unix.S_IFDIR) != s.dir {
		return
	}
	if !s.dir && st.Size != 0 {
		return
	}
	now, err := statAt(parent, "")
	if err != nil {
		return
	}
	flags := 0
	if s.dir {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(parent, s.name, flags); err != nil {
		return
	}
	mtime := now.Mtim
	if mtime == s.after {
		mtime = s.before // nothing but the stub was made there
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(parent), times, 0)
}

// statAt returns the status of name in the directory dir, or of dir itself.
func statAt(dir int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err := unix.Fstatat(dir, name, &st, flags)
	return st, err
}

// openIn opens name in the directory dir as if dir were the root.
func openIn(dir int, name string, flags uint64) (int, error) {
	name = "./" + strings.Trim(name, "/")
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}

// MakeDir makes the directory name in root, with those above it, if it is not there.
func MakeDir(root *os.File, name string) error {
	made, err := makeStubs(root, []mountPoint{{path: name, dir: true}})
	for _, s := range made {
		s.parent.Close()
	}
	if err != nil {
		return fmt.Errorf("making directory %s: %w", name, err)
	}
	return nil
}
