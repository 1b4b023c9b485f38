package keep

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

const sigkill = syscall.SIGKILL

// A Conn is the keeper's end of an attachment. Read returns io.EOF when the peer has closed its side for writing.
type Conn interface {
	io.ReadWriteCloser
	// Open says, after Read has returned io.EOF, whether the peer still reads.
	Open() bool
}

// An attachment gets what a process says. What it has not read yet is kept, up to twice maxBacklog; then it holds up the process
// until it has read some, or has read nothing for Options.Stall: from then on it loses what does not fit.
type attachment struct {
	p       *process
	streams executor.Streams
	conn    Conn
	stall   time.Duration
	more    chan struct{} // a token when there is something to do for the writer
	less    chan struct{} // a token when something has been read, or has left the backlog to be read
	closed  chan struct{} // closed when nothing is written any more
	heard   chan struct{} // closed when the peer has nothing more to say

	mu       sync.Mutex
	backlog  []byte      // guarded by mu, as all below
	spare    []byte      // what backlog was, written by now
	stuck    bool        // it has not read for so long that it loses what comes
	finished bool        // nothing will come
	broken   bool        // nothing can be written
	last     *time.Timer // once it is finished: gives up a peer that reads nothing
}

const maxBacklog = 256 << 10

// attach connects c.
func (p *process) attach(s executor.Streams, c Conn) error {
	a := &attachment{
		p: p, streams: s, conn: c, stall: p.k.opts.Stall,
		more: make(chan struct{}, 1), less: make(chan struct{}, 1), closed: make(chan struct{}), heard: make(chan struct{}),
	}
	p.mu.Lock()
	if p.state == ended {
		p.mu.Unlock()
		return executor.ErrNotRunning
	}
	p.attached = append(p.attached, a)
	p.mu.Unlock()
	p.k.work.Go(a.write)
	p.k.work.Go(a.read)
	return nil
}

func (p *process) detach(a *attachment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range p.attached {
		if a == b {
			p.attached = append(p.attached[:i:i], p.attached[i+1:]...)
			return
		}
	}
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// give hands the attachment what the process said on a stream.
func (a *attachment) give(stream int, data []byte) {
	if stream == 1 && !a.streams.Stdout || stream == 2 && !a.streams.Stderr {
		return
	}
	head := frameLen
	if a.p.desc.Terminal {
		head = 0
	}
	for {
		a.mu.Lock()
		fits := len(a.backlog) == 0 || len(a.backlog)+head+len(data) <= maxBacklog
		if a.broken || !fits && a.stuck {
			a.mu.Unlock()
			return
		}
		if fits {
			a.stuck = false
			if head > 0 {
				a.backlog = appendHead(a.backlog, stream, len(data))
			}
			a.backlog = append(a.backlog, data...)
			a.mu.Unlock()
			token(a.more)
			return
		}
		a.mu.Unlock()
		if !a.await() {
			a.mu.Lock()
			a.stuck = true
			a.mu.Unlock()
		}
	}
}

// await waits until something has been read, or nothing has for too long.
func (a *attachment) await() bool {
	t := time.NewTimer(a.stall)
	defer t.Stop()
	select {
	case <-a.less:
	case <-a.closed:
	case <-t.C:
		return false
	}
	return true
}

const frameLen = 8

// appendHead appends the head of a frame as Docker has it: the stream's number, three zeros, the length.
func appendHead(b []byte, stream, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(stream), 0, 0, 0), uint32(n))
}

// finish says that nothing more will come. A peer that does not read what there is is waited for as long as give does.
func (a *attachment) finish() {
	a.mu.Lock()
	if !a.finished {
		a.finished = true
		a.last = time.AfterFunc(a.stall, func() { a.conn.Close() })
	}
	a.mu.Unlock()
	token(a.more)
}

// progress notes that the peer has read something.
func (a *attachment) progress() {
	a.mu.Lock()
	if a.last != nil {
		a.last.Reset(a.stall)
	}
	a.mu.Unlock()
	token(a.less)
}

// leave is the end of write.
func (a *attachment) leave() {
	a.p.detach(a)
	a.mu.Lock()
	if a.last != nil {
		a.last.Stop()
	}
	a.mu.Unlock()
	close(a.closed)
	a.conn.Close()
}

// write writes to the connection what there is, and closes it at the end of the process or of the connection.
func (a *attachment) write() {
	defer a.leave()
	for {
		b, finished := a.take()
		if len(b) > 0 {
			token(a.less) // there is room
		}
		for len(b) > 0 {
			n, err := a.conn.Write(b[:min(len(b), chunkSize)])
			if err != nil {
				a.lose()
				a.hearOut()
				return
			}
			b = b[n:]
			a.progress()
		}
		if finished && a.empty() {
			return
		}
		if !finished {
			<-a.more
		}
		if a.isBroken() {
			return
		}
	}
}

// hearOut waits, for a peer that does not read any more, until what it said before it left has been read, or the process has
// ended.
func (a *attachment) hearOut() {
	select {
	case <-a.heard:
	case <-a.p.done:
	}
}

// take takes the backlog.
func (a *attachment) take() (b []byte, finished bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b = a.backlog
	a.backlog, a.spare = a.spare[:0], b
	return b, a.finished
}

func (a *attachment) empty() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.backlog) == 0
}

// lose makes the attachment one that gets nothing any more.
func (a *attachment) lose() {
	a.mu.Lock()
	a.broken = true
	a.backlog, a.spare = nil, nil
	a.mu.Unlock()
	token(a.more)
	token(a.less) // nobody waits for it to read
}

func (a *attachment) isBroken() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

// read hands what the peer says to the process, until the peer has nothing more to say or has gone.
func (a *attachment) read() {
	defer close(a.heard)
	select {
	case <-a.p.started: // there is no input before
	case <-a.closed:
	}
	w := a.input()
	to := w
	buf := make([]byte, 4<<10)
	for {
		n, err := a.conn.Read(buf)
		if n > 0 && to != nil {
			if _, werr := to.Write(buf[:n]); werr != nil {
				to = nil
			}
			if n == len(buf) && n < chunkSize {
				buf = make([]byte, chunkSize) // for who sends files; a keyboard does with less
			}
		}
		if err == nil {
			continue
		}
		open := errors.Is(err, io.EOF) && a.conn.Open()
		if w != nil && !a.p.desc.Terminal {
			a.endInput(w)
		}
		if !open {
			a.lose()
		}
		return
	}
}

// endInput ends the process's input, or keeps it for the next attachment; then the end of this one's input is its end, as in
// docker.
func (a *attachment) endInput(w io.Closer) {
	if a.p.desc.StdinOnce {
		w.Close()
	} else {
		a.finish()
	}
}

// input returns where the peer's input goes, or nil.
func (a *attachment) input() io.WriteCloser {
	r, s := a.p.running()
	if !a.streams.Stdin || !a.p.desc.OpenStdin || r == nil || s == ended {
		return nil
	}
	return r.Stdin()
}
