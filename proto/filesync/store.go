package filesync

import (
	"container/list"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// A Store keeps what remote clients have sent: file contents and directory listings, by digest. It is safe for
// concurrent use. Everything in it is checked when it is used, so that it may lose anything, a power cut's files
// without content included: what is missing or wrong is asked for again.
//
// The files lie in two directories, named by their digests alone; nothing that a client says becomes a path.
type Store struct {
	dir string
	max int64 // bytes of contents
	// busy is held, one each, by transfers that rely on what is there, and as a whole by the one who removes.
	busy *semaphore.Weighted
	// intakes are the trees that came entry by entry, by the sender's key.
	intakes *Cache
	kept    atomic.Int64 // files that keep has begun

	mu    sync.Mutex
	nodes map[solver.Digest]*list.Element // of *node: trees that are complete
	order *list.List                      // the last used first
	total int                             // entries of them
	room  int                             // for how many there is room
	live  map[*node]int                   // roots in use by sources that are open
	size  int64                           // of the contents, roughly
	sizes bool                            // size has been counted
}

const everybody = 1 << 30

// rememberedTrees is how many trees a Store knows to be complete without looking, and rememberedEntries how many files
// and directories they may have together: about 30 MB.
const (
	rememberedTrees   = 16
	rememberedEntries = 100_000
)

// DefaultStoreBytes is how many bytes of file contents a Store keeps by default.
const DefaultStoreBytes = 10 << 30

// NewStore returns a store in dir, which is made if need be. When it holds more than max bytes (DefaultStoreBytes if
// that is 0), what no tree that was used lately needs is removed.
func NewStore(dir string, max int64) (*Store, error) {
	if max <= 0 {
		max = DefaultStoreBytes
	}
	for _, d := range []string{"files", "dirs", "new"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("opening the store of client files: %w", err)
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "new"))
	for _, e := range left {
		err = errors.Join(err, os.Remove(filepath.Join(dir, "new", e.Name())))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store of client files: %w", err)
	}
	return &Store{
		dir: dir, max: max, busy: semaphore.NewWeighted(everybody), intakes: NewCache(filepath.Join(dir, "stats"), rememberedEntries),
		nodes: map[solver.Digest]*list.Element{}, order: list.New(), room: rememberedEntries, live: map[*node]int{},
	}, nil
}

// Close waits until what is being written has been. The store must not be in use any more.
func (s *Store) Close() error { return s.intakes.Close() }

func (s *Store) file(sum solver.Digest) string { return filepath.Join(s.dir, "files", sum.String()) }
func (s *Store) list(sum solver.Digest) string { return filepath.Join(s.dir, "dirs", sum.String()) }

// has says whether a content of that size is there.
func (s *Store) has(sum solver.Digest, size int64) bool {
	fi, err := os.Lstat(s.file(sum))
	return err == nil && fi.Size() == size
}

// open opens a content. The caller verifies it.
func (s *Store) open(p string, sum solver.Digest) (int, error) {
	fd, err := unix.Open(s.file(sum), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the copy of %q: %w", p, err)
	}
	return fd, nil
}

// listing returns a stored listing; nil if there is none that is right.
func (s *Store) listing(sum solver.Digest) *listing {
	b, err := os.ReadFile(s.list(sum))
	if err != nil {
		return nil
	}
	l, err := parseListing(string(b), sum)
	if err != nil {
		return nil
	}
	return l
}

// put writes a file under its name, in place of one that is there: it may not be what its name says.
func (s *Store) put(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Join(s.dir, "new"), "")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// create opens a file to receive a content in; adopt gives it its name once it is whole.
func (s *Store) create() (*os.File, error) { return os.CreateTemp(filepath.Join(s.dir, "new"), "") }

func (s *Store) adopt(name string, sum solver.Digest, size int64) error {
	if err := unix.Rename(name, s.file(sum)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += size
	return nil
}

// keep stores a content, if it is not there, and returns its digest.
func (s *Store) keep(data []byte) (solver.Digest, error) {
	sum := solver.Digest(sha256.Sum256(data))
	if s.has(sum, int64(len(data))) {
		return sum, nil
	}
	// Small files come by the ten thousand: an os.File would cost two more calls for each.
	name := filepath.Join(s.dir, "new", "k"+strconv.FormatInt(s.kept.Add(1), 10))
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return sum, err
	}
	for rest := data; len(rest) > 0 && err == nil; {
		var n int
		if n, err = unix.Write(fd, rest); errors.Is(err, unix.EINTR) {
			err = nil
		} else if err == nil {
			rest = rest[n:]
		}
	}
	if err = errors.Join(err, unix.Close(fd)); err == nil {
		err = s.adopt(name, sum, int64(len(data)))
	}
	if err != nil {
		_ = os.Remove(name)
	}
	return sum, err
}

// known returns the tree of a root if it is complete, and holds it for a source.
func (s *Store) known(sum solver.Digest) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.nodes[sum]
	if !ok {
		return nil
	}
	s.order.MoveToFront(el)
	n := el.Value.(*node)
	s.live[n]++
	return n
}

// remember notes that a tree is complete, and holds it for a source.
func (s *Store) remember(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[n]++
	s.dropLocked(s.nodes[n.sum])
	if n.size > s.room { // it is put together again from what is on disk
		return
	}
	s.nodes[n.sum] = s.order.PushFront(n)
	s.total += n.size
	for s.order.Len() > rememberedTrees || s.total > s.room {
		s.dropLocked(s.order.Back())
	}
}

func (s *Store) dropLocked(el *list.Element) {
	if el == nil {
		return
	}
	n := s.order.Remove(el).(*node)
	delete(s.nodes, n.sum)
	s.total -= n.size
}

// forget notes that a tree may not be complete after all.
func (s *Store) forget(sum solver.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(s.nodes[sum])
}

func (s *Store) release(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[n]--; s.live[n] <= 0 {
		delete(s.live, n)
	}
}

// trim removes contents and listings that no remembered or open tree needs, if there is too much. While something is
// being transferred it leaves that to a later time.
func (s *Store) trim() error {
	if !s.busy.TryAcquire(everybody) {
		return nil
	}
	defer s.busy.Release(everybody)
	if size, err := s.Usage(); err != nil || size <= s.max {
		return err
	}
	return s.removeUnneeded()
}

// Prune removes what no open tree needs if there are more than limit bytes of contents, and returns how many bytes that
// freed. While something is being transferred it does nothing.
func (s *Store) Prune(limit int64) (freed int64, err error) {
	if !s.busy.TryAcquire(everybody) {
		return 0, nil
	}
	defer s.busy.Release(everybody)
	before, err := s.Usage()
	if err != nil || before <= limit {
		return 0, err
	}
	s.mu.Lock()
	for s.order.Len() > 0 {
		s.dropLocked(s.order.Back())
	}
	s.mu.Unlock()
	if err := s.removeUnneeded(); err != nil {
		return 0, fmt.Errorf("removing files of clients: %w", err)
	}
	after, err := s.Usage()
	return max(0, before-after), err
}

// removeUnneeded removes what no remembered or open tree needs. The caller holds busy.
func (s *Store) removeUnneeded() error {
	s.mu.Lock()
	keep := map[string]bool{}
	for n := range s.live {
		keepNode(n, keep)
	}
	for el := s.order.Front(); el != nil; el = el.Next() {
		keepNode(el.Value.(*node), keep)
	}
	s.mu.Unlock()
	left := int64(0)
	for _, d := range []string{"files", "dirs"} {
		names, err := os.ReadDir(filepath.Join(s.dir, d))
		if err != nil {
			return err
		}
		for _, e := range names {
			if !keep[e.Name()] {
				if err := os.Remove(filepath.Join(s.dir, d, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			} else if fi, err := e.Info(); err == nil && d == "files" {
				left += fi.Size()
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = left
	return nil
}

// Usage returns how many bytes the contents have. It counts what is there the first time.
func (s *Store) Usage() (int64, error) {
	s.mu.Lock()
	size, counted := s.size, s.sizes
	s.mu.Unlock()
	if counted {
		return size, nil
	}
	fd, err := dirfd.OpenRoot(filepath.Join(s.dir, "files"))
	if err != nil {
		return 0, err
	}
	defer dirfd.Close(fd)
	total := int64(0)
	err = dirfd.List(fd, func(n dirfd.Name) error {
		var st dirfd.Stat
		if n.Lstat(fd, &st) == nil {
			total += st.Size
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size, s.sizes = total, true
	return total, nil
}

func keepNode(n *node, keep map[string]bool) {
	if keep[n.sum.String()] {
		return
	}
	keep[n.sum.String()] = true
	for i := range n.entries {
		switch {
		case n.sub[i] != nil:
			keepNode(n.sub[i], keep)
		case n.entries[i].IsRegular():
			keep[n.content[i].String()] = true
		}
	}
}

// build makes the node of a listing. size is that of the whole, which the caller bounds.
func (l *listing) build(dir string, sub func(i int, path string) (*node, error)) (*node, error) {
	n := &node{
		entries: make([]treehash.Entry, len(l.entries)), stamps: make([]stamp, len(l.entries)),
		content: l.sums, sub: make([]*node, len(l.entries)), size: len(l.entries) + 1,
	}
	for i := range l.entries {
		n.entries[i] = l.entries[i]
		e := &n.entries[i]
		e.Path = dir + l.entries[i].Path
		if e.IsDir() {
			s, err := sub(i, e.Path+"/")
			if err != nil {
				return nil, err
			}
			n.sub[i] = s
			n.size += s.size
		}
		n.view = append(n.view, e)
	}
	n.done = true
	return n, nil
}
