package bksession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrExists says that a session of that ID is there already. Serve returns it, and the first one is not disturbed.
var ErrExists = errors.New("a session with this ID exists already")

// ErrNoSession says that there is no session of an ID. Get returns it in an error that names the ID. BuildKit's clients get
// the code for what has not come in time.
var ErrNoSession error = late("no such session")

// late is the text of an error with that code.
type late string

func (e late) Error() string { return string(e) }

// Code returns the error's code.
func (late) Code() codes.Code { return codes.DeadlineExceeded }

// A LostError is why a session has ended: the cause of its context, and of every call that it cut short. It is
// context.Canceled: who ends the session of a build has given it up, whatever the build was doing for it then.
type LostError struct {
	ID   string
	Name string // as the client calls it; may be empty
	// Why is nil if the client has closed the session, or has gone.
	Why error
}

func (e *LostError) Error() string {
	who := e.ID
	if e.Name != "" {
		who = e.Name + " (" + e.ID + ")"
	}
	if e.Why == nil {
		return fmt.Sprintf("the client's session %s was lost: the client closed the connection", who)
	}
	return fmt.Sprintf("the client's session %s was lost: %v", who, e.Why)
}

func (e *LostError) Unwrap() error { return e.Why }

// Is matches context.Canceled.
func (e *LostError) Is(target error) bool { return target == context.Canceled }

// errNoAnswer is the reason for the end of a session whose client is silent.
var errNoAnswer = errors.New("no answer to health checks")

// An UnsupportedError says that the client does not offer what is asked of it.
type UnsupportedError struct {
	ID     string
	Method string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the client of session %s does not offer %s", e.ID, strings.TrimPrefix(e.Method, "/"))
}

// A CallError is what a client has answered with instead of what it was asked for.
type CallError struct {
	ID   string
	What string // what was asked, as a gerund
	Code codes.Code
	Text string // the client's own words, made printable
}

func (e *CallError) Error() string {
	return fmt.Sprintf("%s: the client (session %s) says: %s", e.What, e.ID, e.Text)
}

// GRPCStatus implements what status.FromError looks for, so that the code survives to the one who asked for the build.
func (e *CallError) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }

// fail returns the error for a call that ended with err: why the session ended if it has, why ctx ended if that has,
// else what the client said. what is a gerund that says what was asked. ctx is not one that was cancelled because of err.
//
// A call that fails because the connection does ends after the session: watchedConn sees to that.
func (s *Session) fail(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if s.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(s.ctx))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return &CallError{ID: s.id, What: what, Code: st.Code(), Text: printable(st.Message(), maxErrorText)}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s (session %s): %w", what, s.id, err)
}

// maxErrorText is how many bytes of a client's error are repeated.
const maxErrorText = 4096

// printable returns text from outside, shortened, without what could change a terminal.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
