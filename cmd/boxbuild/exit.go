package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// Exit codes.
const (
	exitFailed = 1 // what was asked for failed
	exitUsage  = 2 // the command line of build makes no sense, or names what is not there
)

// A usageError is a command line that makes no sense.
type usageError struct {
	message string
	flags   bool // it is the flags that cannot be read
}

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return usageError{message: fmt.Sprintf(format, args...)}
}

// usageCode is the exit code of a command whose command line makes no sense: docker's, but for build, whose users tell by it
// what they have to write in another way from a build that failed.
func usageCode(cmd *cobra.Command, flags bool) int {
	switch {
	case cmd.Name() == "build":
		return exitUsage
	case flags:
		return exitFlags
	}
	return exitFailed
}

// A silentError ends the program with a code after everything has been said.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// finish prints err, with which cmd has ended, if there is something to say, and returns the exit code.
func (a *app) finish(ctx context.Context, cmd *cobra.Command, err error) int {
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
		return usageCode(cmd, use.flags)
	case failure != nil && failure.Wire.GetKind() == boxbuildv1.ErrorKind_ERROR_KIND_USAGE:
		a.complain(describe(err))
		return usageCode(cmd, false)
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
		return "Error response from daemon: " + ownWords(f.Error())
	}
	return ownWords(err.Error())
}

// ownWords makes the advice that docker's users and tools know one for those of this program.
func ownWords(s string) string { return strings.ReplaceAll(s, "'docker login'", "'boxbuild login'") }

func (a *app) complain(message string) {
	fmt.Fprintln(a.stderr, message)
}
