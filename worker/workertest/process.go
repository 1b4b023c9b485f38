package workertest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
)

// The states of a process.
const (
	waiting = iota
	running
	over
)

// A process is a Go function with streams. Its state and code are guarded by the Containers' mutex, the rest by its own.
type process struct {
	args      []string
	tty       bool
	openStdin bool
	state     int
	code      int

	exec   *container.ExecCreateRequest // of one that is not the first
	of     string                       // the container of that
	states *sync.Mutex                  // of the Containers
	ended  chan struct{}
	killed chan int
	atEnd  func() // called with states locked; may be nil

	mu     sync.Mutex // guards what follows
	said   []said
	peers  map[*attachment]bool
	stdin  *pipe
	sized  chan [2]uint16
	finish bool
}

// A said is a piece of output.
type said struct {
	stream byte
	at     time.Time
	text   []byte
}

func (cs *Containers) newProcess(args []string, tty, openStdin bool) *process {
	return &process{
		states: &cs.mu, args: args, tty: tty, openStdin: openStdin, ended: make(chan struct{}), killed: make(chan int, 1),
		peers: map[*attachment]bool{}, stdin: newPipe(), sized: make(chan [2]uint16, 8),
	}
}

// again is the process of a container that is started once more: what the last one has said stays.
func (p *process) again(cs *Containers) *process {
	next := cs.newProcess(p.args, p.tty, p.openStdin)
	next.said = p.said
	return next
}

// is says whether the process is in a state.
func (p *process) is(state int) bool {
	p.states.Lock()
	defer p.states.Unlock()
	return p.state == state
}

// startLocked runs it.
func (p *process) startLocked() error {
	if len(p.args) > 0 && p.args[0] == "missing" {
		p.state, p.code = over, 127
		p.close()
		return fmt.Errorf("exec: %q: executable file not found in $PATH", p.args[0])
	}
	p.state = running
	go func() {
		code := p.play()
		p.close()
		p.states.Lock()
		p.code, p.state = code, over
		if p.atEnd != nil {
			p.atEnd()
		}
		p.states.Unlock()
		close(p.ended)
	}()
	return nil
}

func (p *process) kill(code int) {
	select {
	case p.killed <- code:
	default: // it has been
	}
}

// say writes output.
func (p *process) say(stream byte, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, said{stream, time.Now(), []byte(text)})
	for a := range p.peers {
		a.take(stream, []byte(text))
	}
}

// close ends the streams.
func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish = true
	for a := range p.peers {
		a.out.closeWrite()
	}
	p.stdin.close()
}

// play is what the command does:
//
//	true, false, exit N
//	echo TEXT, complain TEXT  to standard output and error
//	cat                       from input to output
//	sleep                     until it is killed
//	stubborn                  likewise, is ready for other signals, and says no to them
//	sizes N                   prints the size of the terminal N times, when it changes
func (p *process) play() int {
	word, rest := "", ""
	if len(p.args) > 0 {
		word, rest = p.args[0], strings.Join(p.args[1:], " ")
	}
	switch word {
	case "false":
		return 1
	case "exit":
		n, _ := strconv.Atoi(rest)
		return n
	case "echo":
		p.say(1, rest+"\n")
	case "complain":
		p.say(2, rest+"\n")
	case "cat":
		return p.cat()
	case "sleep":
		return <-p.killed
	case "stubborn":
		for p.say(1, "ready\n"); ; p.say(1, "no\n") {
			if code := <-p.killed; code == 128+int(syscall.SIGKILL) {
				return code
			}
		}
	case "sizes":
		n, _ := strconv.Atoi(rest)
		for range n {
			select {
			case s := <-p.sized:
				p.say(1, fmt.Sprintf("%d %d\n", s[0], s[1]))
			case code := <-p.killed:
				return code
			}
		}
	}
	return 0
}

func (p *process) cat() int {
	if !p.openStdin {
		return 0
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<10)
		for {
			n, err := p.stdin.Read(buf)
			if n > 0 {
				p.say(1, string(buf[:n]))
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-done:
		return 0
	case code := <-p.killed:
		p.stdin.close()
		<-done
		return code
	}
}

// attach connects to the streams.
func (p *process) attach(s executor.Streams, logs, stream bool) *attachment {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &attachment{p: p, s: s, out: newPipe()}
	if logs {
		for _, one := range p.said {
			a.take(one.stream, one.text)
		}
	}
	if p.finish || !stream {
		a.out.closeWrite()
		return a
	}
	p.peers[a] = true
	return a
}

// An attachment implements executor.Attachment.
type attachment struct {
	p   *process
	s   executor.Streams
	out *pipe
}

// take is called with p.mu held.
func (a *attachment) take(stream byte, text []byte) {
	if stream == 1 && !a.s.Stdout || stream == 2 && !a.s.Stderr {
		return
	}
	if !a.p.tty {
		text = frame(stream, text)
	}
	_, _ = a.out.Write(text) // who has closed it does not want it
}

// Read implements executor.Attachment.
func (a *attachment) Read(b []byte) (int, error) { return a.out.Read(b) }

// Write implements executor.Attachment.
func (a *attachment) Write(b []byte) (int, error) {
	if !a.s.Stdin {
		return len(b), nil
	}
	return a.p.stdin.Write(b)
}

// CloseWrite implements executor.Attachment.
func (a *attachment) CloseWrite() error {
	if a.s.Stdin {
		a.p.stdin.closeWrite()
	}
	return nil
}

// Close implements executor.Attachment.
func (a *attachment) Close() error {
	a.p.mu.Lock()
	delete(a.p.peers, a)
	a.p.mu.Unlock()
	a.out.close()
	return nil
}

// frame puts b into one of Docker's frames.
func frame(stream byte, b []byte) []byte {
	out := make([]byte, 8, 8+len(b))
	out[0] = stream
	binary.BigEndian.PutUint32(out[4:], uint32(len(b)))
	return append(out, b...)
}

// A pipe holds what is written until it is read, however much.
type pipe struct {
	mu     sync.Mutex // guards the rest
	more   *sync.Cond
	buf    bytes.Buffer
	ended  bool // no more is written
	closed bool // and nothing is read
}

func newPipe() *pipe {
	p := &pipe{}
	p.more = sync.NewCond(&p.mu)
	return p
}

// Read implements io.Reader.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buf.Len() == 0 && !p.ended && !p.closed {
		p.more.Wait()
	}
	if p.closed || p.buf.Len() == 0 {
		return 0, io.EOF
	}
	return p.buf.Read(b)
}

// Write implements io.Writer.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.closed {
		return 0, io.ErrClosedPipe
	}
	p.more.Broadcast()
	return p.buf.Write(b)
}

func (p *pipe) closeWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.more.Broadcast()
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.more.Broadcast()
}
