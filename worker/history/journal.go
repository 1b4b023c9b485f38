package history

import (
	"os"
	"sync"
	"time"
)

const (
	// What is added to a log goes to its file when it has this size,
	flushSize = 64 << 10
	// or this long after, so that a crash loses no more; at once if somebody follows.
	flushAfter = 100 * time.Millisecond
	// bufferMax is up to what size a log takes more while its file is being written. Who adds waits then: for the disk,
	// but never for a reader.
	bufferMax = 4 << 20
)

// A journal is the log of a build that runs. Adding is for one goroutine at a time. The file is made in the background.
type journal struct {
	file   *os.File // nil if it could not be made; set before opened is closed
	opened chan struct{}

	mu      sync.Mutex // guards what follows; not held while the file is written
	quiet   sync.Cond  // busy has become false
	buf     []byte     // entries that are not in the file yet
	spare   []byte     // an empty buffer for reuse
	size    int64      // of the whole entries in the file
	busy    bool       // somebody writes the file
	armed   bool       // timer will fire
	timer   *time.Timer
	readers int
	grown   chan struct{} // closed and replaced when size grows, and when the end comes
	ended   bool
	err     error // why the file lacks what came since
}

func newJournal() *journal {
	j := &journal{opened: make(chan struct{}), grown: make(chan struct{})}
	j.quiet.L = &j.mu
	return j
}

// open makes the file with make, which returns nil if it fails.
func (j *journal) open(make func() (*os.File, error)) error {
	f, err := make()
	if err != nil {
		j.mu.Lock()
		j.err, j.buf = err, nil
		j.mu.Unlock()
	}
	j.file = f
	close(j.opened)
	return err
}

// add adds an entry.
func (j *journal) add(h head, body []byte) {
	j.mu.Lock()
	for j.busy && len(j.buf) > bufferMax {
		j.quiet.Wait()
	}
	if j.err == nil {
		j.buf = appendEntry(j.buf, h, body)
	}
	now := len(j.buf) >= flushSize || j.readers > 0
	if !now && !j.armed {
		j.armed = true
		if j.timer == nil {
			j.timer = time.AfterFunc(flushAfter, j.flush)
		} else {
			j.timer.Reset(flushAfter)
		}
	}
	j.mu.Unlock()
	if now {
		j.flush()
	}
}

// flush puts what was added into the file, unless somebody does so already.
func (j *journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.armed = false
	if !j.busy {
		j.writeLocked()
	}
}

// writeLocked writes until there is nothing to write. It gives the lock up meanwhile.
func (j *journal) writeLocked() {
	for len(j.buf) > 0 && j.err == nil {
		batch, at := j.buf, j.size
		j.buf, j.spare, j.busy = j.spare[:0], nil, true
		j.mu.Unlock()
		err := j.write(batch, at)
		j.mu.Lock()
		j.busy = false
		if cap(batch) <= bufferMax {
			j.spare = batch[:0]
		}
		switch {
		case err != nil && j.err == nil:
			j.err, j.buf = err, nil
		case err != nil:
			j.buf = nil
		default:
			j.size += int64(len(batch))
			j.wakeLocked()
		}
		j.quiet.Broadcast()
	}
}

// write puts b into the file, which it waits for.
func (j *journal) write(b []byte, at int64) error {
	<-j.opened
	if j.file == nil {
		return os.ErrClosed // open has said why
	}
	_, err := j.file.WriteAt(b, at)
	return err
}

func (j *journal) wakeLocked() {
	close(j.grown)
	j.grown = make(chan struct{})
}

// end puts all into the file, record at last, and closes it. Readers come to an end after that. It returns why the file lacks
// something, if it does.
func (j *journal) end(at time.Time, record []byte) error {
	j.mu.Lock()
	if j.timer != nil {
		j.timer.Stop()
	}
	for j.busy {
		j.quiet.Wait()
	}
	if j.err == nil {
		j.buf = appendEnd(j.buf, j.size, head{time: at}, record)
	}
	j.writeLocked()
	j.ended = true
	err := j.err
	j.wakeLocked()
	j.mu.Unlock()
	<-j.opened
	if j.file != nil {
		if cerr := j.file.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// follow counts a reader in: from now on everything goes to the file at once. It returns what counts it out.
func (j *journal) follow() func() {
	j.mu.Lock()
	j.readers++
	j.mu.Unlock()
	j.flush()
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.readers--
	}
}

// state returns how much of the file is whole, whether there will be no more, and what is closed when either changes.
func (j *journal) state() (size int64, ended bool, grown <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size, j.ended, j.grown
}
