package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lowers are the directories below an upper one, topmost first, read as overlayfs reads them. Symlinks in them are never
// followed by the kernel: paths come from tree, whose components are real directories.
type lowers struct {
	dirs []string
	form Form
	fds  []int // of dirs, -1 if not open; nil before the first use
}

// all returns the indices of all layers.
func (l *lowers) all() []int {
	all := make([]int, len(l.dirs))
	for i := range all {
		all[i] = i
	}
	return all
}

func (l *lowers) close() {
	for _, fd := range l.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	l.fds = nil
}

// lowerEntry is what a name stands for in the merge of some lower directories.
type lowerEntry struct {
	kind   kind
	layers []int // that a directory merges
	layer  int   // that has a symlink or other
	link   string
}

// lookup finds name in the directory path, which the lower directories below have in common.
func (l *lowers) lookup(below []int, path, name string) (lowerEntry, error) {
	e := lowerEntry{}
	for _, i := range below {
		dir, err := l.openDir(i, path)
		if err != nil {
			if isGone(err) {
				continue
			}
			return e, err
		}
		done, err := l.add(&e, i, dir, name)
		unix.Close(dir)
		if err != nil {
			return e, fmt.Errorf("looking up %s/%s in %s: %w", path, name, l.dirs[i], err)
		}
		if done {
			break
		}
	}
	return e, nil
}

// add adds to e what layer i has under name in dir; done says that what lies below does not show.
func (l *lowers) add(e *lowerEntry, i, dir int, name string) (done bool, err error) {
	var st unix.Stat_t
	if err := statRetry(dir, name, &st); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return true, err
	}
	if isWhiteout(&st) {
		return true, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if e.kind == directory {
			return true, nil // hidden by the directory above it
		}
		e.kind, e.layer = other, i
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			e.kind = symlink
			e.link, err = readlink(dir, name)
		}
		return true, err
	}
	e.kind, e.layers = directory, append(e.layers, i)
	fd, err := openRetry(dir, name, dirFlags)
	if err != nil {
		return true, err
	}
	defer unix.Close(fd)
	return isOpaque(fd, l.form)
}

// openDir opens the directory path of layer i. The caller closes it.
func (l *lowers) openDir(i int, path string) (int, error) {
	if l.fds == nil {
		l.fds = make([]int, len(l.dirs))
		for j := range l.fds {
			l.fds[j] = -1
		}
	}
	if l.fds[i] < 0 {
		fd, err := openRetry(unix.AT_FDCWD, l.dirs[i], dirFlags)
		if err != nil {
			return -1, fmt.Errorf("opening %s: %w", l.dirs[i], err)
		}
		l.fds[i] = fd
	}
	return openBeneath(l.fds[i], path)
}

// openBeneath opens a directory, given a path of real directories of any length.
func openBeneath(root int, path string) (int, error) {
	how := unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	at := root
	for {
		part := path
		if len(path) > maxPath {
			cut := strings.LastIndexByte(path[:maxPath], '/')
			part = path[:cut]
		}
		path = strings.TrimPrefix(path[len(part):], "/")
		if part == "" {
			part = "."
		}
		fd, err := unix.Openat2(at, part, &how)
		for err == unix.EINTR || err == unix.EAGAIN {
			fd, err = unix.Openat2(at, part, &how)
		}
		if at != root {
			unix.Close(at)
		}
		if err != nil || path == "" {
			return fd, err
		}
		at = fd
	}
}

// maxPath is how much of a path is given to the kernel at once; PATH_MAX is 4096.
const maxPath = 4000

// A lowerName is a name in a directory, and the type of what it stands for, as in a mode.
type lowerName struct {
	name string
	kind uint32
}

// names returns what shows of the directory path in the merge of the lower directories below, sorted.
func (l *lowers) names(below []int, path string) ([]lowerName, error) {
	var out []lowerName
	seen := make(map[string]bool)
	for _, i := range below {
		dir, err := l.openDir(i, path)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out, err = addNames(out, dir, seen)
		unix.Close(dir)
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b lowerName) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// addNames appends the names in dir that are not in seen, where it enters them.
func addNames(out []lowerName, dir int, seen map[string]bool) ([]lowerName, error) {
	names, err := readNames(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		var st unix.Stat_t
		if err := statRetry(dir, name, &st); err != nil {
			return nil, err
		}
		if !isWhiteout(&st) {
			out = append(out, lowerName{name, st.Mode & unix.S_IFMT})
		}
	}
	return out, nil
}
