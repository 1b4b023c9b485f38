package git

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
)

// A budget is what one checkout may still write, over all its submodules.
type budget struct {
	entries, bytes       atomic.Int64 // left
	maxEntries, maxBytes int64
}

func (c *Client) newBudget() *budget {
	b := &budget{maxEntries: c.opt.MaxEntries, maxBytes: c.opt.MaxTree}
	b.entries.Store(b.maxEntries)
	b.bytes.Store(b.maxBytes)
	return b
}

// spend takes an entry with that many bytes.
func (b *budget) spend(bytes int64) error {
	if b.entries.Add(-1) < 0 {
		return fmt.Errorf("the tree has more than the %d entries allowed", b.maxEntries)
	}
	if b.bytes.Add(-bytes) < 0 {
		return fmt.Errorf("the files of the tree have more than the %d bytes allowed", b.maxBytes)
	}
	return nil
}

// A listing is what a checkout has to know about a tree beforehand.
type listing struct {
	empty bool
	links []gitlink // submodules, in order
}

// A gitlink is a submodule's place in a tree.
type gitlink struct {
	path string // relative, clean
	hash string // of its commit
}

// maxLinks is how many submodules one repository may have.
const maxLinks = 2000

// list walks the tree of a commit below subdir and takes it off the budget. It is read before anything is written: a
// tree of a few kilobytes can name the same subtree millions of times.
func (c *Client) list(ctx context.Context, m *mirror, commit, subdir string, b *budget) (*listing, error) {
	args := []string{"ls-tree", "-r", "-z", "--full-tree", "--long", commit}
	if subdir != "" {
		args = append(args, "--", subdir+"/")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	l := &listing{empty: true}
	go func() {
		err := l.read(pr, b)
		if err != nil {
			stop(err) // git need not go on
		}
		_ = pr.CloseWithError(err)
		done <- err
	}()
	_, err := c.run(ctx, &command{args: args, gitDir: m.dir, stdout: pw, quiet: true})
	_ = pw.Close()
	if rerr := <-done; rerr != nil {
		return nil, rerr
	}
	if err != nil {
		return nil, fmt.Errorf("listing the tree of commit %s: %w", commit, err)
	}
	return l, nil
}

// read reads the output of "ls-tree -r -z --long": mode, type, hash, size, a tab, the path.
func (l *listing) read(r io.Reader, b *budget) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	s.Split(splitZero)
	for s.Scan() {
		head, name, ok := strings.Cut(s.Text(), "\t")
		f := strings.Fields(head)
		if !ok || len(f) != 4 {
			return fmt.Errorf("listing the tree: unexpected line %q", s.Text())
		}
		l.empty = false
		if err := checkPath(name); err != nil {
			return err
		}
		if f[0] == "160000" {
			if !IsHash(f[2]) {
				return fmt.Errorf("submodule %q has the invalid commit %q", name, f[2])
			}
			if l.links = append(l.links, gitlink{name, f[2]}); len(l.links) > maxLinks {
				return fmt.Errorf("the repository has more than the %d submodules allowed", maxLinks)
			}
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil || size < 0 {
			size = 0 // "-", of what is no file
		}
		if err := b.spend(size); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("listing the tree: %w", err)
	}
	return nil
}

func splitZero(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// checkPath refuses a path that is not relative and clean, or has a component that git does not allow. Git would refuse it
// too, after it has compared it with what is in a kept .git directory.
func checkPath(p string) error {
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || strings.EqualFold(part, ".git") {
			return fmt.Errorf("invalid path %q", p)
		}
	}
	return nil
}

// errNotDirectory is the reason why a directory of a tree cannot be used.
func errNotDirectory(subdir, at string) error {
	return fmt.Errorf("git subpath %q contains non-directory %q", subdir, at)
}

// descend follows subdir in the tree of a commit. Every component has to be a directory; a symlink is none. If one is a
// submodule, it is returned with what is left of the path.
func (c *Client) descend(ctx context.Context, m *mirror, commit, subdir string) (link *gitlink, rest string, err error) {
	if err := checkPath(subdir); err != nil {
		return nil, "", err
	}
	parts := strings.Split(subdir, "/")
	for i := range parts {
		at := path.Join(parts[:i+1]...)
		out, err := c.run(ctx, &command{
			args: []string{"ls-tree", "-z", "--full-tree", commit, "--", at}, gitDir: m.dir, quiet: true,
		})
		if err != nil {
			return nil, "", fmt.Errorf("looking for %s in commit %s: %w", at, commit, err)
		}
		head, _, ok := strings.Cut(string(out), "\t")
		f := strings.Fields(head)
		switch {
		case !ok || len(f) != 3:
			return nil, "", fmt.Errorf("the repository has no directory %q: %q is not there", subdir, at)
		case f[0] == "160000":
			return &gitlink{at, f[2]}, path.Join(parts[i+1:]...), nil
		case f[0] != "040000":
			return nil, "", errNotDirectory(subdir, at)
		}
	}
	return nil, "", nil
}
