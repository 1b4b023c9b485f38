package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// maxLinks is how many symlinks the resolution of one path may meet.
const maxLinks = 255

// A target is the tree that an action changes. It is used by one goroutine, but for what copying does in places of its
// own.
type target struct {
	draft *Draft
	root  *place
	warn  func(solver.Warning)
	umask uint32
	self  struct{ uid, gid uint32 } // of this process: what it creates belongs to them
	open  []*place                  // to be closed
	empty bool                      // it began as nothing: no image whose files could say who has a name
	// users and groups have /etc/passwd and /etc/group, if that is another tree.
	users, groups treehash.Tree
}

// A place is a directory of the target, in its merged view.
type place struct {
	parent *place // nil for the root
	name   string // in parent
	path   string // absolute in the target
	up     int    // where to write; -1 as long as the directory only exists below
	low    int    // what shows through from below; -1 if nothing does
	kept   dirfd.Stat
	// restore says that the directory gets its old modification time back at the end: names were only added to it that
	// it shows anyway.
	restore bool
	touched bool // a name was added or removed: the time is a new one
	// kids are the directories in it that were entered or made. There is one place for a directory, or else one would put
	// back the time that another has changed.
	kids  map[string]*place
	fixed bool // the time that is put back is the one that was asked for, whatever happens in the directory
}

func openTarget(d *Draft, warn func(solver.Warning)) (*target, error) {
	t := &target{draft: d, warn: warn, umask: umask()}
	t.self.uid, t.self.gid = uint32(unix.Geteuid()), uint32(unix.Getegid())
	root := &place{path: "/", up: -1, low: -1, restore: d.Lower != nil}
	t.root = root
	up := d.Root
	if d.Upper != nil {
		up = d.Upper
	}
	var err error
	if root.up, err = reopen(up); err != nil {
		return nil, err
	}
	t.open = append(t.open, root)
	if d.Upper != nil && d.Lower != nil {
		if root.low, err = reopen(d.Lower); err != nil {
			return nil, errors.Join(err, t.close())
		}
	}
	if err := dirfd.Fstat(root.up, &root.kept); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// reopen opens a directory again, for reading: the descriptor of a mount may be one that only names it.
func reopen(f *os.File) (int, error) {
	fd, err := dirfd.Open(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("opening the root of a tree: %w", bare(err))
	}
	return fd, nil
}

// close puts times back and closes descriptors.
func (t *target) close() error {
	var first error
	for i := len(t.open) - 1; i >= 0; i-- {
		p := t.open[i]
		if (p.restore || p.fixed) && p.up >= 0 {
			if err := setTime(p.up, p.kept.MTime); err != nil && first == nil {
				first = fmt.Errorf("setting the time of %q: %w", p.path, err)
			}
		}
		dirfd.Close(p.up)
		dirfd.Close(p.low)
	}
	t.open = nil
	return first
}

func setTime(fd int, ns int64) error {
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(ns)}
	return utimes(fd, &ts)
}

// A lookup is what a name in a place stands for.
type lookup struct {
	st    dirfd.Stat
	there bool
	upper bool // it is in the directory that is written, not only below
}

func (t *target) lookup(p *place, name string) (lookup, error) {
	var l lookup
	for _, fd := range []int{p.up, p.low} {
		if fd < 0 {
			continue
		}
		err := dirfd.Lstat(fd, name, &l.st)
		if err == nil {
			l.there, l.upper = true, fd == p.up
			return l, nil
		}
		if !dirfd.Gone(err) {
			return l, fmt.Errorf("looking up %q: %w", path.Join(p.path, name), bare(err))
		}
	}
	return l, nil
}

// bare strips the path from an error whose message gives a better one.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// enter opens the directory name in p, which lookup has found, unless it is open already.
func (t *target) enter(p *place, name string, l *lookup) (*place, error) {
	if c := p.kids[name]; c != nil && c.is(l) {
		return c, nil
	}
	c := &place{parent: p, name: name, path: path.Join(p.path, name), up: -1, low: -1, kept: l.st}
	var err error
	if l.upper {
		if c.up, err = dirfd.OpenDir(p.up, name); err != nil {
			return nil, fmt.Errorf("opening %q: %w", c.path, bare(err))
		}
		c.restore = t.draft.Lower != nil
	}
	t.adopt(c)
	if p.low >= 0 {
		c.low, err = dirfd.OpenDir(p.low, name)
		if l.upper && err != nil {
			c.low, err = -1, nil // nothing below, or not a directory: then it does not show
		}
		if err != nil {
			return nil, fmt.Errorf("opening %q: %w", c.path, bare(err))
		}
	}
	return c, nil
}

// is says whether the directory that l has found is p, and not one that has been put in its place.
func (p *place) is(l *lookup) bool {
	if !l.upper || p.up < 0 {
		return !l.upper && p.up < 0
	}
	var st dirfd.Stat
	return dirfd.Fstat(p.up, &st) == nil && st.Ino == l.st.Ino
}

// adopt makes c known to its parent, and has it closed at the end.
func (t *target) adopt(c *place) {
	t.open = append(t.open, c)
	if c.parent.kids == nil {
		c.parent.kids = make(map[string]*place)
	}
	c.parent.kids[c.name] = c
}

// A spot is where a path leads: a directory, and the components below it that are not there. If there is one component
// it may also name something that is there but is no directory; found says so.
type spot struct {
	dir   *place
	rest  []string
	found bool
	st    dirfd.Stat // if found
}

func (s *spot) path() string { return path.Join(append([]string{s.dir.path}, s.rest...)...) }

// resolve follows a path. Symlinks are followed inside the root, the last one too. Components that
// do not exist are kept as they are.
func (t *target) resolve(p string) (*spot, error) {
	todo := strings.Split(p, "/")
	cur := t.root
	var missing []string
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		switch {
		case c == "" || c == ".":
			continue
		case c == ".." && len(missing) > 0:
			missing = missing[:len(missing)-1]
			continue
		case c == "..":
			if cur.parent != nil {
				cur = cur.parent
			}
			continue
		case len(missing) > 0:
			missing = append(missing, c)
			continue
		}
		l, err := t.lookup(cur, c)
		if err != nil {
			return nil, err
		}
		switch {
		case !l.there:
			missing = append(missing, c)
		case l.st.Type() == unix.S_IFDIR:
			if cur, err = t.enter(cur, c, &l); err != nil {
				return nil, err
			}
		case l.st.Type() == unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("resolving %q: %w", p, unix.ELOOP)
			}
			to, err := t.readlink(cur, c, l.upper)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(to, "/") {
				cur = t.root
			}
			todo = append(strings.Split(to, "/"), todo...)
		case more(todo):
			return nil, fmt.Errorf("resolving %q: %q: %w", p, path.Join(cur.path, c), unix.ENOTDIR)
		default:
			return &spot{dir: cur, rest: []string{c}, found: true, st: l.st}, nil
		}
	}
	return &spot{dir: cur, rest: missing}, nil
}

// more says whether components are left that mean something.
func more(todo []string) bool {
	for _, c := range todo {
		if c != "" && c != "." {
			return true
		}
	}
	return false
}

func (t *target) readlink(p *place, name string, upper bool) (string, error) {
	fd := p.low
	if upper {
		fd = p.up
	}
	to, err := dirfd.Readlink(fd, name)
	if err != nil {
		return "", fmt.Errorf("resolving %q: %w", path.Join(p.path, name), bare(err))
	}
	return to, nil
}

// materialise makes p exist in the directory that is written, as it is below: what overlayfs calls copying up.
func (t *target) materialise(p *place) error {
	if p.up >= 0 {
		return nil
	}
	if err := t.materialise(p.parent); err != nil {
		return err
	}
	err := func() error {
		if err := mkdirat(p.parent.up, p.name); err != nil {
			return err
		}
		fd, err := dirfd.OpenDir(p.parent.up, p.name)
		if err != nil {
			return bare(err)
		}
		p.up, p.restore = fd, true
		return copyUp(p)
	}()
	if err != nil {
		return fmt.Errorf("copying up %q: %w", p.path, err)
	}
	return nil
}

func copyUp(p *place) error {
	var st dirfd.Stat
	if err := dirfd.Fstat(p.low, &st); err != nil {
		return err
	}
	p.kept = st
	attrs, err := dirfd.Xattrs(p.low, "")
	if err != nil {
		return err
	}
	if err := unix.Fchown(p.up, int(st.UID), int(st.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(p.up, st.Mode&0o7777); err != nil {
		return err
	}
	for k, v := range attrs {
		if err := dirfd.Setxattr(p.up, "", k, v); err != nil {
			return err
		}
	}
	return nil
}

// touch says that a name is being added to or removed from p, whose modification time is then a new one.
func (t *target) touch(p *place) error {
	if err := t.materialise(p); err != nil {
		return err
	}
	p.restore, p.touched = false, true
	return nil
}

// keep says that in p a name is being replaced by one that is alike, which is no reason for a new modification time.
func (t *target) keep(p *place) error {
	if err := t.materialise(p); err != nil {
		return err
	}
	p.restore = !p.touched
	return nil
}

// attrs are the metadata of a directory that is made because something has to be put into it.
type attrs struct {
	mode  uint32
	owner *ids
	time  time.Time // zero: now
}

// ids are a resolved owner.
type ids struct{ uid, gid int }

// mkdirs makes the directories that s lacks and returns the innermost.
func (t *target) mkdirs(s *spot, a attrs) (p *place, err error) {
	if s.found {
		return nil, fmt.Errorf("making directory %q: %w", s.path(), unix.ENOTDIR)
	}
	p = s.dir
	for _, name := range s.rest {
		if p, err = t.makeDir(p, name, a); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// makeDir makes the directory name, which is not there, in p.
func (t *target) makeDir(p *place, name string, a attrs) (*place, error) {
	if err := t.touch(p); err != nil {
		return nil, err
	}
	c := &place{parent: p, name: name, path: path.Join(p.path, name), up: -1, low: -1}
	err := func() error {
		if err := mkdirat(p.up, name); err != nil {
			return err
		}
		fd, err := dirfd.OpenDir(p.up, name)
		if err != nil {
			return bare(err)
		}
		c.up = fd
		t.adopt(c)
		if a.owner != nil {
			if err := unix.Fchown(fd, a.owner.uid, a.owner.gid); err != nil {
				return err
			}
		}
		// In a directory with the set-group-ID bit a new one has it too, and the group: what is made keeps to that.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, a.mode&0o7777|st.Mode&unix.S_ISGID); err != nil {
			return err
		}
		if !a.time.IsZero() {
			c.kept.MTime, c.fixed = a.time.UnixNano(), true
		}
		return nil
	}()
	if err != nil {
		return nil, fmt.Errorf("making directory %q: %w", c.path, err)
	}
	return c, nil
}
