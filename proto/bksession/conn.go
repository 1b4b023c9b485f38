package bksession

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Bounds on messages, as BuildKit's daemon has them, and how much may be under way. A window that is larger than the
// usual 64 KiB keeps a client that is some milliseconds away busy.
const (
	maxMessage = 16 << 20
	window     = 4 << 20
)

// dial makes the gRPC client on a connection that is open already. There is no other to fall back to, so it is never
// given up for being idle, and no call is tried twice.
func dial(conn net.Conn) (*grpc.ClientConn, error) {
	var used atomic.Bool
	return grpc.NewClient("passthrough:///session",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("a session has one connection only")
			}
			return conn, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableHealthCheck(),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.ForceCodecV2(codec{}),
		),
	)
}

// A watchedConn calls ended when it cannot be read or written any more. What has been read to its end is not written any
// more either: gRPC would say goodbye, and BuildKit's clients take bytes that come while they close for frames of garbage,
// about which they complain on the user's terminal.
type watchedConn struct {
	net.Conn
	ended func()
	once  sync.Once
	over  atomic.Bool
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.over.Store(true)
		c.once.Do(c.ended)
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if c.over.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.once.Do(c.ended)
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.once.Do(c.ended)
	return c.Conn.Close()
}
