// Package terminal joins the user's terminal, or what stands in its place, to the streams of a process in a container: it
// makes the terminal raw and restores it, finds the keys that detach, follows the size of the window, and passes signals
// on.
//
// A Stream is run once. Its Run returns when the output has ended, the user has detached or the context has ended, and
// leaves no goroutine behind unless standard input is something that cannot be waited for, which only the end of the
// program ends.
package terminal

import (
	"io"
	"os"

	"golang.org/x/term"
)

// file returns v as a file that has a descriptor, if it is one.
func file(v any) (fd int, ok bool) {
	f, ok := v.(interface{ Fd() uintptr })
	if !ok {
		return 0, false
	}
	return int(f.Fd()), true
}

// Is says whether a stream is a terminal.
func Is(v any) bool {
	fd, ok := file(v)
	return ok && term.IsTerminal(fd)
}

// Size returns the size of the terminal that a stream is, zeros if it is none.
func Size(v any) (rows, cols uint) {
	fd, ok := file(v)
	if !ok {
		return 0, 0
	}
	w, h, err := term.GetSize(fd)
	if err != nil {
		return 0, 0
	}
	return uint(h), uint(w)
}

// makeRaw makes the terminal that in is raw, if it is one, and returns what restores it.
func makeRaw(in io.Reader) (restore func(), err error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(f.Fd()), state) }, nil
}
