package layer

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is the directory that a layer is written to, together with the directories below it that show through. It
// is a table of the directories met so far; each is reached from its parent's descriptor by one component, and a path
// that the tar gives is walked over that table. It is used by one goroutine.
type tree struct {
	form  Form
	root  *node
	lower lowers
	fresh bool          // Plain, and there was nothing in it: whiteouts have nothing to hide
	open  *list.List    // of *node with a descriptor, most recently used first
	stamp unix.Timespec // mtime of parents that no entry of any layer describes
	room  int64         // how many such parents may still be made
}

// maxOpen is how many directories are held open. Tars go through directories one after the other, so that few would do.
const maxOpen = 128

// maxLinks is how many symlinks are followed in one path; the kernel's own limit.
const maxLinks = 40

// A node is a directory of the merged tree.
type node struct {
	parent *node // nil for the root
	name   string
	kids   map[string]*node
	// made are the files other than directories that this layer has written; kept only where whiteouts are performed.
	made map[string]bool
	// there says that the directory exists in the tree that is written, not only below it.
	there bool
	// touched says that an entry of this layer describes the directory or lies in it.
	touched bool
	// whited says that whiteouts were made in the directory.
	whited bool

	// lower are the indices of the lower directories that this one merges, if known.
	lower      []int
	lowerKnown bool

	fd  int           // -1 if not open
	use *list.Element // in tree.open
	pin int           // while positive fd is not closed

	mtime    unix.Timespec // to be set at the end, since writing into the directory changes it
	hasMtime bool
}

func newTree(t Target) (*tree, error) {
	fd, err := openRetry(unix.AT_FDCWD, t.Dir, dirFlags)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", t.Dir, err)
	}
	tr := &tree{form: t.Form, open: list.New(), room: math.MaxInt64, lower: lowers{dirs: t.Lower, form: t.Form}}
	tr.root = &node{there: true, touched: true, fd: fd, pin: 1, lowerKnown: true}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		tr.close()
		return nil, fmt.Errorf("opening %s: %w", t.Dir, err)
	}
	tr.root.mtime, tr.root.hasMtime = st.Mtim, true
	if t.Form == Plain {
		names, err := readNames(fd)
		if err != nil {
			tr.close()
			return nil, fmt.Errorf("reading %s: %w", t.Dir, err)
		}
		tr.fresh = len(names) == 0
	}
	tr.root.lower = tr.lower.all()
	return tr, nil
}

func (t *tree) close() {
	t.drop(t.root)
	t.lower.close()
}

// drop forgets n and everything below it.
func (t *tree) drop(n *node) {
	for _, k := range n.kids {
		t.drop(k)
	}
	n.kids = nil
	t.shut(n)
	if n.parent != nil {
		delete(n.parent.kids, n.name)
	}
}

func (t *tree) shut(n *node) {
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
	if n.use != nil {
		t.open.Remove(n.use)
		n.use = nil
	}
}

// child adds a node for the directory name in n.
func (n *node) child(name string, there bool) *node {
	k := &node{parent: n, name: name, there: there, fd: -1}
	if n.kids == nil {
		n.kids = make(map[string]*node)
	}
	n.kids[name] = k
	return k
}

// touch marks that something of this layer lies in n.
func (n *node) touch() {
	for ; n != nil && !n.touched; n = n.parent {
		n.touched = true
	}
}

// path returns the path of n from the root, without a slash at either end; "" for the root.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	size := -1
	for p := n; p.parent != nil; p = p.parent {
		size += len(p.name) + 1
	}
	b := make([]byte, size)
	for p := n; p.parent != nil; p = p.parent {
		size -= len(p.name)
		copy(b[size:], p.name)
		if size--; size >= 0 {
			b[size] = '/'
		}
	}
	return string(b)
}

// dirFD returns a descriptor of n, which exists in the tree that is written. It is valid until the next call, or as long
// as n is pinned.
func (t *tree) dirFD(n *node) (int, error) {
	if n.fd >= 0 {
		if n.use != nil {
			t.open.MoveToFront(n.use)
		}
		return n.fd, nil
	}
	parent, err := t.dirFD(n.parent)
	if err != nil {
		return -1, err
	}
	fd, err := openRetry(parent, n.name, dirFlags)
	if err != nil {
		return -1, fmt.Errorf("opening directory %s: %w", n.path(), err)
	}
	n.fd = fd
	n.use = t.open.PushFront(n)
	for e := t.open.Back(); e != nil && t.open.Len() > maxOpen; {
		old := e.Value.(*node)
		e = e.Prev()
		if old.pin == 0 && old != n {
			t.shut(old)
		}
	}
	return fd, nil
}

// A kind is what a name stands for in the merged tree.
type kind int

const (
	absent    kind = iota // nothing
	directory             // found.node
	symlink               // found.link
	other                 // anything else
)

type found struct {
	kind  kind
	node  *node
	link  string
	layer int  // of a symlink or other: the lower directory that has it, or -1 for the tree that is written
	white bool // absent because of a whiteout in the tree that is written
}

// lookup finds name in n, in the merged tree. It changes nothing on disk.
func (t *tree) lookup(n *node, name string) (found, error) {
	if k := n.kids[name]; k != nil {
		return found{kind: directory, node: k}, nil
	}
	if !n.there {
		return t.lookupLower(n, name)
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return found{}, err
	}
	var st unix.Stat_t
	err = statRetry(fd, name, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return t.lookupLower(n, name)
	case err != nil:
		return found{}, fmt.Errorf("looking up %s: %w", name, err)
	case t.form != Plain && isWhiteout(&st):
		return found{kind: absent, white: true}, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		k := n.child(name, true)
		k.mtime, k.hasMtime = st.Mtim, true
		return found{kind: directory, node: k}, nil
	case unix.S_IFLNK:
		link, err := readlink(fd, name)
		return found{kind: symlink, link: link, layer: -1}, err
	}
	return found{kind: other, layer: -1}, nil
}

// lookupLower finds name below the tree that is written.
func (t *tree) lookupLower(n *node, name string) (found, error) {
	below, err := t.lowerOf(n)
	if err != nil || len(below) == 0 {
		return found{}, err
	}
	e, err := t.lower.lookup(below, n.path(), name)
	if err != nil || e.kind != directory {
		return found{kind: e.kind, link: e.link, layer: e.layer}, err
	}
	k := n.child(name, false)
	k.lower, k.lowerKnown = e.layers, true
	return found{kind: directory, node: k}, nil
}

// lowerOf returns the lower directories that n merges.
func (t *tree) lowerOf(n *node) ([]int, error) {
	if n.lowerKnown || len(t.lower.dirs) == 0 {
		return n.lower, nil
	}
	below, err := t.lowerOf(n.parent)
	if err != nil || len(below) == 0 {
		n.lowerKnown = err == nil
		return nil, err
	}
	e, err := t.lower.lookup(below, n.parent.path(), n.name)
	if err != nil {
		return nil, err
	}
	if e.kind == directory {
		n.lower = e.layers
	}
	n.lowerKnown = true
	return n.lower, nil
}

// hideLower makes n, which exists in the tree that is written, show nothing of what is below it.
func (t *tree) hideLower(n *node) error {
	if t.form == Plain {
		return nil
	}
	if n == t.root {
		return t.hideRoots()
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return err
	}
	if err := unix.Fsetxattr(fd, t.form.opaqueXattr(), []byte("y"), 0); err != nil {
		return fmt.Errorf("marking %s opaque: %w", n.path(), err)
	}
	return t.cutLower(n)
}

// hideRoots is hideLower for the root, whose opaque mark overlayfs does not look at: what the lower roots have gets a
// whiteout each.
func (t *tree) hideRoots() error {
	for i := range t.lower.dirs {
		fd, err := t.lower.openDir(i, "")
		if err != nil {
			return err
		}
		names, err := readNames(fd)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("reading %s: %w", t.lower.dirs[i], err)
		}
		for _, name := range names {
			if k := t.root.kids[name]; k != nil && k.there {
				if err := t.hideLower(k); err != nil {
					return err
				}
				continue
			}
			if err := unix.Mknodat(t.root.fd, name, unix.S_IFCHR, 0); err != nil && err != unix.EEXIST {
				return fmt.Errorf("making whiteout of %s: %w", name, err)
			}
		}
	}
	for _, k := range t.root.kids {
		if !k.there {
			t.drop(k)
		}
	}
	t.root.lower = nil
	return nil
}

// cutLower forgets what n and the directories in it showed of the lower ones, and removes the whiteouts that hid some of it:
// overlayfs lists the names of whiteouts where nothing is merged.
func (t *tree) cutLower(n *node) error {
	if n.lowerKnown && len(n.lower) == 0 {
		return nil // and so it is for all below it
	}
	if err := t.removeWhiteouts(n); err != nil {
		return err
	}
	n.lower, n.lowerKnown = nil, true
	for _, k := range n.kids {
		if !k.there {
			t.drop(k)
		} else if err := t.cutLower(k); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) removeWhiteouts(n *node) error {
	if !n.whited {
		return nil
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("reading directory %s: %w", n.path(), err)
	}
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && isWhiteout(&st) {
			err = unix.Unlinkat(fd, name, 0)
		}
		if err != nil {
			return fmt.Errorf("removing whiteout %s/%s: %w", n.path(), name, err)
		}
	}
	n.whited = false
	return nil
}

// split cuts a name of a tar into its components, in place. It refuses a name that leads out of the root even in
// passing, unless clamp is set: then what is above the root is the root. A name of no components is the root's.
func split(name string, clamp bool) ([]string, error) {
	parts := strings.Split(name, "/")
	out := parts[:0]
	for _, p := range parts {
		switch p {
		case "", ".":
		case "..":
			switch {
			case len(out) > 0:
				out = out[:len(out)-1]
			case !clamp:
				return nil, ErrUnsafe
			}
		default:
			out = append(out, p)
		}
	}
	return out, nil
}

// walk returns the directory that parts lead to, in the merged tree: symlinks are resolved as inside the root. A
// directory that does not exist is made if create is set, and is absent (nil, nil) otherwise.
func (t *tree) walk(parts []string, create bool) (*node, error) {
	n, links := t.root, 0
	todo := parts
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..": // of a symlink; the parent of the root is the root
			if n.parent != nil {
				n = n.parent
			}
			continue
		}
		f, err := t.lookup(n, name)
		if err != nil {
			return nil, err
		}
		switch f.kind {
		case directory:
			n = f.node
		case symlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("resolving %s: %w", name, unix.ELOOP)
			}
			if strings.HasPrefix(f.link, "/") {
				n = t.root
			}
			todo = append(strings.Split(f.link, "/"), todo...)
		case other:
			return nil, fmt.Errorf("resolving %s: %w", name, unix.ENOTDIR)
		case absent:
			if !create {
				return nil, nil
			}
			if n, err = t.makeParent(n, name, f.white); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

// makeParent makes a directory that no entry describes.
func (t *tree) makeParent(n *node, name string, white bool) (*node, error) {
	if t.room--; t.room < 0 {
		return nil, fmt.Errorf("%w: too many directories that have no entries", ErrTooLarge)
	}
	if err := t.materialise(n); err != nil {
		return nil, err
	}
	fd, err := t.dirFD(n)
	if err != nil {
		return nil, err
	}
	if white {
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return nil, fmt.Errorf("replacing whiteout %s: %w", name, err)
		}
	}
	if err := unix.Mkdirat(fd, name, 0o755); err != nil {
		return nil, fmt.Errorf("making directory %s: %w", name, err)
	}
	k := n.child(name, true)
	k.mtime, k.hasMtime = t.stamp, true
	if kfd, err := t.dirFD(k); err != nil {
		return nil, err
	} else if err := setOwnerMode(kfd, 0, 0, 0o755); err != nil {
		return nil, fmt.Errorf("making directory %s: %w", name, err)
	}
	if white {
		return k, t.hideLower(k)
	}
	k.lowerKnown = true // there was nothing
	return k, nil
}

// materialise makes n exist in the tree that is written, with the metadata that it has below.
func (t *tree) materialise(n *node) error {
	if n.there {
		return nil
	}
	if err := t.materialise(n.parent); err != nil {
		return err
	}
	fd, err := t.dirFD(n.parent)
	if err != nil {
		return err
	}
	src, err := t.lower.openDir(n.lower[0], n.path())
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if err := unix.Mkdirat(fd, n.name, 0o700); err != nil {
		return fmt.Errorf("copying up %s: %w", n.path(), err)
	}
	n.there = true
	dst, err := t.dirFD(n)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return fmt.Errorf("copying up %s: %w", n.path(), err)
	}
	n.mtime, n.hasMtime = st.Mtim, true
	return errors.Join(setOwnerMode(dst, int(st.Uid), int(st.Gid), st.Mode), copyXattrs(dst, src))
}

// finish sets the times of directories, children before parents or not: setting a time changes nothing above.
func (t *tree) finish() error {
	return t.finishDir(t.root)
}

func (t *tree) finishDir(n *node) error {
	if n.hasMtime && n.touched && n.there {
		fd, err := t.dirFD(n)
		if err != nil {
			return err
		}
		if err := setTimeFD(fd, n.mtime); err != nil {
			return fmt.Errorf("setting the time of %s: %w", n.path(), err)
		}
	}
	for _, k := range n.kids {
		if err := t.finishDir(k); err != nil {
			return err
		}
	}
	return nil
}

// isGone says whether err is that of a file that does not exist.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
