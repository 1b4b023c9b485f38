package history

import (
	"context"
	"errors"
)

// An Error is how a build or a vertex failed, as it is recorded: the text, and what services need to tell their clients
// the rest.
type Error struct {
	Message string
	// Canceled and DaemonEnded say what the error Is: context.Canceled, ErrDaemonEnded.
	Canceled    bool              `json:",omitempty"`
	DaemonEnded bool              `json:",omitempty"`
	Forms       map[string][]byte `json:",omitempty"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Form returns the error in the form of that name, as Options.Errors made it of the error itself; nil if there is none.
func (e *Error) Form(name string) []byte { return e.Forms[name] }

// Is makes the error one with what it was.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Canceled
	case ErrDaemonEnded:
		return e.DaemonEnded
	}
	return false
}

// remember returns err as it is recorded.
func (s *Store) remember(err error) *Error {
	var known *Error
	if errors.As(err, &known) && known.Message == err.Error() {
		return known
	}
	e := &Error{
		Message: err.Error(), Canceled: errors.Is(err, context.Canceled), DaemonEnded: errors.Is(err, ErrDaemonEnded),
	}
	for name, form := range s.opt.Errors {
		if b := form(err); len(b) > 0 {
			if e.Forms == nil {
				e.Forms = make(map[string][]byte, len(s.opt.Errors))
			}
			e.Forms[name] = b
		}
	}
	return e
}
