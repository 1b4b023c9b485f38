//go:build cgo

package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/executor/sandbox"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// connFD is where the daemon leaves the pool's end of the connection.
const connFD = 3

// pool starts sandboxes for one daemon until that goes away. It returns only after an error: the end of the connection
// ends the process, and with it every sandbox.
func pool(scratch, cgroup string) error {
	// A write to a connection that the daemon has closed must return an error here.
	if _, err := unix.FcntlInt(connFD, unix.F_GETFD, 0); err != nil {
		return errors.New("descriptor 3 is not open: the pool is started by boxbuildd")
	}
	if err := libcontainer.Enter(scratch); err != nil {
		return err
	}
	unix.CloseOnExec(connFD)
	// The library reports on standard error what it could not do and went on without; that is the daemon's log.
	useLog()
	conn, err := wire.FromFile(os.NewFile(connFD, "daemon"))
	if err != nil {
		return err
	}
	rt, err := libcontainer.NewRuntime()
	if err != nil {
		return err
	}
	limits, err := libcontainer.OwnLimits(cgroup)
	if err != nil {
		return err
	}
	s := newSession(conn, rt, cgroup, limits)
	// While nothing is asked for yet. It ends with the program at the latest, and what it can't do, the first sandbox
	// will report.
	go func() {
		if f, err := sandbox.DefaultFilter(); err == nil {
			rt.Prepare(f)
		}
		libcontainer.Settle()
	}()
	for {
		req := new(wire.Request)
		files, err := conn.Recv(req)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.handle(req, files); err != nil {
			return fmt.Errorf("handling %s %d: %w", req.Op, req.ID, err)
		}
	}
}
