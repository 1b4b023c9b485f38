package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// trust is how the daemon knows that it may listen to a client.
type trust int

const (
	// open: anybody who reaches the address, a page in a browser of this machine included.
	open trust = iota
	// local: the mode of a socket in the file system lets the client in.
	local
	// certified: the client has shown a certificate that the authority has signed.
	certified
)

// An endpoint is a listening socket.
type endpoint struct {
	net.Listener
	addr   config.Address
	tls    *tls.Config // nil for plain
	trust  trust       // of its clients, if TLS says nothing better
	remove func()      // takes the name away, before or after Close
}

// listenAll listens at all addresses of the configuration, or at none.
func listenAll(cfg *config.Daemon, env config.Env, log *slog.Logger) (_ []*endpoint, err error) {
	var all []*endpoint
	defer func() {
		if err != nil {
			for _, e := range all {
				e.remove()
				_ = e.Close() // nobody has connected
			}
		}
	}()
	uid, gid, err := socketOwner(cfg)
	if err != nil {
		return nil, err
	}
	var secure *tls.Config
	if cfg.GRPC.TLS.Enabled() {
		if secure, err = cfg.GRPC.TLS.Server(); err != nil {
			return nil, err
		}
	}
	for _, s := range cfg.Addrs {
		a, err := config.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		var es []*endpoint
		switch a.Network {
		case "unix":
			es, err = unixEndpoint(a, uid, gid)
		case "tcp":
			es, err = tcpEndpoint(a)
		case "fd":
			es, err = inherited(a, env)
		}
		all = append(all, es...)
		if err != nil {
			return nil, err
		}
	}
	for _, e := range all {
		if e.addr.Network == "tcp" {
			if err := protect(e, cfg, secure, log); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// socketOwner returns who owns the sockets, -1 for the daemon's own.
func socketOwner(cfg *config.Daemon) (uid, gid int, err error) {
	uid = -1
	if cfg.GRPC.UID != nil {
		uid = *cfg.GRPC.UID
	}
	if cfg.Group == "" && cfg.GRPC.GID != nil {
		return uid, *cfg.GRPC.GID, nil
	}
	gid, err = groupID(cfg.Group)
	return uid, gid, err
}

func unixEndpoint(a config.Address, uid, gid int) ([]*endpoint, error) {
	s, err := listenUnix(a.Name, uid, gid)
	if err != nil {
		return nil, err
	}
	return []*endpoint{{Listener: s, addr: a, trust: local, remove: s.remove}}, nil
}

func tcpEndpoint(a config.Address) ([]*endpoint, error) {
	l, err := net.Listen("tcp", a.Name)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", a, err)
	}
	a.Name = l.Addr().String()
	return []*endpoint{{Listener: l, addr: a, remove: func() {}}}, nil
}

// protect decides how clients of a TCP socket are known, and says so. What the address is by now counts: a name may stand
// for another one than it says, and a socket of systemd's has none in the configuration.
func protect(e *endpoint, cfg *config.Daemon, secure *tls.Config, log *slog.Logger) error {
	e.tls = secure
	if !e.addr.Loopback() {
		if err := cfg.CheckOpen(e.addr.String()); err != nil {
			return err
		}
	}
	switch known := secure != nil && cfg.GRPC.TLS.CA != ""; {
	case known:
	case e.addr.Loopback():
		log.Warn("any user of this machine, and any step on its network, can use the daemon and so become root: "+
			"client certificates are not asked for", "addr", e.addr)
	default:
		log.Warn("anyone who reaches this address becomes root on this machine", "addr", e.addr)
	}
	return nil
}

// firstInherited is the descriptor of the first socket that systemd hands over.
const firstInherited = 3

// inherited returns the sockets that whoever started the daemon has made for it, all or those that a names. It follows
// sd_listen_fds(3).
func inherited(a config.Address, env config.Env) ([]*endpoint, error) {
	fail := func(format string, args ...any) ([]*endpoint, error) {
		return nil, fmt.Errorf("listening at %s: %w", a, fmt.Errorf(format, args...))
	}
	if pid := env.Getenv("LISTEN_PID"); pid != strconv.Itoa(os.Getpid()) {
		return fail("no sockets were handed over to this process (LISTEN_PID is %q)", pid)
	}
	n, err := strconv.Atoi(env.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 {
		return fail("no sockets were handed over (LISTEN_FDS is %q)", env.Getenv("LISTEN_FDS"))
	}
	names := strings.Split(env.Getenv("LISTEN_FDNAMES"), ":")
	var out []*endpoint
	for i := range n {
		fd := firstInherited + i
		named := i < len(names) && names[i] == a.Name
		if a.Name != "" && a.Name != "*" && a.Name != strconv.Itoa(fd) && !named {
			continue
		}
		e, err := adopt(fd)
		if err != nil {
			return fail("descriptor %d: %w", fd, err)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return fail("none of %d sockets has that name (LISTEN_FDNAMES is %q)", n, env.Getenv("LISTEN_FDNAMES"))
	}
	return out, nil
}

// adopt makes an endpoint of a descriptor. No process that the daemon starts gets it. The name of the socket stays: it is
// systemd's.
func adopt(fd int) (*endpoint, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "socket")
	if f == nil {
		return nil, errors.New("it is not open")
	}
	l, err := net.FileListener(f) // has a descriptor of its own
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	e := &endpoint{Listener: l, addr: config.Address{Network: l.Addr().Network(), Name: l.Addr().String()}, remove: func() {}}
	switch l := l.(type) {
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		e.trust = local
	case *net.TCPListener:
	default:
		_ = l.Close()
		return nil, fmt.Errorf("a socket of kind %s is not for clients", e.addr.Network)
	}
	return e, nil
}

// addresses are where the daemon listens, for the log.
func addresses(es []*endpoint) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.addr.String())
	}
	return slices.Compact(out)
}
