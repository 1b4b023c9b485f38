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
	for {
		// Whether it has been rotated is looked at first: what is in it then is all.
		next, err := f.next()
		if err != nil {
			return err
		}
		if f.file != nil {
			if err := f.readOn(ctx); err != nil {
				if next != nil {
					next.Close()
				}
				return err
			}
		}
		if next == nil {
			return nil
		}
		f.close()
		f.file, f.at = next, 0
	}
}

// next returns the file that is written to, if that is another one than before.
func (f *follower) next() (*os.File, error) {
	next, err := os.Open(f.opt.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("following a log: %w", err)
	}
	if f.file != nil && same(f.file, next) {
		next.Close()
		return nil, nil
	}
	return next, nil
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
