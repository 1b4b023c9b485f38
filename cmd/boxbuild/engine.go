package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// engine returns the client of the daemon's Engine API, which containers and volumes are asked for through. It makes the
// connection, and starts the daemon for it, when it is first asked for.
func (a *app) engine(ctx context.Context) (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	to, err := a.destination()
	if err != nil {
		return nil, err
	}
	api, err := dialEngine(ctx, to)
	// moby's client hides why a connection broke: one to a daemon that was just killed.
	if err != nil && a.cfg.Start && (away(err) || errors.Is(err, io.EOF) || client.IsErrConnectionFailed(err)) {
		if err := a.startDaemon(ctx, to); err != nil {
			return nil, err
		}
		api, err = dialEngine(ctx, to)
	}
	if err != nil {
		return nil, a.unreachable(err)
	}
	a.api = api
	return api, nil
}

// dialEngine connects, and agrees with the daemon on a version of the API.
func dialEngine(ctx context.Context, to destination) (*client.Client, error) {
	// The first connection is made here, since the client would hide why there is none.
	conn, err := to.connect(ctx)
	if err != nil {
		return nil, err
	}
	first := make(chan net.Conn, 1)
	first <- conn
	api, err := client.New(
		client.WithHost(to.addr.Network+"://"+to.addr.Name),
		client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return to.connect(ctx)
			}
		}),
		client.WithUserAgent("boxbuild/"+version),
	)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		_ = api.Close()
		return nil, err
	}
	return api, nil
}

// notFound says whether the daemon does not have what it was asked for.
func notFound(err error) bool { return errdefs.IsNotFound(err) }

// unserved says whether the daemon does not do at all what it was asked for: one that only builds.
func unserved(err error) bool {
	return errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err) && strings.HasSuffix(err.Error(), "page not found")
}

// Exit codes of docker's commands.
const (
	exitFlags      = 125 // the flags make no sense, or the daemon refused
	exitCannotRun  = 126 // the command is there and cannot be run
	exitNoCommand  = 127 // there is no such command
	exitBadFormat  = 64  // a template makes no sense
	exitConnection = 255 // the daemon has gone
)

// A statusError ends the program with a code of its own.
type statusError struct {
	code    int
	message string // "" if all has been said
}

func (e statusError) Error() string { return e.message }

// likeDocker makes a command answer a bad command line with docker's exit codes: 125 for flags, 1 for arguments.
func likeDocker(cmd *cobra.Command) *cobra.Command {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, list []string) error {
			err := args(cmd, list)
			var use usageError
			if errors.As(err, &use) {
				return statusError{exitFailed, use.message}
			}
			return err
		}
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return statusError{exitFlags, badFlags(cmd, err)}
	})
	cmd.DisableFlagsInUseLine = true
	return cmd
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// minArgs and rangeArgs say how many arguments a command takes, in docker's words.
func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argError(cmd, "requires at least "+plural(n, "argument"))
	}
}

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && len(args) <= high {
			return nil
		}
		return argError(cmd, fmt.Sprintf("requires at least %d and at most %s", low, plural(high, "argument")))
	}
}

// An excusedError is told to the user, but what each does has not failed for it.
type excusedError struct{ error }

// atOnce is how many objects a command works on at the same time.
const atOnce = 50

// each does something to each of names, many at once, and prints those for which it worked in the order that they have.
// The error has a line for each of the others.
func (a *app) each(ctx context.Context, names []string, do func(ctx context.Context, name string) error) error {
	results := make([]chan error, len(names))
	slots := make(chan struct{}, atOnce)
	for i, name := range names {
		results[i] = make(chan error, 1)
		go func() {
			slots <- struct{}{}
			results[i] <- do(ctx, name)
			<-slots
		}()
	}
	var errs []error
	for i, name := range names {
		var excused excusedError
		switch err := <-results[i]; {
		case errors.As(err, &excused):
			a.complain(describe(excused.error))
		case err != nil:
			errs = append(errs, err)
		default:
			fmt.Fprintln(a.stdout, name)
		}
	}
	return errors.Join(errs...)
}
