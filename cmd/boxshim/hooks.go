//go:build cgo

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// hooksWait is what the daemon is told when the process pid waits for hooks, and the pidfd that goes with it.
func hooksWait(opts *libcontainer.Options, pid int) (*wire.HooksWait, *os.File, error) {
	config, err := json.Marshal(opts.Spec)
	if err != nil {
		return nil, nil, fmt.Errorf("describing the sandbox for hooks: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the process that waits for hooks: %w", err)
	}
	return &wire.HooksWait{Place: opts.Spec.Root.Path, Config: config}, os.NewFile(uintptr(fd), "process"), nil
}

// askHooks has the daemon run hooks for the sandbox of a request, and waits until that is done.
func (s *session) askHooks(id uint64, p *proc, opts *libcontainer.Options, pid int) error {
	wait, pidfd, err := hooksWait(opts, pid)
	if err != nil {
		return err
	}
	err = s.conn.Send(&wire.Reply{Op: wire.Hooks, ID: id, Wait: wait}, []*os.File{pidfd})
	pidfd.Close()
	if err != nil {
		return err
	}
	return <-p.hooked // the end of the connection ends this program
}

// askHooks is that of a keeper: nothing else is on the connection before the container is made.
func (kp *keeper) askHooks(opts *libcontainer.Options, pid int) error {
	wait, pidfd, err := hooksWait(opts, pid)
	if err != nil {
		return err
	}
	err = kp.conn.Send(&wire.Answer{ID: kp.creating, Wait: wait}, []*os.File{pidfd})
	pidfd.Close()
	if err != nil {
		return err
	}
	call := new(wire.Call)
	files, err := kp.conn.Recv(call)
	wire.CloseAll(files)
	if err != nil {
		return fmt.Errorf("waiting for hooks: %w", err)
	}
	if call.Op != wire.Ran {
		return errors.New("waiting for hooks: something else was asked for")
	}
	kp.creating = call.ID
	return call.Err.Err()
}

// plainLog is the library's log. Of a hook that is a function it says that it can't be sent to the new process, where there is
// no use for it.
type plainLog struct{ logrus.TextFormatter }

// Format implements logrus.Formatter.
func (l *plainLog) Format(e *logrus.Entry) ([]byte, error) {
	if strings.HasPrefix(e.Message, "cannot serialize hook of type") {
		return nil, nil
	}
	return l.TextFormatter.Format(e)
}

func useLog() {
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetFormatter(new(plainLog))
}
