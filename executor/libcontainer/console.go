//go:build cgo

package libcontainer

import (
	"fmt"
	"os"

	lc "github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// A console receives the master of a process's terminal, which the process opens in its own devpts, so that neither
// the host's devpts nor a path that an image could have prepared plays a part (CVE-2025-52565).
type console struct {
	parent, child *os.File
}

func newConsole(p *lc.Process, terminal bool) (*console, error) {
	if !terminal {
		return &console{}, nil
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket pair: %w", err)
	}
	c := &console{parent: os.NewFile(uintptr(fds[0]), "console"), child: os.NewFile(uintptr(fds[1]), "console")}
	p.ConsoleSocket = c.child
	// libcontainer gives the process its terminal as standard streams.
	p.Stdin, p.Stdout, p.Stderr = nil, nil, nil
	return c, nil
}

// master returns the terminal's master, or nil if there is no terminal.
func (c *console) master() (*os.File, error) {
	if c.parent == nil {
		return nil, nil
	}
	c.child.Close() // else a process that never sent anything would block the next line
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(int(c.parent.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receiving the terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("receiving the terminal: %d messages with descriptors, %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receiving the terminal: %d descriptors, %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func (c *console) close() {
	if c.parent != nil {
		c.parent.Close()
		c.child.Close()
	}
}
