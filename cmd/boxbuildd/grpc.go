package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/native"
)

const (
	// maxStreams is how many calls one connection may have at once. A build of BuildKit's client has five or so, one of
	// ours one and one for each output; a hundred builds share a connection comfortably.
	maxStreams = 1024
	// maxHeaders is how many bytes the metadata of a call may have; those of a session list what it offers.
	maxHeaders = 256 << 10
	// pingTime is how often a client may ask whether the daemon lives; whoever asks more often is disconnected.
	pingTime = 5 * time.Second
	// deadAfter is after how long without a sign of life the daemon asks, and then half as long until it hangs up: the
	// client's machine may have gone without a word.
	deadAfter = 30 * time.Second
)

// newGRPC returns the server for all gRPC services, and their health. more come before the options of the services.
func newGRPC(log *slog.Logger, more ...grpc.ServerOption) (*grpc.Server, *health.Server) {
	opts := append(more,
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingTime, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: deadAfter, Timeout: deadAfter / 2}),
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (any, error) {
			resp, err := handler(ctx, req)
			return resp, unavailable(err)
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler,
		) error {
			return unavailable(handler(srv, stream))
		}),
	)
	g := grpc.NewServer(append(opts, native.GRPCOptions(log)...)...)
	h := health.NewServer()
	healthv1.RegisterHealthServer(g, h)
	return g, h
}

// unavailable gives the errors of a daemon that goes down their code, whichever service they come from.
func unavailable(err error) error {
	if errors.Is(err, worker.ErrDraining) && status.Code(err) == codes.Unknown {
		return status.Error(codes.Unavailable, err.Error())
	}
	return err
}
