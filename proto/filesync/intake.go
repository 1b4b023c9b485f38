package filesync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// An IntakeRequest is what an Intake takes.
type IntakeRequest struct {
	// Key names the directory from one transfer to the next. Files that are as they were when they last came under the
	// same key are not asked for again. Without a key nothing is remembered. It is kept as a hash only.
	Key string
	// Shared says that others use the same key for directories of their own. Then a file counts as unchanged only if its
	// time has a fraction of a second: archives give whole seconds to files that differ. And even so there is doubt, as
	// clocks tick slowly; see Intake.Doubted.
	Shared bool
	// Select is what was asked for. What comes besides is left out. Follow cannot be checked before everything is there:
	// with it the sender says what is included.
	Select Selection
	Limits RemoteOptions
	// After is an Intake that has failed, of the same directory: what it has taken need not come again.
	After *Intake
}

// An Intake takes a tree that is sent entry by entry: first what a file is, then, if it is not here already, what it
// contains. BuildKit's clients send like that. The result is the tree, and the Merkle root, that Dir has of the same
// files.
//
// Add, Tree and Close are for one goroutine, and so are an IncomingFile's Write and Close. The sender is not trusted: no path of
// its becomes one of ours, and all it can do is to have a tree of its choice taken, or an error.
type Intake struct {
	store  *Store
	req    IntakeRequest
	filter *treehash.Filter
	key    cacheKey
	began  time.Time

	prev     *node   // what came last with the same selection
	held     []*node // complete in the store while this lasts
	complete bool    // prev is one of them

	dirs    []*intakeDir // open directories, the root first
	left    []*intakeDir // those that are complete, what is in a directory before it
	links   []hardLink
	entries int
	bytes   int64
	wanted  int                    // files that are asked for and are not complete
	asked   int                    // files that have been asked for when they were added
	trusted int                    // files whose content was taken to be what it was
	doubts  []doubt                // those of them that are cheap to ask for
	altered map[*node]bool         // nodes whose content was taken to be what it was, and is not
	begun   map[*IncomingFile]bool // those that have something already

	jobs    chan *IncomingFile // complete files that are small
	work    sync.WaitGroup
	settled bool

	mu   sync.Mutex // guards the fields below
	sums []gotten
	err  error // of a worker
}

// A gotten content is the digest of a file that has come.
type gotten struct {
	n   *node
	i   int
	sum solver.Digest
}

// An intakeDir is a directory that may get more entries.
type intakeDir struct {
	rel   string // path from the root, without a slash at the end; empty for the root
	up    *intakeDir
	slot  int // in the entries of up
	node  *node
	prev  *node
	alts  []*node
	state treehash.State
	last  string // name of the last entry, a dropped one too
	drop  bool   // the filter wants nothing of what is below
	same  bool   // all entries are those of prev
}

// A hardLink is an entry whose content is that of another.
type hardLink struct {
	n, to *node
	i, k  int
}

// Intake begins to take a tree. The caller closes it, whatever comes of it.
func (s *Store) Intake(ctx context.Context, req IntakeRequest) (*Intake, error) {
	req.Limits = req.Limits.withDefaults()
	include := req.Select.Include
	if len(req.Select.Follow) > 0 {
		include = nil
	}
	filter, err := treehash.NewFilter(include, req.Select.Exclude)
	if err != nil {
		return nil, err
	}
	if err := s.busy.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	in := &Intake{store: s, req: req, filter: filter, began: time.Now(), begun: map[*IncomingFile]bool{}, altered: map[*node]bool{}, jobs: make(chan *IncomingFile, 4*intakeWorkers)}
	root := &intakeDir{node: &node{}, same: true}
	if req.Key != "" {
		in.key = intakeKey(req.Key, req.Select)
		if !req.Select.Fresh {
			root.prev, root.alts = s.intakes.find(in.key)
		}
	}
	if in.prev = root.prev; in.prev != nil {
		if n := s.known(in.prev.sum); n != nil {
			in.held, in.complete = append(in.held, n), true
		}
	}
	if req.After != nil {
		root.alts = append([]*node{req.After.dirs[0].node}, root.alts...)
	}
	root.same = root.prev != nil
	in.dirs = []*intakeDir{root}
	for range intakeWorkers {
		in.work.Go(in.take)
	}
	return in, nil
}

func intakeKey(key string, sel Selection) cacheKey {
	sum := sha256.Sum256([]byte("boxbuild intake 1\x00" + key))
	both := append(append(append([]string(nil), sel.Include...), "\x00"), sel.Follow...)
	return cacheKey{path: fmt.Sprintf("%x", sum), selection: fingerprint(both, sel.Exclude)}
}

// Add takes the next entry, in the order of a walk: a directory before what is in it, names in the order of their bytes.
// The path is relative to the root, without a slash at either end. hardlink is the path of an earlier regular file that
// this one is another name of, or empty. If the content has to come Add returns an IncomingFile for it.
//
// Of e are used Path, Mode, Size, MTime, Link, Rdev and Xattr. Owners are not, as for any client's directory.
func (in *Intake) Add(e *treehash.Entry, hardlink string) (*IncomingFile, error) {
	if in.entries++; in.entries > in.req.Limits.MaxEntries {
		return nil, bad("more than %d files", in.req.Limits.MaxEntries)
	}
	d, name, err := in.parent(e.Path)
	if err != nil {
		return nil, err
	}
	rel := e.Path
	ne := treehash.Entry{Path: name, Mode: e.Mode, MTime: e.MTime, Link: e.Link, Rdev: e.Rdev, Xattr: carried(e.Xattr)}
	var to hardLink
	switch ne.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if ne.Size, ne.Link = e.Size, ""; hardlink != "" {
			if to, err = in.target(rel, hardlink); err != nil {
				return nil, err
			}
			if to.to != nil {
				ne.Size, ne.Hard = to.to.entries[to.k].Size, intakeHard(hardlink)
			}
		}
	case unix.S_IFLNK:
		ne.Rdev = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		ne.Link = ""
	default:
		ne.Link, ne.Rdev = "", 0
	}
	if err := checkEntry(&ne); err != nil {
		return nil, atPath(rel, err)
	}
	if name <= d.last {
		return nil, bad("%.300q comes after %.300q in the same directory", rel, d.last)
	}
	d.last = name
	return in.place(d, rel, &ne, to)
}

// atPath is the error of an entry, which names its last component only, with its path.
func atPath(rel string, err error) error {
	var p *ProtocolError
	if errors.As(err, &p) {
		return bad("%s (at %.300q)", p.Reason, rel)
	}
	return err
}

// parent finds the directory that a path is in among those that are open, and completes those that are not any more.
func (in *Intake) parent(rel string) (d *intakeDir, name string, err error) {
	dir := ""
	if at := strings.LastIndexByte(rel, '/'); at >= 0 {
		dir, name = rel[:at], rel[at+1:]
		if dir == "" {
			return nil, "", bad("%.300q is an absolute path", rel)
		}
	} else {
		name = rel
	}
	for len(in.dirs) > 1 {
		top := in.dirs[len(in.dirs)-1]
		if top.rel == dir || len(dir) > len(top.rel) && dir[len(top.rel)] == '/' && strings.HasPrefix(dir, top.rel) {
			break
		}
		in.leave()
	}
	if d = in.dirs[len(in.dirs)-1]; d.rel != dir {
		return nil, "", bad("%.300q is in what is no directory, or comes after what is behind it", rel)
	}
	return d, name, nil
}

// place puts a checked entry, whose Path is its name yet, into its directory.
func (in *Intake) place(d *intakeDir, rel string, e *treehash.Entry, to hardLink) (*IncomingFile, error) {
	old, at := in.remembered(d, rel, e)
	verdict, state := treehash.Pick, treehash.State{}
	if d.drop {
		verdict = treehash.Skip
	} else if in.filter != nil && (old != d.prev || old == nil || e.IsDir()) {
		var err error
		if verdict, state, err = in.filter.Check(rel, d.state); err != nil {
			return nil, err
		}
	}
	if verdict == treehash.Walk && !e.IsDir() {
		verdict = treehash.Skip
	}
	if verdict == treehash.Skip {
		if e.IsDir() {
			return nil, in.enter(&intakeDir{rel: rel, node: &node{}, drop: true})
		}
		return nil, nil
	}
	n := d.node
	i := len(n.entries)
	if old != nil {
		e.Path, e.Hard = old.entries[at].Path, old.entries[at].Hard
	} else {
		e.Path = "/" + rel
	}
	st := stamp{mtime: e.MTime.UnixNano(), ctime: e.MTime.UnixNano()}
	if verdict == treehash.Walk {
		st.nlink = walkedOnly
	}
	n.entries, n.stamps = append(n.entries, *e), append(n.stamps, st)
	n.content, n.sub = append(n.content, solver.Digest{}), append(n.sub, nil)
	d.same = d.same && old != nil && old == d.prev && at == i && n.stamps[i].nlink == old.stamps[at].nlink
	if e.IsDir() {
		return nil, in.enter(in.below(d, rel, state))
	}
	if !e.IsRegular() {
		return nil, nil
	}
	return in.regular(n, i, old, at, to)
}

// regular says whether the content of a regular file has to come.
func (in *Intake) regular(n *node, i int, old *node, at int, to hardLink) (*IncomingFile, error) {
	e := &n.entries[i]
	if err := in.req.Select.allows(e); err != nil {
		return nil, err
	}
	if to.to != nil {
		if to.n, to.i = n, i; old != nil {
			n.content[i] = old.content[at]
		}
		in.links = append(in.links, to)
		return nil, nil
	}
	if e.Size > in.req.Limits.MaxBytes-in.bytes {
		return nil, bad("files of more than %d bytes (at %.300q)", in.req.Limits.MaxBytes, e.Path)
	}
	in.bytes += e.Size
	if old != nil {
		sum := old.content[at]
		if in.complete && old == in.dirs[len(in.dirs)-1].prev || in.store.has(sum, e.Size) {
			n.content[i], n.stamps[i].known = sum, true
			in.trust(n, i)
			return nil, nil
		}
	}
	if e.Size == 0 {
		sum, err := in.store.keep(nil)
		if err != nil {
			return nil, fmt.Errorf("storing %q: %w", e.Path, err)
		}
		n.content[i], n.stamps[i].known = sum, true
		return nil, nil
	}
	in.wanted++
	in.asked++
	in.dirs[len(in.dirs)-1].same = false
	return &IncomingFile{in: in, n: n, i: i, path: e.Path, size: e.Size}, nil
}

// remembered finds the entry of the same name in what came earlier, if it was the same: what the sender says of it
// leaves no doubt, and of a regular file the content is known.
func (in *Intake) remembered(d *intakeDir, rel string, e *treehash.Entry) (*node, int) {
	for k := -1; k < len(d.alts); k++ {
		n := d.prev
		if k >= 0 {
			n = d.alts[k]
		}
		if n == nil {
			continue
		}
		if i, ok := n.find(e.Path); ok && in.same(rel, e, &n.entries[i], &n.stamps[i]) {
			return n, i
		}
	}
	return nil, 0
}

func (in *Intake) same(rel string, e, old *treehash.Entry, s *stamp) bool {
	if old.Mode != e.Mode || s.mtime != e.MTime.UnixNano() || old.Size != e.Size || old.Link != e.Link || old.Rdev != e.Rdev ||
		!maps.EqualFunc(old.Xattr, e.Xattr, bytes.Equal) {
		return false
	}
	if !e.IsRegular() {
		return true
	}
	if !s.known || in.req.Shared && s.mtime%int64(time.Second) == 0 {
		return false
	}
	// Whether the first name of a file has others is not known yet; what was another name of a file must not have its
	// number when it is a file of its own.
	return old.Hard == e.Hard || e.Hard == 0 && old.Hard == intakeHard(rel)
}

// intakeHard numbers a file with several names by the first of them.
func intakeHard(rel string) uint64 {
	sum := sha256.Sum256([]byte(rel))
	return binary.LittleEndian.Uint64(sum[:]) | 1<<63
}

// below makes the open directory for one that has just been added to d.
func (in *Intake) below(d *intakeDir, rel string, state treehash.State) *intakeDir {
	n := d.node
	c := &intakeDir{rel: rel, up: d, slot: len(n.entries) - 1, node: &node{}, state: state}
	name := base(rel)
	if d.prev != nil {
		if i, ok := d.prev.find(name); ok {
			c.prev = d.prev.sub[i]
		}
	}
	for _, a := range d.alts {
		if i, ok := a.find(name); ok && a.sub[i] != nil {
			c.alts = append(c.alts, a.sub[i])
		}
	}
	c.same = c.prev != nil
	n.sub[c.slot] = c.node
	return c
}

func (in *Intake) enter(d *intakeDir) error {
	if len(in.dirs) > maxDepth {
		return bad("directories more than %d deep (at %.300q)", maxDepth, d.rel)
	}
	in.dirs = append(in.dirs, d)
	return nil
}

// leave completes the innermost open directory.
func (in *Intake) leave() {
	d := in.dirs[len(in.dirs)-1]
	in.dirs = in.dirs[:len(in.dirs)-1]
	if !d.drop {
		in.left = append(in.left, d)
	}
}

// seal makes the nodes what a walk leaves. A directory in which nothing differs from what came last is that one.
func (in *Intake) seal(changed map[*node]bool) *node {
	for len(in.dirs) > 1 {
		in.leave()
	}
	root := in.dirs[0]
	for _, d := range append(in.left, root) {
		n := d.node
		if d.same && !changed[n] && len(n.entries) == len(d.prev.entries) {
			n = d.prev
		} else {
			if d.up != nil {
				d.up.same = false
			}
			n.names = make([]listed, len(n.entries))
			for i := range n.entries {
				n.names[i] = listed{name: base(n.entries[i].Path), at: int32(i), verdict: treehash.Pick}
			}
		}
		if d.up == nil {
			return n
		}
		d.up.node.sub[d.slot] = n
	}
	panic("unreachable: the root is the last")
}

// target finds the file that a hard link is another name of. There is none, and no error, if the selection has left it
// out: then the content comes under the link's own name.
func (in *Intake) target(rel, hardlink string) (hardLink, error) {
	n := in.dirs[0].node
	for rest := hardlink; n != nil; {
		name, more, deeper := strings.Cut(rest, "/")
		i, ok := n.find(name)
		if !ok {
			if in.filter != nil {
				return hardLink{}, nil
			}
			break
		}
		if !deeper {
			if !n.entries[i].IsRegular() {
				break
			}
			return hardLink{to: n, k: i}, nil
		}
		n, rest = n.sub[i], more
	}
	return hardLink{}, bad("%.300q is a link to %.300q, which is no file that has come before it", rel, hardlink)
}

// carried returns the extended attributes that belong to a tree's content, nil if there are none.
func carried(xattr map[string][]byte) map[string][]byte {
	var out map[string][]byte
	for k, v := range xattr {
		if dirfd.Carried(k) {
			if out == nil {
				out = map[string][]byte{}
			}
			out[k] = v
		}
	}
	return out
}

// Tree completes the tree once everything has been added and every IncomingFile closed. The store keeps what it needs until
// release is called.
func (in *Intake) Tree() (_ treehash.Tree, release func(), err error) {
	if in.wanted > 0 {
		return nil, nil, bad("the content of a file is missing")
	}
	if err := in.settle(); err != nil {
		return nil, nil, err
	}
	root := in.seal(in.join())
	root.finish(nil)
	if root.size > in.req.Limits.MaxEntries+1 {
		return nil, nil, bad("more than %d files", in.req.Limits.MaxEntries)
	}
	if root != in.prev && in.req.Key != "" {
		in.store.intakes.put(in.key, root)
	}
	store := in.store // which outlives this
	store.remember(root)
	newest := int64(0)
	for i := range root.stamps {
		newest = max(newest, root.stamps[i].mtime)
	}
	open := func(p string, content solver.Digest) (int, error) {
		fd, err := store.open(p, content)
		if err != nil {
			store.forget(root.sum) // and ask for it again, the next time
		}
		return fd, err
	}
	var once sync.Once
	return newTree(open, root, newest), func() { once.Do(func() { store.release(root) }) }, nil
}

// join gives hard links the content of the files that they are, and returns the nodes that are not what they were
// because of that.
func (in *Intake) join() map[*node]bool {
	changed := in.altered
	for _, l := range in.links {
		from, to := &l.to.entries[l.k], &l.n.entries[l.i]
		if from.Hard != to.Hard {
			from.Hard = to.Hard
			changed[l.to] = true
		}
		if sum := l.to.content[l.k]; l.n.content[l.i] != sum {
			l.n.content[l.i] = sum
			changed[l.n] = true
		}
		l.n.stamps[l.i].known = l.to.stamps[l.k].known
	}
	return changed
}

// settle waits for the workers, notes what they have done, and returns their error.
func (in *Intake) settle() error {
	if !in.settled {
		in.settled = true
		close(in.jobs)
	}
	in.work.Wait()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, g := range in.sums {
		s := &g.n.stamps[g.i]
		if s.known && g.n.content[g.i] != g.sum {
			in.altered[g.n] = true
		}
		g.n.content[g.i], s.known = g.sum, !racy(s, in.began, tick)
	}
	in.sums = nil
	return in.err
}

// Close gives back what the Intake holds. It is idempotent. A tree that it has made stays.
func (in *Intake) Close() error {
	err := in.settle()
	if in.store == nil {
		return err
	}
	for f := range in.begun {
		f.abandon()
	}
	for _, n := range in.held {
		in.store.release(n)
	}
	s := in.store
	in.store = nil
	s.busy.Release(1)
	return s.trim()
}
