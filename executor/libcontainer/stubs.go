//go:build cgo

package libcontainer

import (
	"errors"
	"fmt"
	"os"
	"path"
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

// makeStub makes one mount point with the directories that lack above it.
func makeStub(root *os.File, p mountPoint) (stubs, error) {
	// Find the deepest directory that exists.
	parts := strings.Split(strings.Trim(path.Clean(p.path), "/"), "/")
	have := len(parts) - 1
	parent := -1
	for ; have >= 0; have-- {
		fd, err := openIn(int(root.Fd()), strings.Join(parts[:have], "/"), unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			parent = fd
			break
		}
		if !errors.Is(err, unix.ENOENT) {
			return nil, nil // a file or something unreadable in the way: the runtime will say so
		}
	}
	if parent < 0 {
		return nil, nil
	}
	var out stubs
	for i := have; i < len(parts); i++ {
		dir := p.dir || i < len(parts)-1
		s, err := makeOne(parent, parts[i], dir)
		if s == nil || err != nil {
			return out, err
		}
		out = append(out, *s)
		if !dir || i == len(parts)-1 {
			break
		}
		if parent, err = openIn(parent, parts[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW); err != nil {
			return out, err
		}
	}
	return out, nil
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
