package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth is how deep submodules may nest.
const maxDepth = 32

// A checkout is one call of Checkout.
type checkout struct {
	c      *Client
	budget *budget
	keep   bool
	skip   bool
}

// Checkout writes the tree that src names into dir, which is an empty directory that nobody else writes to: files have
// mode 0644 or 0755, and belong to the user of this process. On an error dir has any part of it.
func (c *Client) Checkout(ctx context.Context, src *Source, dir string) error {
	if !IsHash(src.Commit) {
		return fmt.Errorf("invalid commit sha %q", src.Commit)
	}
	if err := CheckRef(src.Ref); err != nil {
		return err
	}
	subdir := strings.TrimPrefix(path.Join("/", src.Subdir), "/")
	o := &checkout{c: c, budget: c.newBudget(), keep: src.KeepDir && subdir == "", skip: src.SkipSubmodules}
	t := &tree{remote: src.Remote, commit: src.Commit, ref: src.Ref}
	m, done, err := o.fetch(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	if subdir == "" {
		err = o.write(ctx, m, t, dir)
	} else {
		err = o.writeSubdir(ctx, m, t, subdir, dir)
	}
	if err != nil || !src.CommitTime {
		return err
	}
	when, err := c.commitTime(ctx, m, src.Commit)
	if err != nil {
		return err
	}
	return setTimes(dir, when)
}

// A tree is a commit of a repository while it is written: the one that was asked for, or one of its submodules.
type tree struct {
	remote Remote
	commit string
	ref    string
	depth  int
	// gitDir is where .git is, of a tree that keeps it; empty for dir/.git.
	gitDir string
}

// fetch brings the commit of t into a mirror.
func (o *checkout) fetch(ctx context.Context, t *tree) (m *mirror, done func(), err error) {
	a, err := parseRemote(t.remote.URL)
	if err != nil {
		return nil, nil, err
	}
	m, done = o.c.acquire(a.url, len(t.commit))
	if err := o.c.fetch(ctx, m, &t.remote, t.commit, t.ref); err != nil {
		done()
		return nil, nil, err
	}
	return m, done, nil
}

// write writes the whole tree of t into dir.
func (o *checkout) write(ctx context.Context, m *mirror, t *tree, dir string) error {
	l, err := o.c.list(ctx, m, t.commit, "", o.budget)
	if err != nil {
		return err
	}
	if o.keep {
		err = o.writeKept(ctx, m, t, dir)
	} else {
		var index string
		if index, err = o.c.tempName("index-"); err != nil {
			return err
		}
		defer func() { _ = os.Remove(index) }()
		_, err = o.c.run(ctx, &command{
			args: []string{"read-tree", "-m", "-u", t.commit}, gitDir: m.dir, tree: dir, index: index, quiet: true,
		})
	}
	if err != nil {
		return fmt.Errorf("writing the files of commit %s: %w", t.commit, err)
	}
	return o.submodules(ctx, m, t, l, dir)
}

// writeSubdir writes one directory of the tree of t into dir. It is first written with its path, below a directory in
// dir, for attributes of its parents may count for it.
func (o *checkout) writeSubdir(ctx context.Context, m *mirror, t *tree, subdir, dir string) error {
	link, rest, err := o.c.descend(ctx, m, t.commit, subdir)
	if err != nil {
		return fmt.Errorf("invalid subdir %s: %w", subdir, err)
	}
	if link != nil {
		return o.subdirOfSubmodule(ctx, m, t, link, rest, dir)
	}
	l, err := o.c.list(ctx, m, t.commit, subdir, o.budget)
	if err != nil {
		return err
	}
	if l.empty {
		return nil
	}
	stage, err := os.MkdirTemp(dir, ".boxbuild-")
	if err != nil {
		return err
	}
	index, err := o.c.tempName("index-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(index) }()
	for _, args := range [][]string{{"read-tree", t.commit}, {"checkout", "--quiet", "--", subdir}} {
		cmd := &command{args: args, gitDir: m.dir, tree: stage, index: index, quiet: true}
		if _, err := o.c.run(ctx, cmd); err != nil {
			return fmt.Errorf("writing the files of commit %s: %w", t.commit, err)
		}
	}
	if err := o.submodules(ctx, m, t, l, stage); err != nil {
		return err
	}
	if err := lift(stage, subdir, dir); err != nil {
		return fmt.Errorf("invalid subdir %s: %w", subdir, err)
	}
	return os.RemoveAll(stage)
}

// subdirOfSubmodule writes the directory rest of the submodule at link.
func (o *checkout) subdirOfSubmodule(ctx context.Context, m *mirror, t *tree, link *gitlink, rest, dir string) error {
	if o.skip {
		if rest == "" {
			return nil // an empty directory, as it is everywhere
		}
		return fmt.Errorf("the directory %q is in a submodule, which is not fetched", path.Join(link.path, rest))
	}
	conf, err := o.c.modules(ctx, m, t.commit)
	if err != nil {
		return err
	}
	sub, err := t.submodule(conf, *link)
	if err != nil {
		return err
	}
	if sub == nil {
		return fmt.Errorf("the directory %q is in a submodule, which is not fetched", path.Join(link.path, rest))
	}
	sm, done, err := o.fetch(ctx, &sub.tree)
	if err != nil {
		return fmt.Errorf("updating submodule %s: %w", link.path, err)
	}
	defer done()
	if rest == "" {
		return o.write(ctx, sm, &sub.tree, dir)
	}
	return o.writeSubdir(ctx, sm, &sub.tree, rest, dir)
}

// tempName returns the name of a file in the scratch directory that does not exist.
func (c *Client) tempName(prefix string) (string, error) {
	f, err := os.CreateTemp(c.scratch(), prefix)
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), os.Remove(f.Name()))
}

// lift moves what is in stage/subdir to dir. No component of subdir may be a symlink.
func lift(stage, subdir, dir string) error {
	from, err := openDir(stage, subdir)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	for _, n := range names {
		// The only other name in dir is that of stage, which nobody knew.
		if err := unix.Renameat2(int(from.Fd()), n, int(to.Fd()), n, unix.RENAME_NOREPLACE); err != nil {
			return &os.PathError{Op: "rename", Path: path.Join(subdir, n), Err: err}
		}
	}
	return nil
}

// openDir opens the directory sub below root, without following any symlink below root.
func openDir(root, sub string) (*os.File, error) {
	r, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	fd, err := unix.Openat2(int(r.Fd()), sub, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: sub, Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(root, sub)), nil
}

// setTimes gives dir and everything below the time t. Directories come after what is in them.
func setTimes(dir string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	var all []string
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(all) {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return &os.PathError{Op: "utimensat", Path: p, Err: err}
		}
	}
	return nil
}
