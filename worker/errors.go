package worker

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// A classed error has a text that is shown as it is, and a class that services make a status code of.
type classed struct {
	text  string
	class error
}

func (e *classed) Error() string { return e.text }

// Unwrap returns the class.
func (e *classed) Unwrap() error { return e.class }

// Errorf returns an error of a class of github.com/containerd/errdefs whose text is that of the format alone: users and
// scripts know docker's words, which do not end in the name of a class.
func Errorf(class error, format string, args ...any) error {
	return &classed{text: fmt.Sprintf(format, args...), class: class}
}

// Invalidf is Errorf for what a request has wrong.
func Invalidf(format string, args ...any) error {
	return Errorf(errdefs.ErrInvalidArgument, format, args...)
}

// NotFoundf is Errorf for what is not there.
func NotFoundf(format string, args ...any) error {
	return Errorf(errdefs.ErrNotFound, format, args...)
}

// Conflictf is Errorf for what the state of something does not allow.
func Conflictf(format string, args ...any) error {
	return Errorf(errdefs.ErrConflict, format, args...)
}
