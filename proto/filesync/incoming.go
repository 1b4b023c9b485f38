package filesync

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

const (
	// smallFile is the size up to which a file is put together in memory, and hashed and written by a worker.
	smallFile = 64 << 10
	// maxBegun is how many files may be under way at once. Senders have four; more would be memory for the asking.
	maxBegun      = 1024
	intakeWorkers = 3
)

// An IncomingFile is the content of a file that an Intake has asked for. Exactly the bytes that its entry has announced
// have to be written before it is closed: anything else is a *treehash.ChangedError, as the file has changed since.
type IncomingFile struct {
	in   *Intake
	n    *node
	i    int
	path string
	size int64

	got int64
	buf []byte    // of a small file
	f   *os.File  // of another one
	sum hash.Hash // of what is in f
}

// Path returns the file's path, absolute in the tree.
func (f *IncomingFile) Path() string { return f.path }

// Write implements io.Writer. It keeps nothing of b.
func (f *IncomingFile) Write(b []byte) (int, error) {
	if f.got == 0 && len(b) > 0 {
		if err := f.begin(); err != nil {
			return 0, err
		}
	}
	if int64(len(b)) > f.size-f.got {
		return 0, f.changed(fmt.Sprintf("more than the %d bytes that were announced have come", f.size))
	}
	f.got += int64(len(b))
	if f.f == nil {
		f.buf = append(f.buf, b...)
		return len(b), nil
	}
	f.sum.Write(b)
	if n, err := f.f.Write(b); err != nil {
		return n, fmt.Errorf("storing %q: %w", f.path, err)
	}
	return len(b), nil
}

func (f *IncomingFile) begin() error {
	if len(f.in.begun) >= maxBegun {
		return bad("more than %d files are sent at the same time (%.300q is the next)", maxBegun, f.path)
	}
	if f.size <= smallFile {
		f.buf = make([]byte, 0, f.size)
	} else {
		var err error
		if f.f, err = f.in.store.create(); err != nil {
			return fmt.Errorf("storing %q: %w", f.path, err)
		}
		f.sum = sha256.New()
	}
	f.in.begun[f] = true
	return nil
}

func (f *IncomingFile) changed(how string) error {
	return fmt.Errorf("%w: %s", &treehash.ChangedError{Path: f.path}, how)
}

// Close completes the file.
func (f *IncomingFile) Close() error {
	if f.got != f.size {
		return f.changed(fmt.Sprintf("%d bytes have come instead of the %d that were announced; it may also be that it cannot be read", f.got, f.size))
	}
	in := f.in
	in.wanted--
	delete(in.begun, f)
	if f.f == nil {
		in.mu.Lock()
		err := in.err
		in.mu.Unlock()
		if err == nil {
			in.jobs <- f
		}
		return err
	}
	sum := solver.Digest(f.sum.Sum(nil))
	err := f.f.Close()
	if err == nil && !in.store.has(sum, f.size) {
		err = in.store.adopt(f.f.Name(), sum, f.size)
	} else {
		err = errors.Join(err, os.Remove(f.f.Name()))
	}
	if err != nil {
		return fmt.Errorf("storing %q: %w", f.path, err)
	}
	in.note(f, sum, nil)
	return nil
}

// abandon removes what there is of a file.
func (f *IncomingFile) abandon() {
	if f.f != nil {
		_ = f.f.Close()
		_ = os.Remove(f.f.Name())
	}
}

// take stores small files until there are no more.
func (in *Intake) take() {
	for f := range in.jobs {
		sum, err := in.store.keep(f.buf)
		f.buf = nil
		if err != nil {
			err = fmt.Errorf("storing %q: %w", f.path, err)
		}
		in.note(f, sum, err)
	}
}

// note notes what a file contains. The nodes themselves grow while files come, so they get it in the end.
func (in *Intake) note(f *IncomingFile, sum solver.Digest, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err != nil {
		if in.err == nil {
			in.err = err
		}
		return
	}
	in.sums = append(in.sums, gotten{f.n, f.i, sum})
}
