package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// Exit codes.
const (
	exitFailed = 1 // what was asked for failed
	exitUsage  = 2 // the command line makes no sense
)

// A usageError is a command line that makes no sense.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// A silentError ends the program with a code after everything has been said.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// finish prints err, if there is something to say, and returns the exit code.
func (a *app) finish(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var silent silentError
	var use usageError
	var status statusError
	var stopped interrupt
	failure := boxbuildv1.AsFailure(err)
	switch {
	case errors.As(context.Cause(ctx), &stopped):
		return 128 + int(stopped.signal)
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &status):
		if status.message != "" {
			a.complain(status.message)
		}
		return status.code
	case errors.As(err, &use):
		a.complain(use.message)
		return exitUsage
	case failure != nil && failure.Wire.GetKind() == boxbuildv1.ErrorKind_ERROR_KIND_USAGE:
		a.complain(describe(err))
		return exitUsage
	}
	a.complain(describe(err))
	return exitFailed
}

// describe says what went wrong as docker does: what the daemon reports is marked as such, each of several errors on a
// line of its own.
func describe(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // only a join itself has lines
		var lines []string
		for _, e := range joined.Unwrap() {
			lines = append(lines, e.Error())
		}
		if strings.Join(lines, "\n") == err.Error() {
			for i, e := range joined.Unwrap() {
				lines[i] = describe(e)
			}
			return strings.Join(lines, "\n")
		}
	}
	if f := boxbuildv1.AsFailure(err); f != nil {
		return "Error response from daemon: " + f.Error()
	}
	return err.Error()
}

func (a *app) complain(message string) {
	fmt.Fprintln(a.stderr, message)
}
