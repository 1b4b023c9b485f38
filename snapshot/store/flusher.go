package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

const (
	logName  = ".durable"
	bootName = ".boot"
)

// A record is a line of the log: a snapshot that is on the disk. The time of its commit in nanoseconds makes sure that
// a line is about this snapshot and not about an earlier one of the same name.
type record struct {
	id      snapshot.ID
	created int64
}

func (r record) append(b []byte) []byte {
	b = append(b, r.id...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.created, 10)
	return append(b, '\n')
}

// A flusher writes out what was committed and logs it.
type flusher struct {
	dir    string
	after  time.Duration
	log    *slog.Logger
	before func()            // called before each flush
	lost   func([]record)    // told of those that the disk has failed to take
	live   func(record) bool // whether a line of the log is still of use; nil unless the log is to be compacted
	sync   func() error      // syncfs of the store's file system

	turn chan struct{} // held by whoever flushes; guards file
	file *os.File      // the log, open for appending

	wake chan struct{} // holds a token if pending may not be empty
	quit chan struct{}
	done chan struct{}
	once sync.Once

	mu      sync.Mutex // guards pending
	pending []record
}

func newFlusher(dir string, opts Options) *flusher {
	f := &flusher{
		dir: dir, after: opts.FlushAfter, log: opts.Log, before: func() {}, lost: func([]record) {},
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	f.sync = func() error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Syncfs(int(d.Fd()))
	}
	return f
}

// open opens the log for appending.
func (f *flusher) open() error {
	file, err := os.OpenFile(filepath.Join(f.dir, logName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	f.file = file
	// A line that was cut off must not run into the next one.
	st, err := file.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, st.Size()-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		_, err = file.Write([]byte{'\n'})
	}
	return err
}

func (f *flusher) close() error { return f.file.Close() }

func (f *flusher) start() { go f.run() }

// stop ends the goroutine; what is pending stays so.
func (f *flusher) stop() {
	f.once.Do(func() { close(f.quit) })
	<-f.done
}

func (f *flusher) run() {
	defer close(f.done)
	if f.live != nil {
		if err := f.compact(); err != nil {
			f.log.Warn("compacting the log of durable snapshots", "dir", f.dir, "error", err)
		}
	}
	for {
		select {
		case <-f.quit:
			return
		case <-f.wake:
		}
		t := time.NewTimer(f.after)
		select {
		case <-f.quit:
			t.Stop()
			return
		case <-t.C:
		}
		if err := f.flush(context.Background()); err != nil {
			f.log.Error("writing out snapshots", "dir", f.dir, "error", err)
		}
	}
}

// committed has n written out some time later.
func (f *flusher) committed(n *node) { f.add(record{n.id, n.created.UnixNano()}) }

func (f *flusher) add(r ...record) {
	if len(r) == 0 {
		return
	}
	f.mu.Lock()
	f.pending = append(f.pending, r...)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// flush writes out and logs what is pending now.
func (f *flusher) flush(ctx context.Context) error {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-f.turn }()
	f.before()
	f.mu.Lock()
	batch := f.pending
	f.pending = nil
	f.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	if err := f.sync(); err != nil {
		// The kernel reports an error of writing once only: when it is asked again it knows nothing of what was lost.
		// So this batch is never logged. It stays usable, but not beyond a reboot, and nothing durable may depend on it.
		f.lost(batch)
		return fmt.Errorf("syncing the file system: %w", err)
	}
	var lines []byte
	for _, r := range batch {
		lines = r.append(lines)
	}
	_, err := f.file.Write(lines)
	if err == nil {
		err = unix.Fdatasync(int(f.file.Fd()))
	}
	if err != nil {
		f.add(batch...) // tried again; a line that is there twice does no harm
		return fmt.Errorf("writing the log: %w", err)
	}
	return nil
}

// compact replaces the log by one without the lines that have no use any more.
func (f *flusher) compact() error {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	records, _, err := readLog(f.dir)
	if err != nil {
		return err
	}
	var b []byte
	for r := range records {
		if f.live(r) {
			b = r.append(b)
		}
	}
	if err := writeAtomically(filepath.Join(f.dir, logName), b, true); err != nil {
		return err
	}
	old := f.file
	if err := f.open(); err != nil {
		f.file = old
		return err
	}
	return old.Close()
}

// readLog returns the records of the log in dir and how many lines there are.
func readLog(dir string) (map[record]struct{}, int, error) {
	b, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	records := make(map[record]struct{}, len(b)/80)
	lines := 0
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); lines++ {
		if r, ok := parseRecord(sc.Text()); ok {
			records[r] = struct{}{}
		}
	}
	return records, lines, nil
}

// parseRecord parses a line. One that a power cut has damaged is either no record or one that fits no snapshot.
func parseRecord(line string) (record, bool) {
	id, created, ok := strings.Cut(line, " ")
	n, err := strconv.ParseInt(created, 10, 64)
	if !ok || err != nil || !valid(id) {
		return record{}, false
	}
	return record{snapshot.ID(id), n}, true
}

// kernelBootID returns a name that is another one after each boot.
func kernelBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// writeAtomically makes b the content of the file at path: after a kill it has the old or the new one, and with sync
// after a power cut too.
func writeAtomically(path string, b []byte, sync bool) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
