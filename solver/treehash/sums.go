package treehash

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// hashBuffer is how much of a file is read at once.
const hashBuffer = 256 << 10

// buffers are for reading files; most are a few bytes, and many are read at a time.
var buffers = sync.Pool{New: func() any { return new([hashBuffer]byte) }}

func takeBuffer() *[hashBuffer]byte {
	return buffers.Get().(*[hashBuffer]byte)
}

func (s *Snapshot) hash(ctx context.Context, p string, buf []byte) (solver.Digest, error) {
	fd, _, err := s.File(ctx, &Entry{Path: p})
	if err != nil {
		return solver.Digest{}, err
	}
	defer dirfd.Close(fd)
	d, _, err := HashFile(ctx, fd, buf)
	if err != nil {
		return d, fmt.Errorf("reading %q: %w", p, err)
	}
	return d, nil
}

// HashFile reads fd to its end by way of buf, and returns the digest and the number of the bytes.
func HashFile(ctx context.Context, fd int, buf []byte) (solver.Digest, int64, error) {
	n, err := dirfd.Read(fd, buf)
	if err != nil {
		return solver.Digest{}, 0, err
	}
	if n < len(buf) {
		return sha256.Sum256(buf[:n]), int64(n), nil
	}
	h := sha256.New()
	total := int64(0)
	for n > 0 {
		h.Write(buf[:n])
		total += int64(n)
		if err := ctx.Err(); err != nil {
			return solver.Digest{}, total, err
		}
		if n < len(buf) {
			break
		}
		if n, err = dirfd.Read(fd, buf); err != nil {
			return solver.Digest{}, total, err
		}
	}
	return solver.Digest(h.Sum(nil)), total, nil
}

// DirDigest implements Merkle. What has to be read is read by as many goroutines as there are processors, two at least.
func (s *Snapshot) DirDigest(ctx context.Context, dir string) (solver.Digest, error) {
	dir = path.Join("/", dir)
	if d, ok := s.summed(dir); ok {
		return d, nil
	}
	select {
	case s.rec.busy <- struct{}{}:
		defer func() { <-s.rec.busy }()
	case <-ctx.Done():
		return solver.Digest{}, ctx.Err()
	}
	if d, ok := s.summed(dir); ok {
		return d, nil
	}
	dirs, err := s.loadBelow(ctx, dir)
	if err != nil {
		return solver.Digest{}, err
	}
	if err := s.hashFiles(ctx, dirs); err != nil {
		return solver.Digest{}, err
	}
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	var scratch []byte
	for _, d := range slices.Backward(dirs) { // children before parents
		n := d.node
		if n.summed {
			continue
		}
		n.sum, scratch = HashDir(len(n.entries), func(b []byte, i int) []byte {
			e := &n.entries[i]
			sum := &n.content[i]
			if e.IsDir() {
				sum = &s.rec.dirs[e.Path].sum
			}
			return AppendEntry(b, path.Base(e.Path), e, sum)
		}, scratch)
		n.summed = true
	}
	return dirs[0].node.sum, nil
}

func (s *Snapshot) summed(dir string) (solver.Digest, bool) {
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	if n := s.rec.dirs[dir]; n != nil {
		return n.sum, n.summed
	}
	return solver.Digest{}, false
}

type loadedDir struct {
	path string
	node *dirNode
}

// loadBelow lists dir and the directories below whose digests are not known, level by level, parents first.
func (s *Snapshot) loadBelow(ctx context.Context, dir string) ([]loadedDir, error) {
	var all []loadedDir
	for level := []string{dir}; len(level) > 0; {
		nodes := make([]loadedDir, len(level))
		err := parallel(ctx, len(level), func(_ []byte, i int) error {
			n, err := s.load(level[i])
			nodes[i] = loadedDir{level[i], n}
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, nodes...)
		level = level[:0:0]
		for _, d := range nodes {
			if _, ok := s.summed(d.path); ok {
				continue
			}
			for i := range d.node.entries {
				if d.node.entries[i].IsDir() {
					level = append(level, d.node.entries[i].Path)
				}
			}
		}
	}
	return all, nil
}

func (s *Snapshot) hashFiles(ctx context.Context, dirs []loadedDir) error {
	type job struct {
		node *dirNode
		i    int
	}
	var jobs []job
	s.rec.mu.Lock()
	for _, d := range dirs {
		if d.node.summed {
			continue
		}
		for i := range d.node.entries {
			if d.node.entries[i].IsRegular() && !d.node.known[i] {
				jobs = append(jobs, job{d.node, i})
			}
		}
	}
	s.rec.mu.Unlock()
	return parallel(ctx, len(jobs), func(buf []byte, i int) error {
		n, k := jobs[i].node, jobs[i].i
		d, err := s.hash(ctx, n.entries[k].Path, buf)
		if err != nil {
			return err
		}
		s.rec.mu.Lock()
		n.content[k], n.known[k] = d, true
		s.rec.mu.Unlock()
		return nil
	})
}

// parallel calls fn for 0 to n-1 from a few goroutines, each with a buffer of its own, and returns the first error.
func parallel(ctx context.Context, n int, fn func(buf []byte, i int) error) error {
	var g *errgroup.Group
	g, ctx = errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(n, max(2, runtime.GOMAXPROCS(0))) {
		g.Go(func() error {
			b := takeBuffer()
			defer buffers.Put(b)
			buf := b[:]
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := fn(buf, i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}
