package filesync

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A node is a directory as a walk with one selection has found it. Once its walk has ended it never changes, and the
// next walk that finds the same uses the same node again: an unchanged tree is one whose root node is the old one.
type node struct {
	// names are all names of the directory in the order in which the file system lists them, with their types and what
	// the selection said of them. An unchanged directory lists the same names in the same order, and then neither
	// sorting nor matching is needed.
	names []listed

	// entries are what was selected, and the directories that are walked for what may be selected in them, sorted by
	// name. The slices below are parallel to it.
	entries []treehash.Entry
	stamps  []stamp
	content []solver.Digest // of regular files
	sub     []*node         // of directories

	// view are the entries that belong to the tree: all but the walked directories in which nothing was selected.
	view []*treehash.Entry
	sum  solver.Digest // Merkle digest of the view
	done bool          // content, view and sum are there
	size int           // entries here and below
}

// A listed name is one name of a directory listing.
type listed struct {
	name    string
	kind    byte  // DT_REG and so on
	at      int32 // index in entries, -1 if it is not there
	verdict treehash.Verdict
}

// A stamp is what tells whether a file is still what it was.
type stamp struct {
	ino   uint64
	ctime int64
	mtime int64
	nlink uint32
	// known says that the content digest is there and was taken long enough after the file's last change that another
	// change would have got a later timestamp.
	known bool
}

func (s *stamp) same(e *treehash.Entry, st *dirfd.Stat) bool {
	return s.ino == st.Ino && s.ctime == st.CTime && s.mtime == st.MTime && s.nlink == st.Nlink &&
		e.Mode == st.Mode && (e.Size == st.Size || st.Type() != unix.S_IFREG)
}

func stampOf(st *dirfd.Stat) stamp {
	return stamp{ino: st.Ino, ctime: st.CTime, mtime: st.MTime, nlink: st.Nlink}
}

// find returns the index of the entry with the given name.
func (n *node) find(name string) (int, bool) {
	lo, hi := 0, len(n.entries)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := strings.Compare(base(n.entries[mid].Path), name); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// base is the last component of an absolute path that is clean.
func base(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// inView says whether the entry i is part of the tree.
func (n *node) inView(i int) bool {
	return n.sub[i] == nil || len(n.sub[i].view) > 0 || n.picked(i)
}

// picked says whether the entry itself was selected. Only directories may be entries without being so.
func (n *node) picked(i int) bool { return n.stamps[i].nlink&walkedOnly == 0 }

// walkedOnly is a flag in the link count of a directory's stamp, which is not looked at for directories: the
// directory is only walked. It saves a slice.
const walkedOnly = 1 << 31

// finish computes view and sum of n and of the nodes below that are new.
func (n *node) finish(scratch []byte) []byte {
	if n.done {
		return scratch
	}
	n.size = len(n.entries) + 1
	for _, s := range n.sub {
		if s != nil {
			scratch = s.finish(scratch)
			n.size += s.size
		}
	}
	pick := make([]int32, 0, len(n.entries))
	for i := range n.entries {
		if n.inView(i) {
			pick = append(pick, int32(i))
		}
	}
	n.view = make([]*treehash.Entry, len(pick))
	for k, i := range pick {
		n.view[k] = &n.entries[i]
	}
	n.sum, scratch = treehash.HashDir(len(pick), func(b []byte, k int) []byte {
		i := pick[k]
		sum := &n.content[i]
		if n.sub[i] != nil {
			sum = &n.sub[i].sum
		}
		return treehash.AppendEntry(b, base(n.entries[i].Path), &n.entries[i], sum)
	}, scratch)
	n.done = true
	return scratch
}
