package filesync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A walk lists a directory tree by several workers, against what an earlier walk found. Directories to list lie on a
// stack, so that few of them are open at once: about the depth of the tree for each worker.
type walk struct {
	filter *treehash.Filter

	mu    sync.Mutex // guards the fields below
	cond  *sync.Cond
	stack []*job
	open  int // jobs that are not done, on the stack or being worked on
	err   error

	root *node // the result
}

// A job is one directory to list. Jobs form the tree that the directories do; a directory is done when it has been
// listed and everything below it is done.
type job struct {
	parent *job
	slot   int    // index of this directory in the parent's entries
	name   string // in the parent
	rel    string // path from the root, without a leading slash; empty for the root
	prev   *node  // what the last walk with the same selection found here, or nil
	alts   []*node

	fd      int
	users   atomic.Int32 // of fd: the job itself and the children that have not opened theirs
	pending atomic.Int32 // the job itself and its children that are not done

	result *node
	fresh  bool // result is not prev
	mu     sync.Mutex
	diffs  []diff // what differs from prev; guarded by mu, as children add their own stat

	once  sync.Once
	state treehash.State
	serr  error
}

// A diff is a new value for an entry, or a new node for a directory.
type diff struct {
	i     int
	entry *treehash.Entry
	stamp stamp
	sub   *node
}

// run walks from the root descriptor, which it does not close, and returns the root's node, unfinished.
func (w *walk) run(ctx context.Context, fd int, prev *node, alts []*node, workers int) (*node, error) {
	w.cond = sync.NewCond(&w.mu)
	root := &job{fd: fd, prev: prev, alts: alts}
	root.users.Store(2) // one that is never given up: the descriptor is the caller's
	root.pending.Store(1)
	w.stack, w.open = []*job{root}, 1

	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(w.work)
	}
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.stack { // left there by a failure
		j.parent.release()
	}
	return w.root, w.err
}

func (w *walk) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

func (w *walk) push(jobs []*job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stack = append(w.stack, jobs...)
	w.open += len(jobs)
	if len(jobs) > 1 {
		w.cond.Broadcast()
	} else {
		w.cond.Signal()
	}
}

func (w *walk) pop() *job {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.stack) == 0 && w.open > 0 && w.err == nil {
		w.cond.Wait()
	}
	if len(w.stack) == 0 || w.err != nil {
		return nil
	}
	j := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	return j
}

func (w *walk) work() {
	l := &lister{walk: w}
	for {
		j := w.pop()
		if j == nil {
			return
		}
		if err := l.do(j); err != nil {
			w.fail(err)
		}
		w.mu.Lock()
		w.open--
		if w.open == 0 {
			w.cond.Broadcast()
		}
		w.mu.Unlock()
	}
}

func (j *job) release() {
	if j != nil && j.users.Add(-1) == 0 {
		dirfd.Close(j.fd)
	}
}

// stateOf returns the filter's state for the directory. It is needed where names are new only.
func (j *job) stateOf(f *treehash.Filter) (treehash.State, error) {
	if j.parent == nil || f == nil {
		return treehash.State{}, nil
	}
	j.once.Do(func() {
		st, err := j.parent.stateOf(f)
		if err != nil {
			j.serr = err
			return
		}
		_, j.state, j.serr = f.Check(j.rel, st)
	})
	return j.state, j.serr
}

// done is called for the job itself and for each child when it is done; the last one completes the directory.
func (j *job) done(w *walk) {
	for j != nil && j.pending.Add(-1) == 0 {
		j.complete()
		p := j.parent
		if p == nil {
			w.root = j.result
			return
		}
		if j.fresh || p.result != nil {
			p.mu.Lock()
			p.diffs = append(p.diffs, diff{i: j.slot, sub: j.result})
			p.mu.Unlock()
		}
		j = p
	}
}

// complete makes the job's result: prev if nothing differs from it, else a copy of it, or of the fresh listing, with
// the differences applied.
func (j *job) complete() {
	if j.result == nil {
		if len(j.diffs) == 0 {
			j.result = j.prev
			return
		}
		j.result = &node{
			names: j.prev.names, entries: slices.Clone(j.prev.entries), stamps: slices.Clone(j.prev.stamps),
			content: slices.Clone(j.prev.content), sub: slices.Clone(j.prev.sub),
		}
	}
	j.fresh = true
	n := j.result
	for _, d := range j.diffs {
		if d.sub != nil {
			n.sub[d.i] = d.sub
			continue
		}
		n.entries[d.i] = *d.entry
		d.stamp.nlink |= n.stamps[d.i].nlink & walkedOnly
		n.stamps[d.i] = d.stamp
	}
	j.diffs = nil
}

// A lister does jobs: one per worker, for its buffers.
type lister struct {
	walk *walk
	dirfd.Lister
	paths []byte
	found []found
}

// A found name is one of a directory whose listing is not the old one.
type found struct {
	end     int // of its path in lister.paths
	kind    byte
	verdict treehash.Verdict
	gone    bool
	st      dirfd.Stat
}

// do lists one directory and queues those in it.
func (l *lister) do(j *job) error {
	if err := l.openDir(j); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return &treehash.ChangedError{Path: "/" + j.rel}
		}
		return fmt.Errorf("reading directory %q: %w", j.rel, pathless(err))
	}
	defer j.release()
	kids, same, err := l.compare(j)
	if err == nil && !same {
		j.mu.Lock()
		j.diffs = nil
		j.mu.Unlock()
		if _, err = unix.Seek(j.fd, 0, unix.SEEK_SET); err == nil {
			kids, err = l.list(j)
		}
	}
	var changed *treehash.ChangedError
	if errors.As(err, &changed) {
		return changed
	}
	if err != nil {
		return fmt.Errorf("reading directory %q: %w", j.rel, pathless(err))
	}
	if len(kids) > 0 {
		j.users.Add(int32(len(kids)))
		j.pending.Add(int32(len(kids)))
		l.walk.push(kids)
	}
	j.done(l.walk)
	return nil
}

// pathless strips the path that the lowest layer put on an error, since ours is longer.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == "." {
		return pe.Err
	}
	return err
}

// openDir opens the job's directory by way of its parent's descriptor, and tells the parent if its metadata is new.
func (l *lister) openDir(j *job) error {
	p := j.parent
	if p == nil {
		return nil
	}
	fd, err := dirfd.OpenDir(p.fd, j.name)
	p.release()
	if err != nil {
		return err
	}
	j.fd = fd
	j.users.Store(1)
	j.pending.Store(1)
	var st dirfd.Stat
	if err := dirfd.Fstat(fd, &st); err != nil {
		j.release()
		return err
	}
	st.Nlink = 0 // changes with subdirectories, which is of no interest
	if p.result == nil {
		old := p.prev
		s := old.stamps[j.slot]
		s.nlink = 0
		if s.same(&old.entries[j.slot], &st) {
			return nil
		}
	}
	e := &treehash.Entry{Path: "/" + j.rel}
	if err := fill(e, fd, "", &st); err != nil {
		j.release()
		return err
	}
	p.mu.Lock()
	p.diffs = append(p.diffs, diff{i: j.slot, entry: e, stamp: stampOf(&st)})
	p.mu.Unlock()
	return nil
}

// fill is treehash.Fill with the owner that a client's files get.
func fill(e *treehash.Entry, dir int, name string, st *dirfd.Stat) error {
	if err := treehash.Fill(e, dir, name, st); err != nil {
		return err
	}
	e.UID, e.GID = 0, 0
	return nil
}

// errOther ends the comparison of a listing that is not the old one.
var errOther = errors.New("another listing")

// compare lists the directory on the assumption that it has the names that it had. If so it notes the entries that
// differ, and returns the directories in it as jobs.
func (l *lister) compare(j *job) (kids []*job, same bool, err error) {
	old := j.prev
	if old == nil {
		return nil, false, nil
	}
	i := 0
	var st dirfd.Stat
	err = l.List(j.fd, func(name dirfd.Name) error {
		if i == len(old.names) {
			return errOther
		}
		was := &old.names[i]
		i++
		if was.kind != name.Type || was.name != string(name.Bytes()) {
			return errOther
		}
		if was.at < 0 || old.sub[was.at] != nil && name.Type == unix.DT_DIR {
			return nil
		}
		if err := name.Lstat(j.fd, &st); err != nil {
			return errOther // gone by now: list again
		}
		if old.sub[was.at] != nil && st.Type() == unix.S_IFDIR {
			return nil
		}
		e, s := &old.entries[was.at], &old.stamps[was.at]
		regular := st.Type() == unix.S_IFREG
		if s.same(e, &st) && (!regular || s.known) {
			return nil
		}
		if (e.Mode^st.Mode)&unix.S_IFMT != 0 {
			return errOther
		}
		ne := &treehash.Entry{Path: e.Path}
		if err := fill(ne, j.fd, was.name, &st); err != nil {
			return errOther
		}
		j.mu.Lock()
		j.diffs = append(j.diffs, diff{i: int(was.at), entry: ne, stamp: stampOf(&st)})
		j.mu.Unlock()
		return nil
	})
	if errors.Is(err, errOther) || err == nil && i != len(old.names) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for k, s := range old.sub {
		if s != nil {
			p := old.entries[k].Path
			kids = append(kids, &job{parent: j, slot: k, name: base(p), rel: p[1:], prev: s, fd: -1})
		}
	}
	return kids, true, nil
}

// racy says whether a file that changed at the given times could change again without its timestamps showing it, seen
// from when it is read: the kernel stamps files by a clock that ticks.
func racy(s *stamp, read time.Time, window time.Duration) bool {
	limit := read.Add(-window).UnixNano()
	return s.ctime >= limit || s.mtime >= limit
}
