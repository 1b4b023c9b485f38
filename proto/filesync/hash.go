package filesync

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// hashing computes the content digests that a walk has left open.
type hashing struct {
	root    int
	cache   *Cache
	workers int
}

type hashJob struct {
	n *node
	i int
}

// Sizes of the work units: a file is taken by itself, and this much of it read at once.
const (
	hashBuffer  = 256 << 10
	hashRetries = 3
)

func (h *hashing) run(ctx context.Context, root *node) error {
	jobs := open(root, nil)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(h.workers, len(jobs)) {
		g.Go(func() error {
			buf := make([]byte, hashBuffer)
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= len(jobs) {
					return nil
				}
				if err := h.file(ctx, jobs[k].n, jobs[k].i, buf); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// open collects the regular files without a digest in the nodes that are new.
func open(n *node, jobs []hashJob) []hashJob {
	if n.done {
		return jobs
	}
	for i := range n.entries {
		switch {
		case n.sub[i] != nil:
			jobs = open(n.sub[i], jobs)
		case n.entries[i].IsRegular() && !n.stamps[i].known:
			jobs = append(jobs, hashJob{n, i})
		}
	}
	return jobs
}

// file hashes one file. If it changes meanwhile it is read again, a few times; then it is an error.
func (h *hashing) file(ctx context.Context, n *node, i int, buf []byte) error {
	e, s := &n.entries[i], &n.stamps[i]
	for range hashRetries {
		sum, before, after, err := h.once(ctx, e.Path, buf)
		if err != nil {
			return err
		}
		if before != after {
			continue
		}
		read := stampOf(&before.st)
		if !s.same(e, &before.st) {
			// Another file, or other metadata, than the walk saw: the entry is what has been read now.
			e.Mode, e.Size, e.MTime = before.st.Mode, before.st.Size, time.Unix(0, before.st.MTime)
			*s = read
		}
		n.content[i] = sum
		s.known = !racy(s, before.when, h.cache.window)
		return nil
	}
	return &treehash.ChangedError{Path: e.Path}
}

// seen is a file's stat; when is the same for both of one reading.
type seen struct {
	st   dirfd.Stat
	when time.Time
}

func (h *hashing) once(ctx context.Context, p string, buf []byte) (sum solver.Digest, before, after seen, err error) {
	fd, st, err := openFile(h.root, p)
	if err != nil {
		return sum, before, after, err
	}
	defer dirfd.Close(fd)
	before = seen{st, h.cache.now()}
	sum, size, err := treehash.HashFile(ctx, fd, buf)
	if err != nil {
		return sum, before, after, fmt.Errorf("reading %q: %w", p, err)
	}
	if err := dirfd.Fstat(fd, &st); err != nil {
		return sum, before, after, fmt.Errorf("reading %q: %w", p, err)
	}
	if st.Size != size {
		st.Size = -1 // read short or long: not what the stat says
	}
	after = seen{st, before.when}
	return sum, before, after, nil
}
