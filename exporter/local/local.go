// Package local exports the files of an image rather than the image: as a directory, or as a tar.
//
// What is exported is a tree for each platform. One alone becomes the root of the output; of several each gets a
// directory of its own, which the caller names. The output is the same for the same trees: entries are sorted, names
// and numbers of the machine do not appear in it.
//
// A destination directory belongs to a user, and may hold anything. Nothing in it is followed: a symlink that is in
// the way of a directory is replaced by one, so that no file is ever written outside. Files appear there whole, by
// rename.
package local

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A Part is a tree to export.
type Part struct {
	// Dir is where in the output it goes: "" for the root, or one name such as "linux_amd64".
	Dir  string
	Tree treehash.Tree
	// Name is what messages call it: a platform. Parts of several names may have the same Dir if they have no file in
	// common.
	Name string
	// Epoch, if set, is the modification time that everything gets, as BuildKit gives it.
	Epoch *time.Time
}

// PlatformDir is the name of a platform's directory: "linux/arm/v7" gives "linux_arm_v7".
func PlatformDir(platform string) string { return strings.ReplaceAll(platform, "/", "_") }

func (p *Part) mtime(e *treehash.Entry) time.Time {
	if p.Epoch != nil {
		return *p.Epoch
	}
	return e.MTime
}

// check refuses parts that would lie in each other.
func check(parts []Part) error {
	seen := map[string]string{}
	for _, p := range parts {
		other, used := seen[p.Dir]
		switch {
		case (p.Dir == "") != (parts[0].Dir == ""):
			return fmt.Errorf("exporting files: one of %d platforms has no directory", len(parts))
		case p.Dir != "" && (p.Dir != path.Base(p.Dir) || p.Dir == "." || p.Dir == ".." || p.Dir == "/"):
			return fmt.Errorf("exporting files: %q is no name for a directory", p.Dir)
		case used && (p.Name == "" || p.Name == other):
			return fmt.Errorf("exporting files: two platforms have the directory %q", p.Dir)
		}
		seen[p.Dir] = p.Name
	}
	return nil
}

// A census knows which part each file of the output comes from, where several share a directory.
type census map[string]string

// newCensus returns nil if each part has a directory of its own: there is nothing to be counted then.
func newCensus(parts []Part) census {
	seen := map[string]bool{}
	for _, p := range parts {
		if seen[p.Dir] {
			return census{}
		}
		seen[p.Dir] = true
	}
	return nil
}

// add notes a file, and is an error if another part has it too. Directories are merged.
func (c census) add(p *Part, e *treehash.Entry) error {
	if c == nil || e.IsDir() {
		return nil
	}
	key := p.Dir + e.Path
	if other, ok := c[key]; ok && other != p.Name {
		return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", strings.TrimPrefix(e.Path, "/"), other, p.Name)
	}
	c[key] = p.Name
	return nil
}

// walk calls fn for everything in a tree, parents first, sorted by name in each directory, and done for a directory
// when everything in it has been seen. The root itself is not among it.
func walk(ctx context.Context, t treehash.Tree, dir string, fn func(*treehash.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	list, err := t.List(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Mode&unix.S_IFMT == unix.S_IFSOCK {
			continue // means nothing without its process
		}
		if err := fn(e); err != nil {
			return err
		}
		if e.IsDir() {
			if err := walk(ctx, t, e.Path, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// synthetic is the entry of a directory that belongs to the output and not to a tree.
func synthetic(p *Part) *treehash.Entry {
	return &treehash.Entry{Path: "/" + p.Dir, Mode: unix.S_IFDIR | 0o755, MTime: p.mtime(&treehash.Entry{MTime: time.Unix(0, 0)})}
}
