// Package pidfd waits for the ends of child processes without a thread for each, as os/exec would need.
//
// A Watch holds the descriptor of one child until Close. It starts nothing, and Wait is called by whoever owns the child.
package pidfd

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// A Watch is on a child.
type Watch struct {
	cmd *exec.Cmd
	f   *os.File // nil before Linux 5.10
}

// Of returns the Watch on a command that has been started with SysProcAttr.PidFD, which is now fd; -1 where the kernel has
// none. It takes fd over.
func Of(cmd *exec.Cmd, fd int) *Watch {
	w := &Watch{cmd: cmd}
	if fd < 0 {
		return w
	}
	if unix.SetNonblock(fd, true) != nil { // which pidfds can since Linux 5.10
		unix.Close(fd)
		return w
	}
	w.f = os.NewFile(uintptr(fd), "child")
	return w
}

// Wait returns when the child has ended, and been reaped, or when Close is called. Where neither can be waited for at once,
// before Linux 5.10, only the end counts: CanClose is false.
func (w *Watch) Wait() {
	if w.f == nil {
		_ = w.cmd.Wait() // how it has ended is nobody's concern
		return
	}
	rc, err := w.f.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	_ = rc.Read(func(fd uintptr) bool {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		ended = err != nil || info.Signo != 0
		return ended
	})
	if ended {
		_ = w.cmd.Wait()
	}
}

// CanClose says whether Close ends Wait.
func (w *Watch) CanClose() bool { return w.f != nil }

// Close gives the descriptor back, and ends Wait. The child goes on. A second Close is an error that nobody needs.
func (w *Watch) Close() error {
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}
