package solver

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// A PanicError is what a panic in a Runner, a Cache, an Admitter or an Op becomes: the failure of one vertex, so that a
// mistake in one operation does not take the daemon's other builds with it.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// errExited is reported when a call ended its goroutine with runtime.Goexit.
var errExited = errors.New("the operation ended its goroutine")

// protect calls f and turns a panic into an error.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return f()
}
