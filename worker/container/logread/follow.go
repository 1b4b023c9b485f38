package logread

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A watcher tells when something changes in the directory of a log. It owns a goroutine until close.
type watcher struct {
	f       *os.File
	changed chan struct{} // has room for one
	done    sync.WaitGroup
}

func newWatcher(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	dir := filepath.Dir(path)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		w.f.Close()
		return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	w.done.Go(func() {
		buf := make([]byte, 16<<10)
		for {
			if _, err := w.f.Read(buf); err != nil {
				return
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	})
	return w, nil
}

func (w *watcher) close() {
	w.f.Close()
	w.done.Wait()
}

// A follower reads what is written to a log.
type follower struct {
	*reader
	watch *watcher
	file  *os.File // nil until there is one
	at    int64
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

func (f *follower) run(ctx context.Context) error {
	var late <-chan time.Time
	if !f.opt.Until.IsZero() {
		timer := time.NewTimer(time.Until(f.opt.Until))
		defer timer.Stop()
		late = timer.C
	}
	ended := f.opt.Ended
	for {
		if err := f.catchUp(ctx); err != nil {
			return err
		}
		if ended == nil {
			return nil // all has been read since it has
		}
		select {
		case <-f.watch.changed:
		case <-ended:
			ended = nil
		case <-late:
			ended = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// catchUp reads what has been written, in the file at hand and in those that have come after it.
func (f *follower) catchUp(ctx context.Context) error {
	// Whether it has been rotated is looked at first: what is in it then is all.
	newer, err := f.newer()
	defer func() { closeAll(newer) }()
	if err == nil && f.file != nil {
		err = f.readOn(ctx)
	}
	for len(newer) > 0 && err == nil {
		f.close()
		s := newer[0]
		newer = newer[1:]
		f.file = s.f
		f.at, err = f.reader.file(ctx, s)
	}
	return err
}

// newer opens the files that have come after the one at hand, the oldest first.
func (f *follower) newer() ([]*source, error) {
	if now, err := os.Stat(f.opt.Path); err == nil && f.file != nil {
		if fi, err := f.file.Stat(); err == nil && os.SameFile(now, fi) {
			return nil, nil
		}
	}
	all, err := f.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return all, fmt.Errorf("following a log: %w", err)
	}
	for i := len(all) - 1; i >= 0 && f.file != nil; i-- {
		if same(f.file, all[i].f) || all[i].gzip && !f.begins(all[i]) {
			closeAll(all[:i+1])
			return all[i+1:], nil
		}
	}
	return all, nil
}

// begins says whether a compressed file begins after what was read last: the file at hand, compressed, does not.
func (f *follower) begins(s *source) bool {
	in, err := s.reader()
	if err != nil {
		return false
	}
	m, _, err := f.format.next(in)
	return err == nil && m.At.After(f.last)
}

func (f *follower) readOn(ctx context.Context) error {
	fi, err := f.file.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < f.at {
		f.at = 0 // with one file only, a full one is emptied
	}
	f.at, err = f.reader.file(ctx, &source{f: f.file, skip: f.at})
	return err
}
