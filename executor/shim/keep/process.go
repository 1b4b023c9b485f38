package keep

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/boxbuild/boxbuild/executor"
)

// A state is where a process is in its life; it only grows.
type state int

const (
	waiting  state = iota // it has not been made
	starting              // somebody makes it
	refused               // its command can't be executed, which run will tell
	prepared              // it waits at its command
	running
	ended // also one that has never run
)

// A process is one process of a container.
type process struct {
	k    *Keeper
	id   string
	desc *Process

	turn    chan struct{} // held while it is made or let run
	started chan struct{} // closed when it has streams, or will never have any
	done    chan struct{} // closed at its end
	// Set before done is closed.
	exit executor.Exit
	err  error // why it has no exit

	mu         sync.Mutex
	state      state         // guarded by mu, as all below
	r          Running       // from prepared on
	startErr   error         // of making it; for run to return
	ran        bool          //
	rows, cols uint16        // the last size asked for
	attached   []*attachment // in the order of their coming
	killed     bool
}

func newProcess(k *Keeper, id string, desc *Process) *process {
	return &process{
		k: k, id: id, desc: desc, rows: desc.Rows, cols: desc.Cols,
		turn: make(chan struct{}, 1), started: make(chan struct{}), done: make(chan struct{}),
	}
}

func (p *process) running() (Running, state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.r, p.state
}

func (p *process) hasEnded() bool {
	_, s := p.running()
	return s == ended
}

func (p *process) status() Status {
	p.mu.Lock()
	out := Status{ID: p.id, Ran: p.ran, Ended: p.state == ended}
	r := p.r
	p.mu.Unlock()
	switch {
	case out.Ended && out.Ran:
		<-p.done // closed right after the state
		out.Exit = p.exit
	case !out.Ended && r != nil:
		out.Pid = r.Pid()
	}
	return out
}

// prepare makes the process. Doing so again returns what it returned.
func (p *process) prepare() error {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	return p.prepareInTurn()
}

func (p *process) prepareInTurn() error {
	p.mu.Lock()
	s, err := p.state, p.startErr
	if s == waiting {
		p.state = starting
	}
	p.mu.Unlock()
	if s != waiting {
		return err
	}
	r, err := p.desc.Start()
	if err != nil {
		p.err = err
		var se *executor.StartError
		p.mu.Lock()
		p.startErr = err
		waits := errors.As(err, &se) && !p.killed
		if waits {
			p.state = refused
		}
		p.mu.Unlock()
		if !waits {
			p.end()
		}
		return err
	}
	p.mu.Lock()
	p.r, p.state = r, prepared
	killed := p.killed
	rows, cols := p.rows, p.cols
	p.mu.Unlock()
	if p.desc.Terminal && rows > 0 && cols > 0 {
		_ = r.Resize(rows, cols) // of a terminal that may be gone by now
	}
	close(p.started)
	p.k.work.Go(p.serve)
	if killed {
		_ = r.Signal(sigkill)
	}
	return nil
}

// run lets the process run.
func (p *process) run() error {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if err := p.prepareInTurn(); err != nil {
		p.endIf(refused)
		return err
	}
	p.mu.Lock()
	r, s, killed := p.r, p.state, p.killed
	if s == prepared && !killed {
		p.state, p.ran = running, true
	}
	p.mu.Unlock()
	switch {
	case s == ended:
		return os.ErrProcessDone
	case s == running:
		return nil
	case killed:
		return executor.ErrNotRunning
	}
	err := r.Release()
	if err != nil {
		p.mu.Lock()
		p.startErr = err
		p.mu.Unlock()
		_ = r.Signal(sigkill)
		<-p.done
	}
	return err
}

// serve copies what the process says until its end, and then ends it.
func (p *process) serve() {
	out := make(chan chunk)
	var copies sync.WaitGroup
	for stream, r := range map[int]io.Reader{1: p.r.Stdout(), 2: p.r.Stderr()} {
		if r != nil {
			copies.Go(func() { copyChunks(out, stream, r) })
		}
	}
	copied := make(chan struct{})
	p.k.work.Go(func() {
		copies.Wait()
		close(out)
	})
	p.k.work.Go(func() {
		defer close(copied)
		for c := range out {
			p.say(c.stream, c.data)
			c.done <- struct{}{}
		}
	})
	exit := p.r.Wait()
	p.r.Drain()
	<-copied
	if p.id == "" && p.k.opts.Log != nil {
		_ = p.k.opts.Log.Close()
	}
	p.mu.Lock()
	ran := p.ran
	if p.startErr != nil {
		ran, p.ran = false, false
		p.err = p.startErr
	}
	p.mu.Unlock()
	p.exit = exit
	if !ran && p.err == nil {
		p.err = executor.ErrNotRunning
	}
	if p.id == "" && ran && p.k.opts.Record != nil {
		p.k.opts.Record(exit)
	}
	p.end()
	p.r.Close()
}

// end makes the process one that has ended. exit and err are set.
func (p *process) end() {
	p.mu.Lock()
	p.state = ended
	attached := p.attached
	p.attached = nil
	made := p.r != nil
	p.mu.Unlock()
	if !made {
		close(p.started)
	}
	close(p.done)
	for _, a := range attached {
		a.finish()
	}
	if p.id == "" {
		p.k.firstEnded()
	} else {
		p.k.otherEnded(p)
	}
}

// abandon ends a process that waits, as the first has ended. One that runs ends by itself.
func (p *process) abandon() {
	p.endIf(waiting)
	p.endIf(refused)
}

// endIf ends the process if it is in the state from, in which it is nobody's but ours.
func (p *process) endIf(from state) {
	p.mu.Lock()
	is := p.state == from
	if is {
		p.state = starting // nobody else makes it, or ends it
		if p.startErr == nil {
			p.startErr = executor.ErrNotRunning
		}
		p.err = p.startErr
	}
	p.mu.Unlock()
	if is {
		p.end()
	}
}

// kill ends the process, also one that waits.
func (p *process) kill() {
	p.mu.Lock()
	p.killed = true
	r := p.r
	p.mu.Unlock()
	if r == nil {
		p.abandon()
		return
	}
	_ = r.Signal(sigkill)
}

// say hands what the process said to the log and to the attachments.
func (p *process) say(stream int, data []byte) {
	if p.id == "" && p.k.opts.Log != nil {
		p.k.opts.Log.Write(stream, data)
	}
	p.mu.Lock()
	attached := slices.Clone(p.attached)
	p.mu.Unlock()
	for _, a := range attached {
		a.give(stream, data)
	}
}

// A chunk is something that a process said. Who has dealt with it sends on done.
type chunk struct {
	stream int
	data   []byte
	done   chan struct{}
}

const chunkSize = 32 << 10

func copyChunks(out chan<- chunk, stream int, r io.Reader) {
	c := chunk{stream: stream, done: make(chan struct{})}
	buf := make([]byte, chunkSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			c.data = buf[:n]
			out <- c
			<-c.done
		}
		if err != nil {
			return
		}
	}
}

func (p *process) resize(rows, cols uint16) error {
	if !p.desc.Terminal {
		return executor.ErrNoTerminal
	}
	p.mu.Lock()
	p.rows, p.cols = rows, cols
	r, s := p.r, p.state
	p.mu.Unlock()
	switch {
	case s == ended:
		return os.ErrProcessDone
	case r == nil:
		return nil
	}
	err := r.Resize(rows, cols)
	if errors.Is(err, os.ErrClosed) {
		return os.ErrProcessDone
	}
	return err
}
