package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"syscall"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// maxFile is the size up to which a frontend may read a file, in bytes.
const maxFile = 16 << 20

// ReadFile implements frontend.Env.
func (e *env) ReadFile(ctx context.Context, in solver.Input, name string) ([]byte, error) {
	var data []byte
	err := e.open(ctx, in, name, func(f io.Reader, size int64) (err error) {
		if size > maxFile {
			return fmt.Errorf("%d bytes are more than the %d allowed", size, maxFile)
		}
		if data, err = readSized(f, size, maxFile+1); err == nil && len(data) > maxFile {
			err = fmt.Errorf("more than the %d bytes allowed", maxFile)
		}
		return err
	})
	return data, err
}

// ReadHead implements frontend.HeadReader.
func (e *env) ReadHead(ctx context.Context, in solver.Input, name string, n int) ([]byte, error) {
	var data []byte
	err := e.open(ctx, in, name, func(f io.Reader, size int64) (err error) {
		data, err = readSized(f, size, int64(n))
		return err
	})
	return data, err
}

// readSized reads up to limit bytes of a file that is said to have size, without more memory than they take.
func readSized(f io.Reader, size, limit int64) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, max(min(size, limit), 0)+bytes.MinRead))
	_, err := buf.ReadFrom(io.LimitReader(f, limit))
	return buf.Bytes(), err
}

// open has read read a file of a result.
func (e *env) open(ctx context.Context, in solver.Input, name string, read func(f io.Reader, size int64) error) error {
	tree, done, err := e.tree(ctx, in)
	if err != nil {
		return &unmadeError{err}
	}
	defer done()
	name = path.Join("/", name)
	entry, err := treehash.Resolve(ctx, tree, name, true)
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("reading %s: %w: %w", name, frontend.ErrNoFile, err)
	}
	if err != nil {
		return err
	}
	if !entry.IsRegular() {
		return fmt.Errorf("reading %s: %w", name, frontend.ErrNoFile)
	}
	f, err := tree.Open(ctx, entry.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f, entry.Size); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// An unmadeError is why there is no tree to read a file from. That a step did not find something is not that the file is
// not there, so it is no fs.ErrNotExist, nor ErrNoFile; for the rest it is what it wraps.
type unmadeError struct{ err error }

func (e *unmadeError) Error() string { return e.err.Error() }
func (e *unmadeError) Is(target error) bool {
	return target != fs.ErrNotExist && target != frontend.ErrNoFile && errors.Is(e.err, target)
}
func (e *unmadeError) As(target any) bool { return errors.As(e.err, target) }

// tree solves in and opens its result. A client's directory needs no solving.
func (e *env) tree(ctx context.Context, in solver.Input) (treehash.Tree, func(), error) {
	var res solver.Result
	if l, ok := in.Vertex.Op().(*op.Local); ok && l.Pinned() {
		res = solver.Result("local:" + l.Root)
	} else {
		out, err := e.results(ctx, []solver.Input{in})
		if err != nil {
			return nil, nil, err
		}
		res = out[0]
	}
	return e.b.deps.Runner.Open(ctx, res)
}
