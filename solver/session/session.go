// Package session is what the client of a build does for it while it runs: it gives the build secrets, and connections
// to its SSH agents.
//
// A build carries its Session in its context, as it does its lease: a step that several builds wait for asks the client of
// the build that answers for it. What a session gives is never part of a key, and must never be in a log, an error, a
// history or a file on a disk.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrNotFound says that the client has no secret, or offers no agent, of that ID. Callers test for it with errors.Is.
var ErrNotFound = errors.New("not found")

// MaxSecret is the size up to which a client gives a secret, in bytes, as in BuildKit.
const MaxSecret = 500 << 10

// A Session is the client of one build. It is safe for concurrent use.
type Session interface {
	// Secret returns the secret of that ID. The error is a *NotFoundError if the client has none.
	Secret(ctx context.Context, id string) ([]byte, error)
	// CheckSSH returns a *NotFoundError unless the client offers an agent, or another socket, under that ID. The ID of
	// the one that is meant where none is named is "default".
	CheckSSH(ctx context.Context, id string) error
	// DialSSH opens a connection to what the client offers under that ID. Each call is a new one, which the caller
	// closes. The error is a *NotFoundError if the client offers nothing.
	DialSSH(ctx context.Context, id string) (Conn, error)
}

// A Conn is a connection each way. Reads and writes may go on at the same time; after Close both fail.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite says to the other side that all is written.
	CloseWrite() error
}

// A NotFoundError is what the client has not.
type NotFoundError struct {
	Kind string // "secret" or "ssh"
	ID   string
}

// Error has BuildKit's words first.
func (e *NotFoundError) Error() string {
	if e.Kind == "ssh" {
		return fmt.Sprintf("unset ssh forward key %s: the build was not given --ssh %s", e.ID, e.ID)
	}
	return fmt.Sprintf("%s %s: not found", e.Kind, e.ID)
}

// Is makes the error one with ErrNotFound.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

type contextKey struct{}

// With returns a context that carries s.
func With(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// From returns the session that ctx carries: one whose client has nothing if there is none.
func From(ctx context.Context) Session {
	if s, ok := ctx.Value(contextKey{}).(Session); ok {
		return s
	}
	return nothing{}
}

// nothing is the session of a client that has nothing.
type nothing struct{}

// Secret implements Session.
func (nothing) Secret(_ context.Context, id string) ([]byte, error) {
	return nil, &NotFoundError{Kind: "secret", ID: id}
}

// CheckSSH implements Session.
func (nothing) CheckSSH(_ context.Context, id string) error {
	return &NotFoundError{Kind: "ssh", ID: id}
}

// DialSSH implements Session.
func (nothing) DialSSH(_ context.Context, id string) (Conn, error) {
	return nil, &NotFoundError{Kind: "ssh", ID: id}
}
