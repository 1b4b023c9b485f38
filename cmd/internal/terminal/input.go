package terminal

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An input is a file whose reads can be ended from elsewhere: a terminal, a pipe or a socket is waited for before it is
// read, so that nothing is taken from it that nobody will see.
type input struct {
	f    *os.File
	r, w *os.File // a pipe that wakes the waiter when its writing end is closed
}

func newInput(f *os.File) (*input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &input{f: f, r: r, w: w}, nil
}

// Read implements io.Reader. Once the input has been stopped it returns io.EOF.
func (i *input) Read(p []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(i.r.Fd()), Events: unix.POLLIN}, {Fd: int32(i.f.Fd()), Events: unix.POLLIN}}
	for {
		switch _, err := unix.Poll(fds, -1); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case fds[0].Revents != 0:
			return 0, io.EOF
		}
		return i.f.Read(p)
	}
}

// stop ends reads, present and future.
func (i *input) stop() { _ = i.w.Close() }

// close gives the pipe back, once no read is under way.
func (i *input) close() { _ = i.r.Close() }
