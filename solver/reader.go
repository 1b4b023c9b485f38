package solver

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// A reader takes what is in a logbook to one node of a build. It costs a goroutine only from the first thing that there
// is to read. It reads a chunk, has it emitted and waits until that has been done, so a build whose client is slow holds
// up its own copy of the log and nothing else.
type reader struct {
	tasks *sync.WaitGroup // the build's; the goroutine is one of them
	// emit has the events reported, and a value sent on ack when they have been. It must not block.
	emit func(events []Event, ack chan<- struct{})

	// Guarded by the logbook's mutex. The channels are made when the goroutine is started.
	k       *logbook
	started bool
	at      int64  // how much of the log has been read
	warned  int    // how many of the warnings
	seq     uint64 // up to which report of a status
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
}

func newReader(tasks *sync.WaitGroup, emit func([]Event, chan<- struct{})) *reader {
	return &reader{tasks: tasks, emit: emit}
}

// attach makes r a reader of k, from the beginning.
func (k *logbook) attach(r *reader) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r.k = k
	k.readers = append(k.readers, r)
	if k.base > 0 || len(k.tail) > 0 || k.seq > 0 || len(k.warnings) > 0 {
		r.wakeLocked()
	}
}

// detach ends r before the end of the log.
func (k *logbook) detach(r *reader) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, x := range k.readers {
		if x == r {
			k.readers = append(k.readers[:i], k.readers[i+1:]...)
			break
		}
	}
	if r.started {
		close(r.quit)
	}
}

// drain waits until r has read the closed log to its end.
func (r *reader) drain() {
	r.k.mu.Lock()
	started, done := r.started, r.done
	r.k.mu.Unlock()
	if started {
		<-done
	}
}

func (r *reader) wakeLocked() {
	if r.started {
		r.nudge()
		return
	}
	r.started = true
	r.wake, r.quit, r.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	r.tasks.Go(r.read)
}

func (r *reader) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// read is the reader's goroutine.
func (r *reader) read() {
	defer close(r.done)
	ack := make(chan struct{}, 1)
	for {
		events, end := r.next()
		if len(events) > 0 {
			r.emit(events, ack)
			select {
			case <-ack:
				continue
			case <-r.quit:
				return
			}
		}
		if end {
			return
		}
		select {
		case <-r.wake:
		case <-r.quit:
			return
		}
	}
}

// next returns what is to be reported next, and whether nothing can come any more.
func (r *reader) next() (events []Event, end bool) {
	k := r.k
	k.mu.Lock()
	for ; r.warned < len(k.warnings); r.warned++ {
		events = append(events, Event{Kind: Warned, Warning: k.warnings[r.warned]})
	}
	for i := range k.statuses {
		if st := &k.statuses[i]; st.seq > r.seq {
			events = append(events, Event{Kind: Progress, Time: st.time, Status: st.Status})
		}
	}
	r.seq = k.seq
	var chunk []byte
	file, at := k.file, r.at
	spilled := k.base - at
	if spilled <= 0 {
		tail := k.tail[-spilled:]
		end = k.closed && len(tail) == 0
		chunk = append(chunk, tail[:min(len(tail), chunkMax)]...)
	}
	k.mu.Unlock()
	if spilled > 0 {
		chunk = make([]byte, min(spilled, chunkMax))
		if _, err := file.ReadAt(chunk, at); err != nil {
			events = append(events, Event{Kind: Warned, Warning: Warning{
				Short: fmt.Sprintf("reading back %d bytes of output: %v", spilled, err),
			}})
			r.advance(spilled)
			return events, false
		}
	}
	logged, n := decodeLog(chunk)
	r.advance(int64(n))
	return append(events, logged...), end
}

func (r *reader) advance(n int64) {
	r.k.mu.Lock()
	r.at += n
	r.k.mu.Unlock()
}

// decodeLog returns the entries that are whole in chunk and how many bytes they take. The events share chunk's memory.
func decodeLog(chunk []byte) (events []Event, n int) {
	for len(chunk)-n >= entryHead {
		head := chunk[n:]
		size := int(binary.LittleEndian.Uint32(head[9:]))
		if len(head) < entryHead+size {
			break
		}
		events = append(events, Event{
			Kind:   Logged,
			Stream: Stream(head[0]),
			Time:   time.Unix(0, int64(binary.LittleEndian.Uint64(head[1:]))),
			Data:   head[entryHead : entryHead+size : entryHead+size],
		})
		n += entryHead + size
	}
	return events, n
}
