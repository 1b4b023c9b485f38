package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// maxMessage bounds a message in bytes, as on the daemon's side.
const maxMessage = 65 << 20

// connect returns the connection to the daemon, which it makes, and starts the daemon for, when it is first asked for.
func (a *app) connect(ctx context.Context) (*grpc.ClientConn, error) {
	if a.conn != nil {
		return a.conn, nil
	}
	to, err := a.destination()
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, to)
	if err != nil && a.cfg.Start && away(err) {
		if err := a.startDaemon(ctx, to); err != nil {
			return nil, err
		}
		conn, err = dial(ctx, to)
	}
	if err != nil {
		return nil, a.unreachable(err)
	}
	a.conn = conn
	return conn, nil
}

// unreachable says why there is no connection. One who may not open the socket learns who may.
func (a *app) unreachable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("permission denied while trying to connect to the boxbuild daemon at %s: its own user may, root, and the members of its --group (%w)", a.cfg.Addr, err)
	}
	return fmt.Errorf("Cannot connect to the boxbuild daemon at %s. Is boxbuildd running? (%w)", a.cfg.Addr, err) //nolint:staticcheck // docker's words
}

// A destination is where a daemon is, and how it is known.
type destination struct {
	addr config.Address
	tls  *tls.Config // nil for a plain connection
}

// destination returns where the configuration says that the daemon is.
func (a *app) destination() (destination, error) {
	addr, err := config.ParseAddress(a.cfg.Addr)
	if err != nil {
		return destination{}, usageError{message: err.Error()}
	}
	to := destination{addr: addr}
	if addr.Network != "tcp" || !a.cfg.TLS.Enabled() && a.cfg.TLSServerName == "" {
		return to, nil
	}
	name := a.cfg.TLSServerName
	if name == "" {
		name, _, _ = net.SplitHostPort(addr.Name) // it has been parsed
	}
	if to.tls, err = a.cfg.TLS.Client(name); err != nil {
		return destination{}, usageError{message: err.Error()}
	}
	return to, nil
}

// connect makes one connection. With TLS the handshake is part of it, so that what is wrong with a certificate is told.
func (d destination) connect(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, d.addr.Network, d.addr.Name)
	if err != nil || d.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, d.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &explained{secure}, nil
}

// An explained connection has, for an error in writing, what the other side has said before it hung up: with TLS 1.3 a
// client learns only then that its certificate is not taken.
type explained struct{ *tls.Conn }

// Write implements net.Conn.
func (c *explained) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second)) // the connection is lost anyway
	var said *net.OpError
	if _, rerr := c.Read(make([]byte, 1)); errors.As(rerr, &said) && said.Op == "remote error" {
		err = rerr
	}
	return n, err
}

// dial connects and makes sure that somebody answers: a daemon that is going down does not.
func dial(ctx context.Context, to destination) (*grpc.ClientConn, error) {
	// The first connection is made here, since gRPC would hide why there is none.
	first, err := to.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///boxbuild",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if c := first; c != nil {
				first = nil
				return c, nil
			}
			return to.connect(ctx)
		}),
		grpc.WithChainUnaryInterceptor(validCall),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(1<<20),
		grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		_ = first.Close()
		return nil, err
	}
	if _, err := boxbuildv1.NewSystemClient(conn).Ping(ctx, &boxbuildv1.PingRequest{}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// images, builds and system are the services of the daemon.
func (a *app) images(ctx context.Context) (boxbuildv1.ImagesClient, error) {
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return boxbuildv1.NewImagesClient(conn), nil
}

func (a *app) system(ctx context.Context) (boxbuildv1.SystemClient, error) {
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return boxbuildv1.NewSystemClient(conn), nil
}
