package treehash

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/boxbuild/boxbuild/solver"
)

// maxLinks is how many symlinks the resolution of one path may meet: as many as the kernel allows, many times over.
const maxLinks = 255

// An Item is one entry that a Selector picks.
type Item struct {
	// Source is the path of the Selector that picked the entry, with wildcards expanded, before symlinks were resolved.
	// Its last component is the name that a copy of the source has.
	Source string
	// Rel is the path of the entry below what Source names; empty for that itself, which comes first.
	Rel   string
	Entry *Entry
	// Way says that the entry is a directory that the patterns do not pick, but only something in it.
	Way bool
}

// Match returns the entries that sel picks from t: for each path that is selected the entry there, then what is below
// it, parents before children, sorted by name in each directory. A nil sel picks everything. A wildcard that matches
// nothing picks nothing; a literal path that is not there is an error that wraps fs.ErrNotExist.
func Match(ctx context.Context, t Tree, sel *solver.Selector) ([]Item, error) {
	f, err := newFilter(sel)
	if err != nil {
		return nil, err
	}
	srcs, err := sources(ctx, t, sel)
	if err != nil {
		return nil, err
	}
	w := &matchWalk{t: t, f: f}
	for _, s := range srcs {
		w.source = s.path
		w.out = append(w.out, Item{Source: s.path, Entry: s.entry})
		if s.entry.IsDir() {
			if _, err := w.dir(ctx, s.entry.Path, "", State{}); err != nil {
				return nil, err
			}
		}
	}
	return w.out, nil
}

func newFilter(sel *solver.Selector) (*Filter, error) {
	if sel == nil {
		return nil, nil
	}
	return NewFilter(sel.Include, sel.Exclude)
}

type matchWalk struct {
	t      Tree
	f      *Filter
	source string
	out    []Item
}

// dir appends what is picked in the directory, and says whether that is anything.
func (w *matchWalk) dir(ctx context.Context, dir, rel string, st State) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	list, err := w.t.List(ctx, dir)
	if err != nil {
		return false, err
	}
	any := false
	for _, e := range list {
		r := join(rel, path.Base(e.Path))
		v, sub, err := w.f.Check(r, st)
		if err != nil {
			return false, err
		}
		if v == Skip || v == Walk && !e.IsDir() {
			continue
		}
		mark := len(w.out)
		w.out = append(w.out, Item{Source: w.source, Rel: r, Entry: e, Way: v == Walk})
		found := v == Pick
		if e.IsDir() {
			below, err := w.dir(ctx, e.Path, r, sub)
			if err != nil {
				return false, err
			}
			found = found || below
		}
		if !found {
			w.out = w.out[:mark]
		}
		any = any || found
	}
	return any, nil
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// A source is a path that a Selector selects, and the entry that it leads to.
type source struct {
	path  string
	entry *Entry
	wild  bool // found by a wildcard
}

// sources resolves the paths of a Selector.
func sources(ctx context.Context, t Tree, sel *solver.Selector) ([]source, error) {
	if sel == nil || len(sel.Paths) == 0 {
		e, err := t.Lookup(ctx, "/")
		if err != nil {
			return nil, err
		}
		return []source{{path: "/", entry: e}}, nil
	}
	var out []source
	for _, p := range sel.Paths {
		p = path.Join("/", p)
		if sel.Wildcard && HasWildcard(p) {
			found, err := glob(ctx, t, p, sel.Follow)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
			continue
		}
		e, err := Resolve(ctx, t, p, sel.Follow)
		if err != nil {
			return nil, err
		}
		out = append(out, source{path: p, entry: e})
	}
	return out, nil
}

// glob expands a path with wildcards. Symlinks before the first component with a wildcard are followed, later ones are
// not, and one that is matched is if follow is set.
func glob(ctx context.Context, t Tree, p string, follow bool) ([]source, error) {
	comps := strings.Split(strings.TrimPrefix(p, "/"), "/")
	n := 0
	for n < len(comps) && !HasWildcard(comps[n]) {
		n++
	}
	base, err := Resolve(ctx, t, "/"+strings.Join(comps[:n], "/"), follow)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := []source{{path: path.Join("/", strings.Join(comps[:n], "/")), entry: base, wild: true}}
	for _, c := range comps[n:] {
		var next []source
		for _, s := range found {
			if !s.entry.IsDir() {
				continue
			}
			list, err := t.List(ctx, s.entry.Path)
			if err != nil {
				return nil, err
			}
			for _, e := range list {
				if name := path.Base(e.Path); matchName(c, name) {
					next = append(next, source{path: path.Join(s.path, name), entry: e, wild: true})
				}
			}
		}
		found = next
	}
	if !follow {
		return found, nil
	}
	for i := range found {
		if found[i].entry.IsSymlink() {
			if found[i].entry, err = Resolve(ctx, t, found[i].entry.Path, true); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// Resolve returns the entry that the path p leads to. Symlinks on the way are followed inside the tree, as if its root
// was the root of the file system; the last component is followed only if follow is set. The error for a path that
// is not there wraps fs.ErrNotExist and names p as it was given.
func Resolve(ctx context.Context, t Tree, p string, follow bool) (*Entry, error) {
	e, err := t.Lookup(ctx, path.Join("/", p))
	if err == nil && (!follow || !e.IsSymlink()) {
		return e, nil
	}
	if err != nil && !isNotExist(err) {
		return nil, err
	}
	return resolveLinks(ctx, t, p, follow)
}

func resolveLinks(ctx context.Context, t Tree, p string, follow bool) (*Entry, error) {
	rest := strings.Split(p, "/")
	cur, links := "/", 0
	e, err := t.Lookup(ctx, "/")
	if err != nil {
		return nil, err
	}
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
		default:
			cur = path.Join(cur, c)
		}
		if e, err = t.Lookup(ctx, cur); isNotExist(err) {
			return nil, notFound(p)
		} else if err != nil {
			return nil, err
		}
		if !e.IsSymlink() || len(rest) == 0 && !follow {
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("resolving %q: %w", p, syscall.ELOOP)
		}
		rest = append(strings.Split(e.Link, "/"), rest...)
		cur = path.Dir(cur)
		if strings.HasPrefix(e.Link, "/") {
			cur = "/"
		}
	}
	return e, nil
}

// A notFoundError is fs.ErrNotExist in the words that users of Dockerfiles know.
type notFoundError struct{ path string }

func (e *notFoundError) Error() string { return fmt.Sprintf("%q: not found", e.path) }
func (e *notFoundError) Unwrap() error { return fs.ErrNotExist }

func notFound(p string) error { return &notFoundError{p} }
