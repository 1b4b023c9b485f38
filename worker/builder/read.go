package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

var (
	_ frontend.FileReader = (*env)(nil)
	_ frontend.Evaluator  = (*env)(nil)
)

// ReadRange implements frontend.FileReader.
func (e *env) ReadRange(ctx context.Context, in solver.Input, name string, offset, length int64) ([]byte, error) {
	var data []byte
	err := e.open(ctx, in, name, func(f io.Reader, size int64) (err error) {
		data, err = readRange(f, size, offset, length)
		return err
	})
	return data, err
}

// readRange returns a part of a file of that size, as frontend.FileReader says.
func readRange(f io.Reader, size, offset, length int64) ([]byte, error) {
	if offset < 0 || length < 0 {
		return nil, fmt.Errorf("invalid range: offset %d, length %d", offset, length)
	}
	if offset >= size && size > 0 {
		return nil, nil
	}
	if length == 0 {
		if length = size - offset; length > maxFile {
			return nil, fmt.Errorf("%d bytes are more than the %d allowed", length, maxFile)
		}
		length++ // a file of /proc says that it is empty
	}
	length = min(length, maxFile)
	if s, ok := f.(io.Seeker); ok {
		if _, err := s.Seek(offset, io.SeekStart); err != nil {
			return nil, err
		}
	} else if _, err := io.CopyN(io.Discard, f, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return readSized(f, size-offset, length)
}

// ReadDir implements frontend.FileReader.
func (e *env) ReadDir(ctx context.Context, in solver.Input, dir, pattern string) ([]frontend.FileInfo, error) {
	match, err := matcher(pattern)
	if err != nil {
		return nil, err
	}
	tree, done, err := e.tree(ctx, in)
	if err != nil {
		return nil, &unmadeError{err}
	}
	defer done()
	entry, err := treehash.Resolve(ctx, tree, path.Join("/", dir), true)
	if err != nil {
		return nil, err
	}
	if !entry.IsDir() {
		return nil, fmt.Errorf("reading %s: not a directory", dir)
	}
	list, err := tree.List(ctx, entry.Path)
	if err != nil {
		return nil, err
	}
	var out []frontend.FileInfo
	for _, x := range list {
		name := path.Base(x.Path)
		if ok, err := match(name); err != nil {
			return nil, err
		} else if ok {
			out = append(out, fileInfo(name, x))
		}
	}
	return out, nil
}

// matcher returns what says whether a name in a directory is one that is asked for.
func matcher(pattern string) (func(name string) (bool, error), error) {
	if pattern == "" {
		return func(string) (bool, error) { return true, nil }, nil
	}
	f, err := treehash.NewFilter([]string{pattern}, nil)
	if err != nil {
		return nil, err
	}
	return func(name string) (bool, error) {
		v, _, err := f.Check(name, treehash.State{})
		return v == treehash.Pick, err
	}, nil
}

// StatFile implements frontend.FileReader.
func (e *env) StatFile(ctx context.Context, in solver.Input, name string) (*frontend.FileInfo, error) {
	tree, done, err := e.tree(ctx, in)
	if err != nil {
		return nil, &unmadeError{err}
	}
	defer done()
	entry, err := treehash.Resolve(ctx, tree, path.Join("/", name), true)
	if err != nil {
		return nil, err
	}
	info := fileInfo(path.Base(entry.Path), entry) // of what a symlink leads to, as with BuildKit
	return &info, nil
}

func fileInfo(name string, x *treehash.Entry) frontend.FileInfo {
	return frontend.FileInfo{
		Path: name, Mode: x.Mode, UID: x.UID, GID: x.GID, Size: x.Size, MTime: x.MTime, Link: x.Link, Rdev: x.Rdev, Xattr: x.Xattr,
	}
}

// Evaluate implements frontend.Evaluator.
func (e *env) Evaluate(ctx context.Context, ins ...solver.Input) error {
	if len(ins) == 0 {
		return nil
	}
	_, err := e.results(ctx, ins)
	return err
}

// results solves ins, for as long as the build lasts.
func (e *env) results(ctx context.Context, ins []solver.Input) ([]solver.Result, error) {
	e.mu.Lock()
	e.reads++
	id := fmt.Sprintf("%s-read%d", e.id, e.reads)
	e.mu.Unlock()
	with, err := e.b.admit(ins, e.grants)
	if err != nil {
		return nil, err
	}
	ins = e.settled.relax(llb.Replace(ins, with))
	if err := e.b.empty(ins); err != nil {
		return nil, err
	}
	out, err := e.b.deps.Solver.Solve(ctx, &solver.Build{ID: id, Targets: ins, Events: e.em.emit})
	if err != nil {
		return nil, e.em.blamed(err)
	}
	e.settled.add(ins)
	return out, nil
}
