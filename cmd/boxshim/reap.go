//go:build cgo

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// initProgram is a copy of this program in the private root, to be bound into sandboxes that want an init.
const initProgram = "/run/init"

// installInit makes initProgram when it is first needed.
func (s *session) installInit() error {
	s.initOnce.Do(func() { s.initErr = copySelf(initProgram) })
	return s.initErr
}

func copySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("opening this program: %w", err)
	}
	defer self.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	if _, err := io.Copy(out, self); err != nil {
		out.Close()
		return fmt.Errorf("copying this program: %w", err)
	}
	return out.Close()
}

// reap runs a command as the first process of a sandbox has to: it hands signals on, reaps whatever becomes its child,
// and ends as the command did.
func reap(args []string) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 127, err
	}
	child, err := os.StartProcess(path, args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: sysProcAttr(),
	})
	if err != nil {
		return 126, err
	}
	for sig := range signals {
		if sig != syscall.SIGCHLD {
			// SIGURG is Go's own; a terminal's signals reach the child's process group without help.
			if s, ok := sig.(syscall.Signal); ok && s != syscall.SIGURG {
				_ = syscall.Kill(child.Pid, s)
			}
			continue
		}
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			if pid == child.Pid {
				if status.Signaled() {
					return 128 + int(status.Signal()), nil
				}
				return status.ExitStatus(), nil
			}
		}
	}
	return 255, nil
}

// sysProcAttr puts the command into a process group of its own, the foreground one if there is a terminal.
func sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Foreground, attr.Ctty = true, 0
	}
	return attr
}
