package portmap

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
