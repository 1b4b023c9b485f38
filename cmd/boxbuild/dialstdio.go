package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// dialStdioCommand is what docker's clients run by ssh on the machine of a daemon (DOCKER_HOST=ssh://), and what others run
// that can start a program there and open no socket.
func (a *app) dialStdioCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "dial-stdio",
		Short:                 "Proxy the standard streams to the daemon's socket",
		Args:                  noArgs,
		Hidden:                true,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.dialStdio(cmd.Context())
		},
	}
}

func (a *app) dialStdio(ctx context.Context) error {
	if _, err := a.engine(ctx); err != nil { // which starts a daemon if there is none
		return err
	}
	to, err := a.destination()
	if err != nil {
		return err
	}
	conn, err := to.connect(ctx)
	if err != nil {
		return fmt.Errorf("opening a connection to the daemon: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // it is over either way
	// The copier of the input ends with the program at the latest: there is no way to interrupt a read from a terminal. A
	// daemon that takes no more has said why, or says so by hanging up.
	go func() {
		_, _ = io.Copy(conn, a.stdin)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	if _, err := io.Copy(a.stdout, conn); err != nil && ctx.Err() == nil {
		return fmt.Errorf("passing on what the daemon says: %w", err)
	}
	return context.Cause(ctx)
}
