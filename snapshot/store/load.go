package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

// A found is a snapshot's directory that was read.
type found struct {
	meta meta
	used time.Time
}

// load makes the index from the directory, and moves to the trash what does not belong in it.
func (s *Store) load(ctx context.Context, opts Options) error {
	trash := filepath.Join(s.dir, ".trash")
	if err := os.MkdirAll(trash, 0o700); err != nil {
		return err
	}
	s.janitor = newJanitor(trash, opts.Log)
	s.flusher = newFlusher(s.dir, opts)
	s.flusher.before, s.flusher.lost = s.writeUsed, s.lose
	s.janitor.do(s.janitor.sweep)

	names, kept, err := s.sweepDrafts(opts)
	if err != nil {
		return err
	}
	metas, err := s.readMetas(ctx, names)
	if err != nil {
		return err
	}
	durable, lines, err := readLog(s.dir)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(s.dir, bootName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rebooted := strings.TrimSpace(string(boot)) != opts.BootID
	for id, m := range metas {
		if _, ok := durable[record{id, m.meta.Created}]; rebooted && !ok {
			delete(metas, id)
		}
	}
	s.index(metas)
	for s.dropDangling(metas) {
		clear(s.snaps)
		s.index(metas)
	}
	s.indexKept(kept, opts)
	for _, name := range names {
		if s.snaps[snapshot.ID(name)] == nil {
			if err := s.trash(s.path(snapshot.ID(name))); err != nil {
				return err
			}
		}
	}
	// Only now that what may be damaged is gone.
	if rebooted {
		if err := writeAtomically(filepath.Join(s.dir, bootName), []byte(opts.BootID+"\n"), false); err != nil {
			return err
		}
	}
	if err := s.flusher.open(); err != nil {
		return err
	}
	s.resume(durable, lines)
	return nil
}

// sweepDrafts moves drafts to the trash, and returns the names that can be those of snapshots, and the drafts that are kept
// with what they stand on.
func (s *Store) sweepDrafts(opts Options) (names []string, kept map[snapshot.Draft]snapshot.ID, err error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, nil, err
	}
	all, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, nil, err
	}
	names, kept = all[:0], make(map[snapshot.Draft]snapshot.ID)
	for _, name := range all {
		if valid(name) {
			names = append(names, name)
			continue
		}
		d, keep := strings.CutPrefix(name, keptPrefix)
		if keep && opts.Keep != nil {
			if parent, ok := opts.Keep(snapshot.Draft(d)); ok {
				kept[snapshot.Draft(d)] = parent
				continue
			}
		}
		if keep || strings.HasPrefix(name, draftPrefix) {
			if err := s.trash(filepath.Join(s.dir, name)); err != nil {
				return nil, nil, err
			}
		}
	}
	return names, kept, nil
}

// indexKept enters the drafts that are kept. One whose parent is gone is of no use; its files stay where they are, since
// somebody may want them.
func (s *Store) indexKept(kept map[snapshot.Draft]snapshot.ID, opts Options) {
	for d, parent := range kept {
		dr := &draft{kept: true, ready: true}
		if parent != "" {
			if dr.parent = s.snaps[parent]; dr.parent == nil {
				opts.Log.Error("what a draft stands on is gone", "draft", s.draftPath(d, true), "parent", parent)
				continue
			}
			dr.parent.drafts++
		}
		s.drafts[d] = dr
	}
}

// readMetas reads the metas of the snapshots called names. Those that cannot be understood are left out.
func (s *Store) readMetas(ctx context.Context, names []string) (map[snapshot.ID]found, error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	results := make([]found, len(names))
	errs := make([]error, len(names))
	// More readers than processors, for the case that the metas have to come from the disk.
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(4*runtime.GOMAXPROCS(0), 16) {
		wg.Go(func() {
			buf := make([]byte, 4096)
			for i := next.Add(1) - 1; i < int64(len(names)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				results[i].meta, results[i].used, errs[i] = readMeta(d, names[i], buf)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	metas := make(map[snapshot.ID]found, len(names))
	for i, name := range names {
		if errs[i] != nil {
			s.flusher.log.Warn("dropping a snapshot that cannot be read", "dir", s.dir, "error", errs[i])
			continue
		}
		metas[snapshot.ID(name)] = results[i]
	}
	return metas, nil
}

// index enters those of metas whose ancestors are all there.
func (s *Store) index(metas map[snapshot.ID]found) {
	below := make(map[snapshot.ID][]snapshot.ID, len(metas))
	for id, m := range metas {
		below[m.meta.Parent] = append(below[m.meta.Parent], id)
	}
	// From the bottoms up; what is never reached stands on something that is missing.
	for todo := []snapshot.ID{""}; len(todo) > 0; {
		parent := s.snaps[todo[len(todo)-1]]
		ids := below[todo[len(todo)-1]]
		todo = append(todo[:len(todo)-1], ids...)
		for _, id := range ids {
			m := metas[id]
			n := &node{
				id: id, parent: parent, created: time.Unix(0, m.meta.Created), used: m.used,
				size: m.meta.Size, inodes: m.meta.Inodes, marks: m.meta.Marks,
			}
			if m.meta.Delta != nil {
				n.delta = *m.meta.Delta
			}
			if parent != nil {
				n.depth = parent.depth + 1
				parent.children++
			}
			s.snaps[id] = n
		}
	}
}

// dropDangling takes snapshots out of metas whose delta names one that is not there, and says whether there were any. Their
// layers could not be made any more.
func (s *Store) dropDangling(metas map[snapshot.ID]found) (dropped bool) {
	for id, m := range metas {
		if m.meta.Delta == nil {
			continue
		}
		for _, of := range []snapshot.ID{m.meta.Delta.Lower, m.meta.Delta.Upper} {
			if of != "" && s.snaps[of] == nil {
				delete(metas, id)
				dropped = true
			}
		}
	}
	return dropped
}

// resume takes up the background work that an earlier process did not finish.
func (s *Store) resume(durable map[record]struct{}, lines int) {
	var pending []record
	for _, n := range s.snaps {
		r := record{n.id, n.created.UnixNano()}
		if _, ok := durable[r]; !ok {
			pending = append(pending, r)
		}
		if n.size < 0 {
			s.janitor.do(func() { s.recount(n) })
		}
	}
	if live := len(s.snaps) - len(pending); lines > 2*live+64 {
		s.flusher.live = s.live
	}
	s.flusher.add(pending...)
}

// live says whether the snapshot of r is still there.
func (s *Store) live(r record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.snaps[r.id]
	return n != nil && n.created.UnixNano() == r.created
}

// lose notes that snapshots were not written to the disk.
func (s *Store) lose(records []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		if n := s.snaps[r.id]; n != nil && n.created.UnixNano() == r.created {
			n.lost = true
		}
	}
}

// recount finds out the usage of a snapshot that was committed without.
func (s *Store) recount(n *node) {
	u, err := readUsage(s.path(n.id))
	if err != nil {
		s.count(n)
		return
	}
	s.mu.Lock()
	n.size, n.inodes = u.bytes, u.inodes
	s.mu.Unlock()
}

// writeUsed writes down when snapshots were last used.
func (s *Store) writeUsed() {
	s.mu.Lock()
	used := make(map[snapshot.ID]time.Time, len(s.used))
	for n := range s.used {
		used[n.id] = n.used
	}
	clear(s.used)
	s.mu.Unlock()
	for id, t := range used {
		err := writeUsed(s.path(id), t)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.flusher.log.Warn("writing down the use of a snapshot", "error", fmt.Errorf("%s: %w", id, err))
		}
	}
}
