package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A Bundle opens a Git bundle: a file that has commits with their history, or a part of it, and names for some.
type Bundle func(ctx context.Context) (io.ReadCloser, error)

// bundleFile is what the file of a checked-out bundle is called, as BuildKit calls it.
const bundleFile = "bundle"

// receive writes a bundle to a scratch file. release removes it.
func (c *Client) receive(ctx context.Context, b Bundle) (path string, release func(), err error) {
	r, err := b(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("fetching git bundle: %w", err)
	}
	defer r.Close()
	f, err := os.CreateTemp(c.scratch(), "bundle-")
	if err != nil {
		return "", nil, err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", nil, fmt.Errorf("fetching git bundle: %w", err)
	}
	return f.Name(), func() { _ = os.Remove(f.Name()) }, nil
}

// resolveBundle is Resolve for a ref that the remote's bundle has.
func (c *Client) resolveBundle(ctx context.Context, q *Query) (Resolved, error) {
	file, release, err := c.receive(ctx, q.Remote.Bundle)
	if err != nil {
		return Resolved{}, err
	}
	defer release()
	out, err := c.run(ctx, &command{args: []string{"ls-remote", "--", file}, files: true, quiet: true})
	if err != nil {
		return Resolved{}, fmt.Errorf("inspecting git bundle: %w", err)
	}
	return pick(parseRefs(string(out)), q, "the bundle")
}

// unbundle brings a commit from a bundle into m.
func (c *Client) unbundle(ctx context.Context, m *mirror, b Bundle, hash string) error {
	file, release, err := c.receive(ctx, b)
	if err != nil {
		return err
	}
	defer release()
	args := []string{
		"fetch", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules", "--", file, "+refs/*:refs/remote/*",
	}
	if _, err := c.run(ctx, &command{args: args, gitDir: m.dir, files: true, quiet: true}); err != nil {
		return fmt.Errorf("importing git bundle: %w", err)
	}
	if err := c.keep(ctx, m, hash); err != nil {
		return fmt.Errorf("commit %s not found in bundle", hash)
	}
	return nil
}

// bundleRef is the name that a commit has in a bundle: that of its branch or tag, or of a branch if it has none. Without a
// name nothing could be fetched from a bundle.
func bundleRef(ref string) string {
	switch {
	case ref == "" || IsHash(ref):
		return "refs/heads/main"
	case strings.HasPrefix(ref, "refs/tags/"):
		return ref
	}
	return "refs/heads/" + strings.TrimPrefix(strings.TrimPrefix(ref, "refs/"), "heads/")
}

// CheckoutBundle writes a bundle of the commit that src names, with all of its history, to the file "bundle" in dir, an
// empty directory that nobody else writes to. Submodules are not in it.
func (c *Client) CheckoutBundle(ctx context.Context, src *Source, dir string) error {
	if !IsHash(src.Commit) {
		return fmt.Errorf("invalid commit sha %q", src.Commit)
	}
	if err := CheckRef(src.Ref); err != nil {
		return err
	}
	a, err := parseRemote(src.Remote.URL)
	if err != nil {
		return err
	}
	m, done := c.acquire(a.url, len(src.Commit))
	defer done()
	if err := c.fetch(ctx, m, &src.Remote, src.Commit, src.Ref); err != nil {
		return err
	}
	if err := c.deepen(ctx, m, &src.Remote, src.Commit); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(c.scratch(), "bundling-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	// In a repository of its own, since the bundle has the names of the one that it is made in.
	repo, file := filepath.Join(tmp, "repo"), filepath.Join(tmp, "out")
	name := bundleRef(src.Ref)
	for _, cmd := range []*command{
		{args: initArgs(len(src.Commit), "--bare")},
		{args: []string{"fetch", "--no-tags", "--no-write-fetch-head", "--", "file://" + m.dir, keepRef(src.Commit) + ":" + name}, files: true},
		{args: []string{"bundle", "create", "--quiet", file, name}},
	} {
		cmd.gitDir, cmd.quiet = repo, true
		if _, err := c.run(ctx, cmd); err != nil {
			return fmt.Errorf("creating a git bundle of %s: %w", src.Commit, err)
		}
	}
	return copyNew(file, filepath.Join(dir, bundleFile))
}

// deepen gives m the history of a commit.
func (c *Client) deepen(ctx context.Context, m *mirror, r *Remote, hash string) error {
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "shallow")); err != nil {
		return nil //nolint:nilerr // nothing is left out
	}
	acc, err := c.open(r)
	if err != nil {
		return err
	}
	defer acc.close()
	if err := c.fetchRefs(ctx, m, acc, "--unshallow", hash+":"+keepRef(hash)); err != nil {
		if !isRefusal(err) {
			return fmt.Errorf("fetching remote %s: %w", acc.url, err)
		}
		if err := c.fetchRefs(ctx, m, acc, "--unshallow", "+refs/*:refs/remote/*"); err != nil {
			return fmt.Errorf("fetching remote %s: %w", acc.url, err)
		}
	}
	return nil
}

// copyNew copies a file to a name that nothing has.
func copyNew(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
