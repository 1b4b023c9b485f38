package main

import (
	"context"
	"fmt"
	"net"

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
	socket, err := config.SocketPath(a.cfg.Addr)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	conn, err := dial(ctx, socket)
	if err != nil && a.cfg.Start && away(err) {
		if err := a.startDaemon(ctx, socket); err != nil {
			return nil, err
		}
		conn, err = dial(ctx, socket)
	}
	if err != nil {
		return nil, fmt.Errorf("Cannot connect to the boxbuild daemon at %s. Is boxbuildd running? (%w)", a.cfg.Addr, err) //nolint:staticcheck // docker's words
	}
	a.conn = conn
	return conn, nil
}

// dial connects and makes sure that somebody answers: a daemon that is going down does not.
func dial(ctx context.Context, socket string) (*grpc.ClientConn, error) {
	// The first connection is made here, since gRPC would hide why there is none.
	first, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
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
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
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
