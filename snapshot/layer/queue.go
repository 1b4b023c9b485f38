package layer

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// An item is an entry of a tar that is about to be written.
type item struct {
	path   string
	st     unix.Stat_t
	fd     int  // open for reading, or O_PATH for what has no content; -1 for a whiteout or a hard link
	white  bool // only the path counts
	link   string
	target string // of a symlink
	xattrs []xattr

	content []byte // of a small file
	held    int64  // of queue.memory
	ready   chan struct{}
	err     error
}

type xattr struct {
	name  string
	value []byte
}

// A queue reads files ahead of the one who writes the tar: the walk puts items in order, some goroutines read what
// small files hold, and the items come out in order. Memory and open files are bounded.
type queue struct {
	ctx    context.Context //nolint:containedctx // it ends with the call that made it
	items  chan *item
	work   chan *item
	memory *semaphore.Weighted
	keep   bool // files stay open, and nothing is read of regular ones
	once   sync.Once
	wg     sync.WaitGroup
}

const (
	queueLength = 128       // items, and so open files
	queueMemory = 16 << 20  // bytes of small files
	smallFile   = 512 << 10 // larger files are read as they are written
)

// newQueue returns a queue whose ctx is still to be set.
func newQueue() *queue {
	return &queue{items: make(chan *item, queueLength), work: make(chan *item, queueLength), memory: semaphore.NewWeighted(queueMemory)}
}

// put queues an item and takes over its descriptor. Its goroutines start with the first one: many layers are empty.
func (q *queue) put(it *item) error {
	q.once.Do(func() {
		for range min(4, runtime.GOMAXPROCS(0)) {
			q.wg.Go(func() {
				for it := range q.work {
					it.err = it.load(!q.keep)
					close(it.ready)
				}
			})
		}
	})
	it.ready = make(chan struct{})
	if it.st.Mode&unix.S_IFMT == unix.S_IFREG && it.st.Size <= smallFile && !q.keep {
		if err := q.memory.Acquire(q.ctx, it.st.Size); err != nil {
			it.close()
			return context.Cause(q.ctx)
		}
		it.held = it.st.Size
	}
	if it.fd < 0 || q.keep && it.st.Mode&unix.S_IFMT == unix.S_IFREG {
		close(it.ready)
	} else {
		select {
		case q.work <- it:
		case <-q.ctx.Done():
			it.close()
			return context.Cause(q.ctx)
		}
	}
	select {
	case q.items <- it:
		return nil
	case <-q.ctx.Done():
		<-it.ready
		it.close()
		return context.Cause(q.ctx)
	}
}

// release gives back what an item held.
func (q *queue) release(it *item) {
	it.close()
	it.content = nil
	q.memory.Release(it.held)
}

// failed returns why the walk ended early, once items is closed.
func (q *queue) failed() error {
	if q.ctx.Err() != nil {
		return context.Cause(q.ctx)
	}
	return nil
}

// wait drains the queue and waits for its goroutines. The walk has ended, or is about to.
func (q *queue) wait() {
	for it := range q.items {
		<-it.ready
		q.release(it)
	}
	close(q.work)
	q.wg.Wait()
}

func (it *item) close() {
	if it.fd >= 0 {
		unix.Close(it.fd)
		it.fd = -1
	}
}

// load reads what the entry needs besides the stat; with content also what a small file holds.
func (it *item) load(content bool) error {
	path := procFD(it.fd)
	if it.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		// A descriptor of a symlink can be read from, but its xattrs cannot be had through it.
		link, err := readlink(it.fd, "")
		it.target = link
		return err
	}
	list := func(b []byte) (int, error) { return unix.Flistxattr(it.fd, b) }
	get := func(name string, b []byte) (int, error) { return unix.Fgetxattr(it.fd, name, b) }
	if t := it.st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		list = func(b []byte) (int, error) { return unix.Listxattr(path, b) }
		get = func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) }
	}
	if err := it.loadXattrs(list, get); err != nil {
		return err
	}
	if !content || it.st.Mode&unix.S_IFMT != unix.S_IFREG || it.st.Size > smallFile || it.st.Size == 0 {
		return nil
	}
	it.content = make([]byte, it.st.Size)
	if _, err := io.ReadFull(fdReader(it.fd), it.content); err != nil {
		return err
	}
	it.close()
	return nil
}

func (it *item) loadXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) error {
	names, err := listXattrs(list)
	if err != nil {
		return err
	}
	for _, name := range names {
		v, err := getXattr(func(b []byte) (int, error) { return get(name, b) })
		if err != nil {
			return fmt.Errorf("reading xattr %s: %w", name, err)
		}
		it.xattrs = append(it.xattrs, xattr{name, v})
	}
	return nil
}

// fdReader reads a descriptor without taking it over.
type fdReader int

func (f fdReader) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(f), p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
