// Package scripts has what the txtar scripts of several packages need. Only tests import it.
package scripts

import (
	"fmt"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// Refused returns a loopback address ("127.0.0.1:port") at which nobody listens, and nobody can until the script ends: a
// connection to it is refused. Errors are those of the system calls.
func Refused(env *testscript.Env) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("making a socket that refuses: %w", err)
	}
	env.Defer(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("binding a socket that refuses: %w", err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("naming a socket that refuses: %w", err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port), nil
}
