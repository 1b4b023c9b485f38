package filesync

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// Options are how a directory is read.
type Options struct {
	// Cache remembers what has been read; nil means that nothing is remembered beyond the source's life.
	Cache *Cache
	// Workers is how many goroutines walk and hash; 0 means as many as there are processors, but 2 to 4.
	Workers int
}

func (o Options) withDefaults() Options {
	if o.Cache == nil {
		o.Cache = NewCache("", 0)
	}
	if o.Workers <= 0 {
		o.Workers = min(4, max(2, runtime.GOMAXPROCS(0)))
	}
	return o
}

// Dir returns the directory at path, on this machine, as a Source. The path itself may be or lead through a symlink;
// nothing below it is followed. What is at the path now is what the source reads until it is closed, whatever is
// renamed.
//
// As for any client's directory, files belong to user and group 0, and the root directory itself has no mode, owner
// or attributes of its own.
func Dir(path string, o Options) (Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening directory %q: %w", path, err)
	}
	fd, err := dirfd.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("opening directory %q: %w", path, err)
	}
	return &dir{path: abs, o: o.withDefaults(), fd: fd}, nil
}

type dir struct {
	path string
	o    Options
	fd   int

	closing sync.Once
}

// Close implements Source.
func (d *dir) Close() error {
	d.closing.Do(func() { dirfd.Close(d.fd) })
	return nil
}

// Tree implements Source.
func (d *dir) Tree(ctx context.Context, sel Selection) (treehash.Tree, error) {
	include, err := d.follow(sel)
	if err != nil {
		return nil, fmt.Errorf("selecting files of %s: %w", d.path, err)
	}
	filter, err := treehash.NewFilter(include, sel.Exclude)
	if err != nil {
		return nil, err
	}
	key := cacheKey{path: d.path, selection: fingerprint(include, sel.Exclude)}
	prev, alts := d.o.Cache.find(key)

	// A descriptor has one position for listing, so every walk has its own.
	fd, err := dirfd.Open(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.path, err)
	}
	defer dirfd.Close(fd)
	w := &walk{filter: filter}
	root, err := w.run(ctx, fd, prev, alts, d.o.Workers)
	if err != nil {
		return nil, err
	}
	if err := sel.allowsAll(root); err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.path, err)
	}
	if root != prev {
		h := hashing{root: d.fd, cache: d.o.Cache, workers: d.o.Workers}
		if err := h.run(ctx, root); err != nil {
			return nil, err
		}
		root.finish(nil)
		d.o.Cache.put(key, root)
	}
	var st dirfd.Stat
	if err := dirfd.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.path, err)
	}
	return newTree(d.open, root, st.MTime), nil
}

// open opens a file of a tree, whatever it contains by now.
func (d *dir) open(p string, _ solver.Digest) (int, error) {
	fd, _, err := openFile(d.fd, p)
	return fd, err
}

// follow returns the include patterns of a selection with its followed paths among them.
func (d *dir) follow(sel Selection) ([]string, error) {
	if len(sel.Follow) == 0 {
		return sel.Include, nil
	}
	found, err := followLinks(d.fd, sel.Follow)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 { // the root is wanted
		return sel.Include, nil
	}
	return append(append([]string(nil), sel.Include...), found...), nil
}
