package workertest

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
)

var selectAll = filesync.Selection{}

// OpenDirectory opens a directory of this machine as a source. Its tree has all files, whatever is selected.
func OpenDirectory(path string) (filesync.Source, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &directory{root: root}, nil
}

type directory struct{ root *os.Root }

// Tree implements filesync.Source.
func (d *directory) Tree(context.Context, filesync.Selection) (treehash.Tree, error) { return d, nil }

// Close implements filesync.Source.
func (d *directory) Close() error { return d.root.Close() }

func relative(path string) string {
	if rel := strings.TrimPrefix(path, "/"); rel != "" {
		return rel
	}
	return "."
}

// Lookup implements treehash.Tree.
func (d *directory) Lookup(_ context.Context, path string) (*treehash.Entry, error) {
	st, err := d.root.Lstat(relative(path))
	if err != nil {
		return nil, err
	}
	mode := uint32(st.Mode().Perm())
	switch {
	case st.IsDir():
		mode |= 0o040000
	case st.Mode()&os.ModeSymlink != 0:
		mode |= 0o120000
	default:
		mode |= 0o100000
	}
	return &treehash.Entry{Path: path, Mode: mode, Size: st.Size(), MTime: st.ModTime()}, nil
}

// List implements treehash.Tree.
func (d *directory) List(ctx context.Context, dir string) ([]*treehash.Entry, error) {
	f, err := d.root.Open(relative(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []*treehash.Entry
	for _, n := range names {
		e, err := d.Lookup(ctx, filepath.Join(dir, n))
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Open implements treehash.Tree.
func (d *directory) Open(_ context.Context, path string) (io.ReadCloser, error) {
	return d.root.Open(relative(path))
}

// Content implements treehash.Tree.
func (d *directory) Content(ctx context.Context, path string) (solver.Digest, error) {
	r, err := d.Open(ctx, path)
	if err != nil {
		return solver.Digest{}, err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return solver.Digest{}, err
	}
	return solver.Digest(h.Sum(nil)), nil
}

// write writes an output that is files: the Dockerfile, under the name "built".
func (p *performance) write(out worker.Output) error {
	if out.Dest.Dir != "" {
		return os.WriteFile(filepath.Join(out.Dest.Dir, "built"), p.text, 0o644)
	}
	tw := tar.NewWriter(out.Dest.Stream)
	if err := tw.WriteHeader(&tar.Header{Name: "built", Mode: 0o644, Size: int64(len(p.text))}); err != nil {
		return fmt.Errorf("writing an output: %w", err)
	}
	if _, err := tw.Write(p.text); err != nil {
		return fmt.Errorf("writing an output: %w", err)
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("writing an output: %w", err)
	}
	return out.Dest.Stream.Close()
}
