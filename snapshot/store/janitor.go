package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A janitor removes trash and does other work that nobody waits for, one job after the other, in a goroutine of its own.
type janitor struct {
	dir      string // the trash
	log      *slog.Logger
	next     atomic.Int64  // the name of the next thing in the trash
	stopping atomic.Bool   // leave what is not done
	wake     chan struct{} // holds a token if the queue may not be empty
	quit     chan struct{}
	done     chan struct{}

	mu    sync.Mutex // guards queue
	queue []func()
}

func newJanitor(dir string, log *slog.Logger) *janitor {
	j := &janitor{
		dir: dir, log: log,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	// Names must not meet those that an earlier process has left.
	j.next.Store(time.Now().UnixNano())
	return j
}

func (j *janitor) start() { go j.run() }

// stop ends the goroutine without finishing the job at hand, where that is a removal.
func (j *janitor) stop() {
	if j.stopping.CompareAndSwap(false, true) {
		close(j.quit)
	}
	<-j.done
}

func (j *janitor) run() {
	defer close(j.done)
	for {
		select {
		case <-j.quit:
			return
		case <-j.wake:
		}
		for !j.stopping.Load() {
			j.mu.Lock()
			if len(j.queue) == 0 {
				j.queue = nil
				j.mu.Unlock()
				break
			}
			job := j.queue[0]
			j.queue = j.queue[1:]
			j.mu.Unlock()
			job()
		}
	}
}

// do has f called in the goroutine.
func (j *janitor) do(f func()) {
	j.mu.Lock()
	j.queue = append(j.queue, f)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// drain waits until what has been given to do so far is done, or left.
func (j *janitor) drain(ctx context.Context) error {
	reached := make(chan struct{})
	j.do(func() { close(reached) })
	select {
	case <-reached:
		return nil
	case <-j.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// trash renames path into the trash and has it removed there.
func (j *janitor) trash(path string) error {
	name := strconv.FormatInt(j.next.Add(1), 36)
	if err := os.Rename(path, filepath.Join(j.dir, name)); err != nil {
		return fmt.Errorf("moving to trash: %w", err)
	}
	j.do(func() { j.empty(name) })
	return nil
}

// sweep removes all that is in the trash.
func (j *janitor) sweep() {
	d, err := os.Open(j.dir)
	if err != nil {
		j.log.Warn("sweeping trash", "dir", j.dir, "error", err)
		return
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			j.empty(name)
		}
		if err != nil || len(names) == 0 {
			return
		}
	}
}

// empty removes the thing called name in the trash.
func (j *janitor) empty(name string) {
	d, err := os.Open(j.dir)
	if err == nil {
		defer d.Close()
		err = j.remove(d, name, 0)
	}
	if err != nil {
		j.log.Warn("removing trash", "path", filepath.Join(j.dir, name), "error", err)
	}
}

// maxDepth is how many directories remove holds open. What lies deeper is renamed up into the trash and removed in its
// turn: how deep a tree is, is up to what ran in it.
const maxDepth = 32

// remove removes name and what is below it. It returns early, with no error, if the janitor is to stop.
func (j *janitor) remove(parent *os.File, name string, depth int) error {
	err := ignoreMissing(unix.Unlinkat(int(parent.Fd()), name, 0))
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	if depth == maxDepth {
		up := strconv.FormatInt(j.next.Add(1), 36)
		if err := unix.Renameat(int(parent.Fd()), name, unix.AT_FDCWD, filepath.Join(j.dir, up)); err != nil {
			return fmt.Errorf("moving %s up: %w", name, err)
		}
		j.do(func() { j.empty(up) })
		return nil
	}
	for range 10 { // file systems may skip entries of a directory from which others are removed
		err := ignoreMissing(unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := j.removeBelow(parent, name, depth); err != nil || j.stopping.Load() {
			return err
		}
	}
	return fmt.Errorf("removing %s: %w", name, unix.ENOTEMPTY)
}

func (j *janitor) removeBelow(parent *os.File, name string, depth int) error {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", name, err)
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		if len(names) == 0 {
			return notEOF(err)
		}
		for _, n := range names {
			if j.stopping.Load() {
				return nil
			}
			if err := j.remove(d, n, depth+1); err != nil {
				return err
			}
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
