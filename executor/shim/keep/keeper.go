// Package keep is what the keeper of a container does with its processes: it holds their streams, copies what they say to
// the log and to whoever is attached, hands on what attachments say, and knows how each ended.
//
// It knows processes as Running, so that boxshim puts the real ones behind it and executortest Go functions; everything
// blocks on interfaces, channels and timers only.
//
// Life of a process: Add makes it wait; Prepare starts it up to its command, Run lets it execute that (and prepares it
// first if nobody has); then a goroutine of the process's own copies, waits for the end, records it and ends. The end of
// the first process, whose ID is "", ends all others.
//
//	waiting ──Prepare──> prepared ──Run──> running ──> ended
//	            └── its command can't be executed ──> refused ──Run──> ended
//
// Locks: Keeper.mu guards the table of processes, process.mu the fields of one process, attachment.mu the backlog of one
// attachment. They are taken in that order, and nothing blocks while one is held.
package keep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

// A Running is a process that has been made and waits at its command, or runs it.
type Running interface {
	// Release lets the process execute its command. It is called once, unless the process is killed before.
	Release() error
	// Stdin is where its input goes, nil if it reads nothing. For a terminal it is what Stdout is.
	Stdin() io.WriteCloser
	// Stdout and Stderr are what it says, nil if there is nothing to read. A terminal has no Stderr.
	Stdout() io.Reader
	Stderr() io.Reader
	// Drain is called once after Wait: reading ends with what has been written, even if somebody else could still write.
	Drain()
	// Close is called last, when nothing is read any more.
	Close()
	Resize(rows, cols uint16) error
	Signal(sig syscall.Signal) error
	// Wait returns the end. It is called once.
	Wait() executor.Exit
	Pid() int
}

// A Process is what Add is given.
type Process struct {
	Terminal             bool
	OpenStdin, StdinOnce bool
	Rows, Cols           uint16
	// Start makes the process, up to its command.
	Start func() (Running, error)
}

// A Sink takes what the first process says. Only one goroutine writes. stream is 1 or 2.
type Sink interface {
	Write(stream int, p []byte)
	Close() error
}

// Options are those of a Keeper.
type Options struct {
	Log Sink // nil for none
	// Record, if set, is called with the end of the first process, before anybody learns of it.
	Record func(executor.Exit)
	// Stall is for how long an attachment that reads nothing may hold up a process; 0 means 10 seconds.
	Stall time.Duration
}

// A Keeper has the processes of one container. It is safe for concurrent use.
type Keeper struct {
	opts  Options
	ended chan struct{} // closed when the first process has ended and is recorded
	work  sync.WaitGroup

	mu    sync.Mutex
	procs map[string]*process // guarded by mu
	over  bool                // guarded by mu; nothing is added or run any more
	old   []string            // guarded by mu; the ended processes, but the first, in the order of their ends
}

// maxEnded is how many ended processes are remembered, besides the first.
const maxEnded = 256

// New returns a Keeper without processes.
func New(opts Options) *Keeper {
	if opts.Stall == 0 {
		opts.Stall = 10 * time.Second
	}
	return &Keeper{opts: opts, ended: make(chan struct{}), procs: make(map[string]*process)}
}

// Add adds a process, which waits. An ID is free again when the process that had it has ended.
func (k *Keeper) Add(id string, desc *Process) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return executor.ErrNotRunning
	}
	if p := k.procs[id]; p != nil && (id == "" || !p.hasEnded()) {
		return fmt.Errorf("process %q: %w", id, fs.ErrExist)
	}
	k.procs[id] = newProcess(k, id, desc)
	return nil
}

func (k *Keeper) get(id string) (*process, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.procs[id]
	if p == nil {
		return nil, fmt.Errorf("process %q: %w", id, fs.ErrNotExist)
	}
	return p, nil
}

// Prepare starts a process up to its command. That the command can't be executed is for Run to return.
func (k *Keeper) Prepare(id string) error {
	p, err := k.get(id)
	if err != nil {
		return err
	}
	err = p.prepare()
	var se *executor.StartError
	if errors.As(err, &se) {
		return nil
	}
	return err
}

// Run lets a process run.
func (k *Keeper) Run(id string) error {
	p, err := k.get(id)
	if err != nil {
		return err
	}
	return p.run()
}

// Attach connects c to streams of a process that has not ended, and takes c over.
func (k *Keeper) Attach(id string, s executor.Streams, c Conn) error {
	p, err := k.get(id)
	if err == nil {
		err = p.attach(s, c)
	}
	if err != nil {
		c.Close()
	}
	return err
}

// Signal sends sig to a process: os.ErrProcessDone once that has ended.
func (k *Keeper) Signal(id string, sig syscall.Signal) error {
	p, err := k.get(id)
	if err != nil {
		return err
	}
	r, state := p.running()
	switch {
	case state == ended:
		return os.ErrProcessDone
	case state != running:
		return executor.ErrNotRunning
	}
	return r.Signal(sig)
}

// Resize sets the size of a process's terminal. Before the process runs it is remembered.
func (k *Keeper) Resize(id string, rows, cols uint16) error {
	p, err := k.get(id)
	if err != nil {
		return err
	}
	return p.resize(rows, cols)
}

// Wait waits for the end of a process. A process that will never run has an error.
func (k *Keeper) Wait(ctx context.Context, id string) (executor.Exit, error) {
	p, err := k.get(id)
	if err != nil {
		return executor.Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, p.err
	case <-ctx.Done():
		return executor.Exit{}, context.Cause(ctx)
	}
}

// Pid returns the number of a process, 0 while it has none.
func (k *Keeper) Pid(id string) int {
	p, err := k.get(id)
	if err != nil {
		return 0
	}
	r, state := p.running()
	if r == nil || state == ended {
		return 0
	}
	return r.Pid()
}

// A Status is what is known of a process.
type Status struct {
	ID    string
	Pid   int // 0 if it has none
	Ran   bool
	Ended bool
	Exit  executor.Exit // if it ran and has ended
}

// List returns the processes, the first among them.
func (k *Keeper) List() []Status {
	k.mu.Lock()
	procs := make([]*process, 0, len(k.procs))
	for _, p := range k.procs {
		procs = append(procs, p)
	}
	k.mu.Unlock()
	out := make([]Status, 0, len(procs))
	for _, p := range procs {
		out = append(out, p.status())
	}
	return out
}

// Ended is closed when the first process has ended, also if it has never run.
func (k *Keeper) Ended() <-chan struct{} { return k.ended }

// Kill ends the first process, whatever its state, and with it all others; it returns when it has ended.
func (k *Keeper) Kill() {
	k.mu.Lock()
	k.over = true
	p := k.procs[""]
	k.mu.Unlock()
	if p == nil {
		return
	}
	p.kill()
	<-k.ended
}

// Flush returns when all attachments have got what there was for them, or have not read for too long.
func (k *Keeper) Flush() { k.work.Wait() }

// firstEnded is called by the first process at its end.
func (k *Keeper) firstEnded() {
	k.mu.Lock()
	k.over = true
	var others []*process
	for id, p := range k.procs {
		if id != "" {
			others = append(others, p)
		}
	}
	k.mu.Unlock()
	for _, p := range others {
		p.abandon()
	}
	close(k.ended)
}

// otherEnded is called by any other process at its end.
func (k *Keeper) otherEnded(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.old = append(k.old, p.id)
	for len(k.old) > maxEnded {
		if q := k.procs[k.old[0]]; q != nil && q.hasEnded() {
			delete(k.procs, k.old[0])
		}
		k.old = k.old[1:]
	}
}
