package shim

import (
	"errors"
	"io"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// Streams connect a process with the readers and writers of an executor.IO. The process gets the ends of pipes as its
// standard streams, or a terminal; nobody is between it and this process.
type streams struct {
	io    executor.IO
	stdin *os.File   // our end
	outs  []*outPipe // our ends
	theirs
	terminal *os.File       // the master, if there is a terminal; closed by drain
	copies   sync.WaitGroup // of the output
}

// theirs are the process's ends, which are closed when the shim has them.
type theirs struct{ in, out, err *os.File }

// An outPipe is one stream of output.
type outPipe struct {
	r *os.File
	w io.Writer
}

// newStreams makes the pipes of a process without a terminal. A stream that goes nowhere gets none.
func newStreams(rw executor.IO) (_ *streams, err error) {
	s := &streams{io: rw}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if rw.Stdin != nil {
		if s.theirs.in, s.stdin, err = pipe(); err != nil {
			return nil, err
		}
		if err = pollable(&s.stdin); err != nil {
			return nil, err
		}
	}
	if rw.Stdout != nil {
		if s.theirs.out, err = s.output(rw.Stdout); err != nil {
			return nil, err
		}
	}
	switch {
	case rw.Stderr == nil:
	case sameWriter(rw.Stdout, rw.Stderr):
		// One pipe, so that the order of what was written is kept and the writer is never called twice at once.
		s.theirs.err = s.theirs.out
	default:
		if s.theirs.err, err = s.output(rw.Stderr); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// sameWriter compares like ==, but does not panic for types that can't be compared.
func sameWriter(a, b io.Writer) bool {
	return a != nil && reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}

func (s *streams) output(w io.Writer) (*os.File, error) {
	r, theirs, err := pipe()
	if err != nil {
		return nil, err
	}
	if err := pollable(&r); err != nil {
		theirs.Close()
		return nil, err
	}
	s.outs = append(s.outs, &outPipe{r: r, w: w})
	return theirs, nil
}

// pipe makes a pipe whose ends are both in blocking mode, as a process expects its own to be.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// pollable replaces *f by a file that can be waited for with a deadline. It closes *f after an error.
func pollable(f **os.File) error {
	fd, err := unix.FcntlInt((*f).Fd(), unix.F_DUPFD_CLOEXEC, 3)
	name := (*f).Name()
	(*f).Close()
	if err == nil {
		if err = unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		*f = nil
		return os.NewSyscallError("fcntl", err)
	}
	*f = os.NewFile(uintptr(fd), name)
	return nil
}

// files appends the process's ends to list and says in f which is which.
func (s *streams) files(list []*os.File, f *wire.Files) []*os.File {
	add := func(file *os.File) int {
		if file == nil {
			return 0
		}
		list = append(list, file)
		return len(list)
	}
	f.Stdin, f.Stdout = add(s.theirs.in), add(s.theirs.out)
	if s.theirs.err != nil && s.theirs.err == s.theirs.out {
		f.Stderr = f.Stdout
	} else {
		f.Stderr = add(s.theirs.err)
	}
	return list
}

// closeTheirs closes the process's ends.
func (s *streams) closeTheirs() {
	for _, f := range []*os.File{s.theirs.in, s.theirs.out, s.theirs.err} {
		if f != nil {
			f.Close()
		}
	}
	s.theirs = theirs{}
}

// close gives everything back. No copy may be running.
func (s *streams) close() {
	s.closeTheirs()
	if s.stdin != nil {
		s.stdin.Close()
	}
	for _, o := range s.outs {
		o.r.Close()
	}
}

// run begins to copy; terminal, if not nil, is the master of the process's terminal and takes the place of the pipes.
func (s *streams) run(terminal *os.File) error {
	s.closeTheirs()
	if terminal != nil {
		if err := s.useTerminal(terminal); err != nil {
			return err
		}
	}
	if s.stdin != nil {
		// Not waited for: it may be in a Read of the caller's that nothing can interrupt. It holds only the pipe's
		// end, which drain closes.
		go s.feed(s.stdin, terminal != nil)
	}
	for _, o := range s.outs {
		s.copies.Go(o.copy)
	}
	return nil
}

func (s *streams) useTerminal(terminal *os.File) error {
	if err := pollable(&terminal); err != nil {
		return err
	}
	s.terminal = terminal
	w := s.io.Stdout
	if w == nil {
		w = io.Discard
	}
	s.outs = []*outPipe{{r: terminal, w: w}}
	if s.io.Stdin != nil {
		s.stdin = terminal
	}
	return nil
}

// resize sets the size of the terminal.
func (s *streams) resize(rows, cols uint16) error {
	if s.terminal == nil {
		return executor.ErrNoTerminal
	}
	rc, err := s.terminal.SyscallConn()
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

// feed copies the caller's input. The end of it is the end of the process's input, unless that is a terminal.
func (s *streams) feed(w *os.File, terminal bool) {
	_, _ = io.Copy(w, s.io.Stdin)
	if !terminal {
		w.Close()
	}
}

// drain is called when the process has ended. It waits until all that was written has been handed on, and closes all.
// Something outside the sandbox that still holds the other end of a pipe does not delay it.
func (s *streams) drain() {
	for _, o := range s.outs {
		_ = o.r.SetReadDeadline(time.Unix(1, 0))
	}
	s.copies.Wait()
	s.close()
}

var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// copy copies output until its end, or after the deadline that drain sets, until the pipe is empty. It goes on reading
// when the writer fails: a process must not block for want of a reader.
func (o *outPipe) copy() {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	broken := false
	for {
		n, err := o.r.Read(buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = o.readNow(buf[:])
		}
		if n > 0 && !broken {
			_, werr := o.w.Write(buf[:n])
			broken = werr != nil
		}
		if err != nil {
			return
		}
	}
}

// readNow reads what there is without waiting. It returns io.EOF when there is nothing.
func (o *outPipe) readNow(buf []byte) (n int, err error) {
	rc, err := o.r.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) {
		for {
			n, err = unix.Read(int(fd), buf)
			if !errors.Is(err, syscall.EINTR) {
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
