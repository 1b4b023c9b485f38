package keep

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// Pipes are the streams of a real process: pipes, or the master of its terminal. They are the part of a Running that has to
// do with streams.
type Pipes struct {
	in, out, errs *os.File // our ends; nil where there is none
	terminal      bool
	theirs        [3]*os.File
}

// NewPipes makes the streams of a process. One with a terminal has none, until UseTerminal.
func NewPipes(terminal, openStdin bool) (_ *Pipes, err error) {
	p := &Pipes{terminal: terminal}
	if terminal {
		return p, nil
	}
	defer func() {
		if err != nil {
			p.CloseTheirs()
			p.Close()
		}
	}()
	if openStdin {
		if p.theirs[0], p.in, err = pipe(false); err != nil {
			return nil, err
		}
	}
	if p.theirs[1], p.out, err = pipe(true); err != nil {
		return nil, err
	}
	p.theirs[2], p.errs, err = pipe(true)
	return p, err
}

// pipe makes a pipe. The process's end is in blocking mode, as processes expect, ours is not; we read if read is set.
func pipe(read bool) (theirs, ours *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	our, their := fds[1], fds[0]
	if read {
		our, their = fds[0], fds[1]
	}
	if err := unix.SetNonblock(our, true); err != nil {
		unix.Close(our)
		unix.Close(their)
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	return os.NewFile(uintptr(their), "pipe"), os.NewFile(uintptr(our), "pipe"), nil
}

// Stdio returns the process's ends.
func (p *Pipes) Stdio() [3]*os.File { return p.theirs }

// CloseTheirs closes the process's ends, when the process has them.
func (p *Pipes) CloseTheirs() {
	for i, f := range p.theirs {
		if f != nil {
			f.Close()
		}
		p.theirs[i] = nil
	}
}

// UseTerminal has the streams be those of a terminal, whose master it takes over.
func (p *Pipes) UseTerminal(master *os.File) error {
	defer master.Close()
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return fmt.Errorf("using the terminal: %w", err)
	}
	p.out = os.NewFile(uintptr(fd), "terminal")
	return nil
}

// Stdin implements Running.
func (p *Pipes) Stdin() io.WriteCloser {
	switch {
	case p.terminal && p.out != nil:
		return p.out
	case p.in != nil:
		return p.in
	}
	return nil
}

// Stdout implements Running.
func (p *Pipes) Stdout() io.Reader { return reader(p.out) }

// Stderr implements Running.
func (p *Pipes) Stderr() io.Reader { return reader(p.errs) }

func reader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return &drained{f}
}

// Drain implements Running.
func (p *Pipes) Drain() {
	for _, f := range []*os.File{p.out, p.errs} {
		if f != nil {
			_ = f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	if p.in != nil {
		p.in.Close() // who writes to it is to learn that nobody reads
	}
}

// Close implements Running.
func (p *Pipes) Close() {
	for _, f := range []*os.File{p.in, p.out, p.errs} {
		if f != nil {
			f.Close()
		}
	}
}

// Resize implements Running.
func (p *Pipes) Resize(rows, cols uint16) error {
	if !p.terminal || p.out == nil {
		return executor.ErrNoTerminal
	}
	rc, err := p.out.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	cerr := rc.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if cerr != nil {
		return os.ErrProcessDone // closed
	}
	return os.NewSyscallError("ioctl", err)
}

// A drained is a file that is read until its end or, after the deadline that Drain sets, until there is nothing in it.
type drained struct{ f *os.File }

func (d *drained) Read(p []byte) (int, error) {
	n, err := d.f.Read(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	rc, err := d.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) {
		for {
			n, err = unix.Read(int(fd), p)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	if err != nil || n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}
