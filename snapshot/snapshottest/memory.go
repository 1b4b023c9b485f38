package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
)

// ErrCrashed is returned by every method of a Memory after Crash or PowerCut.
var ErrCrashed = errors.New("the machine that the snapshotter was on has crashed")

// Memory is a Snapshotter that keeps its index in memory, and can crash. Trees are directories, copied from the parent
// (regular files, directories and symbolic links with their modes), so that it works without root: mounts are binds,
// whose Source can be used as it is. It has no background work and needs no Close.
type Memory struct {
	dir string

	mu     sync.Mutex // guards what follows
	gone   bool       // crashed
	next   int        // the name of the next directory
	snaps  map[snapshot.ID]*memorySnap
	drafts map[snapshot.Draft]*memoryDraft
}

var _ snapshot.Snapshotter = (*Memory)(nil)

type memorySnap struct {
	info   snapshot.Info
	serial int // in order of commits
	dir    string
	synced bool
}

type memoryDraft struct {
	parent snapshot.ID
	dir    string // empty for a view
	busy   bool   // being prepared or ended
}

// NewMemory returns a snapshotter without snapshots, whose trees will be in the directory dir.
func NewMemory(dir string) *Memory {
	return &Memory{dir: dir, snaps: make(map[snapshot.ID]*memorySnap), drafts: make(map[snapshot.Draft]*memoryDraft)}
}

// Restart makes m fail from now on and returns what is there after a kill: all snapshots, no drafts.
func (m *Memory) Restart() *Memory { return m.restart(func(*memorySnap) bool { return true }) }

// PowerCut makes m fail from now on and returns what is there after a power cut: the snapshots from before the last
// Sync, and no drafts.
func (m *Memory) PowerCut() *Memory { return m.restart(func(s *memorySnap) bool { return s.synced }) }

func (m *Memory) restart(keep func(*memorySnap) bool) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	n := NewMemory(m.dir)
	n.next = m.next + 1_000_000 // what still runs in m must not meet what is made in n
	for id, s := range m.snaps {
		if keep(s) {
			n.snaps[id] = s
		}
	}
	return n
}

// Sync implements snapshot.Syncer. It makes all snapshots survive a PowerCut.
func (m *Memory) Sync(context.Context, ...snapshot.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.snaps {
		s.synced = true
	}
	return m.aliveLocked()
}

func (m *Memory) aliveLocked() error {
	if m.gone {
		return ErrCrashed
	}
	return nil
}

var nameRE = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// Prepare implements snapshot.Snapshotter.
func (m *Memory) Prepare(_ context.Context, d snapshot.Draft, parent snapshot.ID) ([]snapshot.Mount, error) {
	dr, from, err := m.reserve(d, parent, false)
	if err != nil {
		return nil, fmt.Errorf("preparing %s on %q: %w", d, parent, err)
	}
	if from == "" {
		err = os.MkdirAll(dr.dir, 0o755)
	} else {
		err = copyTree(from, dr.dir)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dr.busy = false
	if err == nil {
		err = m.aliveLocked()
	}
	if err != nil {
		delete(m.drafts, d)
		return nil, fmt.Errorf("preparing %s on %q: %w", d, parent, err)
	}
	return []snapshot.Mount{{Type: "bind", Source: dr.dir}}, nil
}

// View implements snapshot.Snapshotter.
func (m *Memory) View(_ context.Context, d snapshot.Draft, parent snapshot.ID) ([]snapshot.Mount, error) {
	if parent == "" {
		return nil, fmt.Errorf("viewing nothing as %s: %w", d, snapshot.ErrNotFound)
	}
	_, from, err := m.reserve(d, parent, true)
	if err != nil {
		return nil, fmt.Errorf("viewing %s as %s: %w", parent, d, err)
	}
	return []snapshot.Mount{{Type: "bind", Source: from, Options: []string{"ro"}}}, nil
}

// reserve enters a draft, and returns it and the directory of its parent.
func (m *Memory) reserve(d snapshot.Draft, parent snapshot.ID, view bool) (*memoryDraft, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.aliveLocked(); err != nil {
		return nil, "", err
	}
	if !nameRE.MatchString(string(d)) {
		return nil, "", fmt.Errorf("%q is no name for a draft", d)
	}
	if m.drafts[d] != nil {
		return nil, "", snapshot.ErrExists
	}
	from := ""
	if parent != "" {
		p := m.snaps[parent]
		if p == nil {
			return nil, "", snapshot.ErrNotFound
		}
		from = p.dir
		p.info.Used = time.Now()
	}
	dr := &memoryDraft{parent: parent}
	if !view {
		m.next++
		dr.dir = filepath.Join(m.dir, fmt.Sprint(m.next))
		dr.busy = true
	}
	m.drafts[d] = dr
	return dr, from, nil
}

// Commit implements snapshot.Snapshotter.
func (m *Memory) Commit(ctx context.Context, d snapshot.Draft, id snapshot.ID) error {
	return m.CommitDelta(ctx, d, id, snapshot.Delta{})
}

// CommitDelta implements snapshot.DeltaCommitter.
func (m *Memory) CommitDelta(_ context.Context, d snapshot.Draft, id snapshot.ID, delta snapshot.Delta) error {
	m.mu.Lock()
	dr := m.drafts[d]
	if dr == nil || dr.busy || dr.dir == "" {
		m.mu.Unlock()
		return fmt.Errorf("committing %s as %s: %w", d, id, snapshot.ErrNotFound)
	}
	dr.busy = true
	m.mu.Unlock()

	size, inodes, err := measure(dr.dir)

	m.mu.Lock()
	delete(m.drafts, d)
	switch {
	case err != nil:
	case m.gone:
		err = ErrCrashed
	case !nameRE.MatchString(string(id)):
		err = fmt.Errorf("%q is no name for a snapshot", id)
	case m.snaps[id] != nil:
		err = snapshot.ErrExists
	case delta.Lower != "" && m.snaps[delta.Lower] == nil, delta.Upper != "" && m.snaps[delta.Upper] == nil:
		err = fmt.Errorf("its delta is gone: %w", snapshot.ErrNotFound)
	default:
		now := time.Now()
		m.next++
		info := snapshot.Info{ID: id, Parent: dr.parent, Created: now, Used: now, Size: size, Inodes: inodes, Delta: delta}
		m.snaps[id] = &memorySnap{info: info, serial: m.next, dir: dr.dir}
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("committing %s as %s: %w", d, id, errors.Join(err, os.RemoveAll(dr.dir)))
	}
	return nil
}

// Discard implements snapshot.Snapshotter.
func (m *Memory) Discard(_ context.Context, d snapshot.Draft) error {
	m.mu.Lock()
	dr := m.drafts[d]
	if dr == nil || dr.busy {
		m.mu.Unlock()
		return nil
	}
	delete(m.drafts, d)
	m.mu.Unlock()
	if dr.dir == "" {
		return nil
	}
	return os.RemoveAll(dr.dir)
}

// Remove implements snapshot.Snapshotter.
func (m *Memory) Remove(_ context.Context, id snapshot.ID) error {
	m.mu.Lock()
	s, err := m.snaps[id], m.aliveLocked()
	if s != nil && m.inUseLocked(id) {
		err = snapshot.ErrInUse
	}
	if s == nil || err != nil {
		m.mu.Unlock()
		if err != nil {
			err = fmt.Errorf("removing %s: %w", id, err)
		}
		return err
	}
	delete(m.snaps, id)
	m.mu.Unlock()
	return os.RemoveAll(s.dir)
}

func (m *Memory) inUseLocked(id snapshot.ID) bool {
	for _, s := range m.snaps {
		if s.info.Parent == id {
			return true
		}
	}
	for _, d := range m.drafts {
		if d.parent == id {
			return true
		}
	}
	return false
}

// Stat implements snapshot.Snapshotter.
func (m *Memory) Stat(_ context.Context, id snapshot.ID) (snapshot.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.aliveLocked(); err != nil {
		return snapshot.Info{}, err
	}
	s := m.snaps[id]
	if s == nil {
		return snapshot.Info{}, fmt.Errorf("looking up %s: %w", id, snapshot.ErrNotFound)
	}
	return s.info, nil
}

// All implements snapshot.Snapshotter. The order is that of the commits.
func (m *Memory) All(ctx context.Context) iter.Seq2[snapshot.Info, error] {
	return func(yield func(snapshot.Info, error) bool) {
		m.mu.Lock()
		err := m.aliveLocked()
		all := slices.SortedFunc(maps.Values(m.snaps), func(a, b *memorySnap) int { return a.serial - b.serial })
		infos := make([]snapshot.Info, len(all))
		for i, s := range all {
			infos[i] = s.info
		}
		m.mu.Unlock()
		if err != nil {
			yield(snapshot.Info{}, err)
			return
		}
		for _, i := range infos {
			if ctx.Err() != nil {
				yield(snapshot.Info{}, context.Cause(ctx))
				return
			}
			if !yield(i, nil) {
				return
			}
		}
	}
}
