package native

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

const (
	// outboxLimit bounds the bytes that wait for a client. Only logs can come near it.
	outboxLimit = 64 << 20
	// outboxStall is how long a full outbox waits for a client that takes nothing at all.
	outboxStall = time.Minute
	// mergeLimit bounds a message that pieces of a log are merged to.
	mergeLimit = 32 << 10
)

// errStalled is the cause with which the build of a client that stopped reading is cancelled.
var errStalled = errors.New("the client stopped reading the build's output")

// An outbox holds what is on its way to the client of a build, in order. Putting returns at once, but when a client
// has fallen behind by outboxLimit: then it waits while the client takes anything, so that no log is ever cut. What is
// still in the outbox is merged: a newer status replaces an older one, and pieces of a log become one message.
type outbox struct {
	limit int
	stall time.Duration

	mu       sync.Mutex // guards all below
	queue    []*boxbuildv1.BuildOutput
	bytes    int
	statuses map[statusKey]*boxbuildv1.BuildOutput // those in the queue
	sequence uint64
	taken    int           // how often the client took something
	ready    chan struct{} // has a token while there may be something to take
	room     chan struct{} // closed and replaced at each take
	closed   bool
	err      error // why nothing is sent any more
}

type statusKey struct {
	vertex uint32
	id     string
}

func newOutbox() *outbox {
	return &outbox{
		limit:    outboxLimit,
		stall:    outboxStall,
		statuses: map[statusKey]*boxbuildv1.BuildOutput{},
		ready:    make(chan struct{}, 1),
		room:     make(chan struct{}),
	}
}

// put queues out; it returns the reason if nothing is sent any more.
func (o *outbox) put(out *boxbuildv1.BuildOutput) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.bytes > o.limit && o.err == nil {
		o.waitLocked()
	}
	if o.err != nil {
		return o.err
	}
	if o.mergeLocked(out) {
		return nil
	}
	if out.GetAsk() == nil {
		o.sequence++
		out.Sequence = o.sequence
	}
	o.queue = append(o.queue, out)
	o.bytes += proto.Size(out)
	if st := out.GetEvent().GetStatus(); st != nil {
		o.statuses[statusKey{out.GetEvent().GetVertex(), st.GetId()}] = out
	}
	o.wakeLocked()
	return nil
}

// waitLocked gives the lock up until the client has taken something, or fails the outbox if it does not.
func (o *outbox) waitLocked() {
	room, taken := o.room, o.taken
	o.mu.Unlock()
	timer := time.NewTimer(o.stall)
	defer timer.Stop()
	select {
	case <-room:
	case <-timer.C:
	}
	o.mu.Lock()
	if o.taken == taken && o.err == nil {
		o.err = errStalled
		o.wakeLocked()
	}
}

// mergeLocked adds out to what is queued, if it can.
func (o *outbox) mergeLocked(out *boxbuildv1.BuildOutput) bool {
	ev := out.GetEvent()
	if st := ev.GetStatus(); st != nil {
		if old := o.statuses[statusKey{ev.GetVertex(), st.GetId()}]; old != nil {
			old.GetEvent().Time = ev.GetTime()
			old.GetEvent().Event = ev.GetEvent()
			return true
		}
	}
	if l := ev.GetLog(); l != nil && len(o.queue) > 0 {
		last := o.queue[len(o.queue)-1].GetEvent()
		if p := last.GetLog(); p != nil && last.GetVertex() == ev.GetVertex() && p.GetStream() == l.GetStream() &&
			len(p.GetData())+len(l.GetData()) <= mergeLimit {
			p.Data = append(p.Data, l.GetData()...)
			o.bytes += len(l.GetData())
			return true
		}
	}
	return false
}

func (o *outbox) wakeLocked() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// take returns what is queued, oldest first; nil and false once the outbox is closed and empty, or has failed.
func (o *outbox) take() ([]*boxbuildv1.BuildOutput, bool) {
	for {
		o.mu.Lock()
		if o.err != nil {
			o.mu.Unlock()
			return nil, false
		}
		if batch := o.queue; len(batch) > 0 {
			o.queue, o.bytes = nil, 0
			clear(o.statuses)
			o.mu.Unlock()
			return batch, true
		}
		if o.closed {
			o.mu.Unlock()
			return nil, false
		}
		o.mu.Unlock()
		<-o.ready
	}
}

// sent says that the client has taken a message.
func (o *outbox) sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taken++
	close(o.room)
	o.room = make(chan struct{})
}

// close lets take end once the queue is empty.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wakeLocked()
}

// fail drops what is queued and refuses more.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	close(o.room)
	o.room = make(chan struct{})
	o.taken++
	o.wakeLocked()
}

// pump sends everything with send until the outbox is closed and empty. It returns what failed: send, or the client.
func (o *outbox) pump(send func(*boxbuildv1.BuildOutput) error) error {
	for {
		batch, ok := o.take()
		if !ok {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.err
		}
		for _, out := range batch {
			if err := send(out); err != nil {
				o.fail(err)
				return err
			}
			o.sent()
		}
	}
}
