package images

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// reserveSize is what a Reserve takes, in bytes: a few transactions of each database.
const reserveSize = 1 << 20

// A Reserve is a file that takes space which only removing may use: databases write new pages also to delete, so that on a
// disk that is full to the last block nothing could be removed. It is safe for concurrent use.
type Reserve struct {
	path string

	mu    sync.Mutex // guards users, and the file; it is held across the two calls that make or remove it, which are short
	users int
}

// NewReserve returns the reserve at path, and fills it if there is room.
func NewReserve(path string) *Reserve {
	r := &Reserve{path: path}
	r.fillLocked() // nobody else has r
	return r
}

// Use gives the space free until done is called. A nil reserve has none.
func (r *Reserve) Use() (done func(), err error) {
	if r == nil {
		return func() {}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == 0 {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("using the reserve: %w", err)
		}
	}
	r.users++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.users--; r.users == 0 {
			r.fillLocked()
		}
	}, nil
}

// fillLocked makes the file. Where there is no room for all of it, or blocks cannot be had in advance, there is none.
func (r *Reserve) fillLocked() {
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(r.path) // it would be of no use
	}
}
