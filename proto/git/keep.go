package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writeKept writes the tree of t into dir with a repository of its own, which has this one commit.
func (o *checkout) writeKept(ctx context.Context, m *mirror, t *tree, dir string) error {
	gitDir := t.gitDirOf(dir)
	if err := os.MkdirAll(filepath.Dir(gitDir), 0o755); err != nil {
		return err
	}
	run := func(files bool, args ...string) error {
		_, err := o.c.run(ctx, &command{args: args, gitDir: gitDir, tree: dir, files: files, quiet: true})
		return err
	}
	if err := run(false, initArgs(len(t.commit))...); err != nil {
		return err
	}
	specs, err := o.refsToKeep(ctx, m, t)
	if err != nil {
		return err
	}
	// Over the file protocol, not by copying the mirror's files: only what this commit needs comes along.
	args := []string{"fetch", "--quiet", "--update-head-ok", "--depth=1", "--no-tags", "--no-write-fetch-head"}
	if err := run(true, append(append(args, "--", "file://"+m.dir), specs...)...); err != nil {
		return err
	}
	if err := run(false, "checkout", "--quiet", "--detach", t.commit); err != nil {
		return err
	}
	for _, kv := range [][2]string{
		{"remote.origin.url", Redact(t.remote.URL)}, {"remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"},
	} {
		if err := o.c.setConfig(ctx, gitDir, kv[0], kv[1]); err != nil {
			return err
		}
	}
	if t.gitDir == "" {
		return o.c.unsetWorktree(ctx, gitDir)
	}
	return o.c.linkRepository(ctx, gitDir, dir)
}

// maxTags is how many tags of a commit are kept.
const maxTags = 100

// refsToKeep returns what to fetch from the mirror of t into its own repository: the commit, under the name that it was
// found at, and the tags of that commit, so that "git describe" can say what was built.
func (o *checkout) refsToKeep(ctx context.Context, m *mirror, t *tree) ([]string, error) {
	spec := keepRef(t.commit)
	if t.ref != "" {
		spec += ":" + t.ref
	}
	specs := []string{spec}
	if t.depth > 0 {
		return specs, nil
	}
	commit, err := o.c.run(ctx, &command{
		args: []string{"rev-parse", "--verify", t.commit + "^{commit}"}, gitDir: m.dir, quiet: true,
	})
	if err != nil {
		return nil, err
	}
	acc, err := o.c.open(&t.remote)
	if err != nil {
		return nil, err
	}
	defer acc.close()
	out, err := o.c.run(ctx, &command{args: []string{"ls-remote", "--tags", "--", acc.url}, access: acc, quiet: true})
	if err != nil {
		return nil, fmt.Errorf("fetching remote %s: %w", acc.url, err)
	}
	refs := parseRefs(string(out))
	for _, name := range tagsOf(refs, strings.TrimSpace(string(commit))) {
		if name == t.ref {
			continue
		}
		if err := o.c.fetch(ctx, m, &t.remote, refs[name], name); err != nil {
			return nil, err
		}
		specs = append(specs, keepRef(refs[name])+":"+name)
	}
	return specs, nil
}

// tagsOf returns the tags of a commit in order, light and annotated.
func tagsOf(refs map[string]string, commit string) []string {
	var names []string
	for name, hash := range refs {
		peeled := refs[name+"^{}"]
		if strings.HasPrefix(name, "refs/tags/") && !strings.HasSuffix(name, "^{}") && IsHash(hash) &&
			(hash == commit || peeled == commit) && CheckRef(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxTags)]
}

// unsetWorktree removes the absolute path of the tree, which init writes where it thinks that it differs from the usual.
func (c *Client) unsetWorktree(ctx context.Context, gitDir string) error {
	_, err := c.run(ctx, &command{
		args: []string{"config", "--file", filepath.Join(gitDir, "config"), "--unset-all", "core.worktree"}, quiet: true,
	})
	var e *Error
	if errors.As(err, &e) && e.exit() == 5 { // there is none
		return nil
	}
	return err
}

// linkRepository joins a tree and its repository elsewhere by relative paths, as git does for submodules.
func (c *Client) linkRepository(ctx context.Context, gitDir, dir string) error {
	up, err := filepath.Rel(gitDir, dir)
	if err != nil {
		return err
	}
	down, err := filepath.Rel(dir, gitDir)
	if err != nil {
		return err
	}
	if err := c.setConfig(ctx, gitDir, "core.worktree", up); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".git"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString("gitdir: " + down + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
