package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// An Address is where a daemon listens, or a client connects.
type Address struct {
	// Network is "unix", "tcp", or "fd" for sockets that were made by whoever started the daemon.
	Network string
	// Name is the path of a socket, "host:port", or of fd the number or name of a socket, empty for all.
	Name string
}

// String returns the address as it is written.
func (a Address) String() string { return a.Network + "://" + a.Name }

// ParseAddress reads "unix:///path", "tcp://host:port" or "fd://".
func ParseAddress(s string) (Address, error) {
	network, name, ok := strings.Cut(s, "://")
	switch {
	case !ok:
		return Address{}, fmt.Errorf("address %q has no scheme: is unix://%s meant?", s, s)
	case network == "unix":
		path, err := SocketPath(s)
		return Address{network, path}, err
	case network == "tcp":
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			return Address{}, fmt.Errorf("address %q: it is not tcp://host:port", s)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			return Address{}, fmt.Errorf("address %q: %q is not a port", s, port)
		} else if n == 0 && host == "" {
			return Address{}, fmt.Errorf("address %q: it is not tcp://host:port", s)
		}
		return Address{network, name}, nil
	case network == "fd":
		return Address{network, name}, nil
	}
	return Address{}, fmt.Errorf("address %q: only unix://, tcp:// and fd:// are supported", s)
}

// Loopback says whether only this machine can reach the address: a name is not looked up, since who answers may change.
func (a Address) Loopback() bool {
	if a.Network != "tcp" {
		return a.Network == "unix"
	}
	host, _, _ := net.SplitHostPort(a.Name) // it has been parsed
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
