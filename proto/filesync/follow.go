package filesync

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// Bounds on following: how many symlinks the paths of one selection may lead through, how many one path, and how long it
// may become. A symlink like "x -> x/y" makes a path longer without end.
const (
	maxFollowed = 10_000
	maxChain    = 255
	maxPath     = 8192
)

// followLinks turns paths or patterns into include patterns: the paths themselves, every symlink on the way, and what
// the symlinks lead to, all inside the root. The result is sorted, without what is below another of its paths, and nil
// if the root itself is among them. A path that is not there is no error here; whoever reads it will say so.
func followLinks(root int, paths []string) ([]string, error) {
	f := &follower{root: root, picked: map[string]bool{}, seen: map[string]bool{}}
	for _, p := range paths {
		if err := f.add(strings.TrimPrefix(path.Join("/", p), "/"), true); err != nil {
			return nil, err
		}
	}
	all := make([]string, 0, len(f.picked))
	for p := range f.picked {
		if p == "" {
			return nil, nil
		}
		all = append(all, p)
	}
	slices.Sort(all)
	out := all[:0]
	for _, p := range all {
		if len(out) == 0 || !strings.HasPrefix(p, out[len(out)-1]+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

type follower struct {
	root   int
	picked map[string]bool // include patterns
	seen   map[string]bool // paths that have been added
	links  int
	chain  int // symlinks that led to the path that is being added
}

// add follows one path. pattern says that it is the user's, where a wildcard means something; a symlink's target is
// just a name. A path that leads on too long is given up without an error, as one that is not there: it need not be one
// that is read.
func (f *follower) add(p string, pattern bool) error {
	if key := fmt.Sprintf("%t %s", pattern, p); f.seen[key] {
		return nil
	} else {
		f.seen[key] = true
	}
	if f.chain > maxChain || len(p) > maxPath {
		return nil
	}
	f.chain++
	defer func() { f.chain-- }()
	comps := strings.Split(p, "/")
	for i, c := range comps {
		dir, cur := strings.Join(comps[:i], "/"), strings.Join(comps[:i+1], "/")
		links, err := f.linksAt(dir, c, pattern && treehash.HasWildcard(c))
		if err != nil {
			return err
		}
		rest := strings.Join(comps[i+1:], "/")
		if len(links) > 0 || rest == "" {
			f.pick(cur, pattern)
		}
		for _, to := range links {
			if f.links++; f.links > maxFollowed {
				return fmt.Errorf("following %.300q: %w", p, unix.ELOOP)
			}
			// The rest of a pattern is still one; the part that came from the link must then not look like one.
			if pattern && treehash.HasWildcard(rest) {
				to = escape(to)
			}
			next := strings.TrimPrefix(path.Join("/", to, rest), "/")
			if err := f.add(next, pattern && treehash.HasWildcard(rest)); err != nil {
				return err
			}
		}
		if len(links) > 0 && !(pattern && treehash.HasWildcard(c)) {
			return nil
		}
	}
	return nil
}

func (f *follower) pick(p string, pattern bool) {
	if !pattern {
		p = escape(p)
	}
	f.picked[p] = true
}

// linksAt returns the targets, as paths in the root, of the symlinks in dir that have the name, or match it.
func (f *follower) linksAt(dir, name string, wildcard bool) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	fd, err := dirfd.Open(f.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if dirfd.Gone(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("following symlinks in %q: %w", dir, err)
	}
	defer dirfd.Close(fd)
	names := []string{name}
	if wildcard {
		names = nil
		err := dirfd.List(fd, func(n dirfd.Name) error {
			s := string(n.Bytes())
			if ok, err := filepath.Match(name, s); err == nil && ok && (n.Type == unix.DT_LNK || n.Type == unix.DT_UNKNOWN) {
				names = append(names, s)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("following symlinks in %q: %w", dir, err)
		}
	}
	var out []string
	for _, n := range names {
		to, err := dirfd.Readlink(fd, n)
		if dirfd.Gone(err) || errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("following symlinks in %q: %w", dir, err)
		}
		if !strings.HasPrefix(to, "/") {
			to = path.Join("/", dir, to)
		}
		out = append(out, path.Clean(to))
	}
	slices.Sort(out)
	return out, nil
}

// escape makes a pattern that matches the path alone.
func escape(p string) string {
	if !strings.ContainsAny(p, `*?[]\^`) {
		return p
	}
	var b strings.Builder
	for i := range len(p) {
		if strings.IndexByte(`*?[]\^`, p[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(p[i])
	}
	return b.String()
}
