package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
)

// That a step found nothing is not that a file of its result is not there; all else that its error is can be seen.
func TestUnmade(t *testing.T) {
	cause := &solver.VertexError{Err: fmt.Errorf("unpacking: %w", &fs.PathError{Op: "link", Path: "z", Err: unix.ENOENT})}
	err := fmt.Errorf("reading: %w", &unmadeError{cause})
	if !errors.Is(cause, fs.ErrNotExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v: a missing file", err)
	}
	var ve *solver.VertexError
	if !errors.As(err, &ve) || ve != cause || !errors.Is(err, unix.ENOENT) || err.Error() != "reading: "+cause.Error() {
		t.Errorf("%v: the cause is lost", err)
	}
}
