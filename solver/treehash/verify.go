package treehash

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/boxbuild/boxbuild/solver"
)

// verifying is a reader that compares what it has read with what the content should be, at the end.
type verifying struct {
	r    io.ReadCloser
	path string
	want solver.Digest
	h    hash.Hash
}

// Verify wraps r, the content of the file at path, so that the end of it is an error if its digest is not want. Only a
// reader that has seen io.EOF has seen what was asked for.
func Verify(r io.ReadCloser, path string, want solver.Digest) io.ReadCloser {
	return &verifying{r: r, path: path, want: want, h: sha256.New()}
}

func (v *verifying) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	_, _ = v.h.Write(p[:n]) // never fails
	if err == io.EOF && !bytes.Equal(v.h.Sum(nil), v.want[:]) {
		return n, &ChangedError{Path: v.path}
	}
	return n, err
}

func (v *verifying) Close() error { return v.r.Close() }

// A ChangedError says that a file is not any more what it was when its digest was taken.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%q changed while the build was reading it", e.Path)
}
