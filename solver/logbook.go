package solver

import (
	"encoding/binary"
	"os"
	"sync"
	"time"
)

const (
	// An entry of a log is a stream (1 byte), a time (8, ns since 1970), a length (4) and the data.
	entryHead = 1 + 8 + 4
	// What is written at once is cut into pieces of this size, so that any chunk that is read holds a whole entry.
	entryMax = 32 << 10
	chunkMax = 64 << 10
)

// A logbook keeps what a step reports, for readers that come late or are slow. Nothing is cut off and memory is bounded:
// of the output, the newest is in memory and the rest in a file without a name, which takes it in large writes. Only
// when that file cannot be written does the output stay in memory, since losing it would be worse. Of a status only the
// last report is kept, and warnings are few.
//
// A writer waits when the file is much slower than itself, and never for a reader.
type logbook struct {
	limit int // how large tail grows before it goes to the file
	dir   string

	mu       sync.Mutex // guards what follows and the readers' positions; not held while the file is read or written
	room     sync.Cond  // tail has shrunk
	tail     []byte     // whole entries, from base on
	base     int64      // how much is in the file
	file     *os.File   // nil before the first spill
	spilling bool       // a writer is copying the start of tail to the file
	broken   bool       // the file cannot be written
	closed   bool       // nothing more comes
	warnings []Warning
	statuses []numberedStatus
	byID     map[string]int // into statuses
	seq      uint64         // counts reports of a status
	readers  []*reader
}

type numberedStatus struct {
	Status
	seq  uint64
	time time.Time
}

func newLogbook(limit int, dir string) *logbook {
	k := &logbook{limit: limit, dir: dir}
	k.room.L = &k.mu
	return k
}

// write is Step.Log.
func (k *logbook) write(stream Stream, data []byte) {
	var head [entryHead]byte
	head[0] = byte(stream)
	binary.LittleEndian.PutUint64(head[1:], uint64(time.Now().UnixNano()))
	for len(data) > 0 {
		piece := data[:min(len(data), entryMax)]
		data = data[len(piece):]
		binary.LittleEndian.PutUint32(head[9:], uint32(len(piece)))
		k.mu.Lock()
		for k.spilling && len(k.tail) >= 2*k.limit {
			k.room.Wait()
		}
		if k.closed {
			k.mu.Unlock()
			return
		}
		k.tail = append(append(k.tail, head[:]...), piece...)
		k.wakeLocked()
		spill := len(k.tail) > k.limit && !k.spilling && !k.broken
		k.spilling = k.spilling || spill
		k.mu.Unlock()
		if spill {
			k.spill()
		}
	}
}

// spill moves what is in memory to the file. The caller has set spilling, and so is alone.
func (k *logbook) spill() {
	k.mu.Lock()
	batch, base, file := k.tail, k.base, k.file // others only add to tail
	k.mu.Unlock()
	var err error
	if file == nil {
		if file, err = os.CreateTemp(k.dir, "boxbuild-log-*"); err == nil {
			err = os.Remove(file.Name())
		}
	}
	if err == nil {
		_, err = file.WriteAt(batch, base)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spilling = false
	k.file = file
	if err != nil {
		k.broken = true
	} else {
		k.base += int64(len(batch))
		k.tail = append(k.tail[:0], k.tail[len(batch):]...)
	}
	k.room.Broadcast()
}

// status is Step.Status.
func (k *logbook) status(st Status) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	k.seq++
	i, ok := k.byID[st.ID]
	if !ok {
		if k.byID == nil {
			k.byID = make(map[string]int)
		}
		i = len(k.statuses)
		k.byID[st.ID] = i
		k.statuses = append(k.statuses, numberedStatus{})
	}
	k.statuses[i] = numberedStatus{st, k.seq, time.Now()}
	k.wakeLocked()
}

// warn is Step.Warn.
func (k *logbook) warn(w Warning) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.warnings = append(k.warnings, w)
		k.wakeLocked()
	}
}

// close ends the log: readers come to an end after what is in it.
func (k *logbook) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, r := range k.readers {
		if r.started {
			r.nudge()
		}
	}
}

// discard frees the file. The log must have been closed, and its readers must be done or detached.
func (k *logbook) discard() {
	k.mu.Lock()
	file := k.file
	k.file = nil
	k.mu.Unlock()
	if file != nil {
		file.Close() // it has no name, and nothing that was in it is wanted any more
	}
}

// behind reports whether a reader has more to catch up with than it reads at once.
func (k *logbook) behind() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.readers {
		if k.base+int64(len(k.tail))-r.at > chunkMax {
			return true
		}
	}
	return false
}

func (k *logbook) wakeLocked() {
	for _, r := range k.readers {
		r.wakeLocked()
	}
}
