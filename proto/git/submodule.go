package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// parallel is how many submodules of one repository are worked on at once.
const parallel = 4

// A module is a section of .gitmodules.
type module struct {
	name, path, url, update string
}

// modules reads .gitmodules of a commit: sections by path. A repository without one has none.
func (c *Client) modules(ctx context.Context, m *mirror, commit string) (map[string]*module, error) {
	text, err := c.run(ctx, &command{
		args: []string{"cat-file", "blob", commit + ":.gitmodules"}, gitDir: m.dir, quiet: true,
	})
	if err != nil {
		if said(err, "does not exist in", "Not a valid object name", "bad file") {
			return nil, nil
		}
		return nil, fmt.Errorf("reading .gitmodules: %w", err)
	}
	// --no-includes: a configuration file may name others, of this machine.
	out, err := c.run(ctx, &command{
		args:   []string{"config", "--file", "-", "--no-includes", "--null", "--list"},
		gitDir: m.dir, stdin: bytes.NewReader(text), quiet: true,
	})
	if err != nil {
		return nil, fmt.Errorf("reading .gitmodules: %w", err)
	}
	return parseModules(string(out)), nil
}

// parseModules reads the output of "config --null --list": a name, a newline, a value. The last of equal names counts,
// as for git.
func parseModules(out string) map[string]*module {
	sections := map[string]*module{}
	for entry := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		rest, ok := strings.CutPrefix(key, "submodule.")
		i := strings.LastIndexByte(rest, '.')
		if !ok || i < 0 {
			continue
		}
		name, field := rest[:i], rest[i+1:]
		s := sections[name]
		if s == nil {
			s = &module{name: name}
			sections[name] = s
		}
		switch field {
		case "path":
			s.path = value
		case "url":
			s.url = value
		case "update":
			s.update = value
		}
	}
	byPath := map[string]*module{}
	for _, s := range sections {
		if s.path == "" {
			continue
		}
		p := strings.TrimSuffix(s.path, "/")
		// Two sections for one path are the repository's mistake; which one counts must not be left to chance.
		if old := byPath[p]; old == nil || s.name < old.name {
			byPath[p] = s
		}
	}
	return byPath
}

// A submodule is a gitlink with its section.
type submodule struct {
	tree
	name, path, url string
}

// submodule returns what the gitlink link of t stands for; nil if it is not to be fetched.
func (t *tree) submodule(conf map[string]*module, link gitlink) (*submodule, error) {
	mod := conf[link.path]
	if mod == nil || mod.url == "" {
		return nil, fmt.Errorf("no url found for submodule path %q in .gitmodules", link.path)
	}
	switch {
	case mod.update == "none":
		return nil, nil
	case strings.HasPrefix(mod.update, "!"):
		return nil, fmt.Errorf("submodule %s: its update command in .gitmodules is not run", link.path)
	}
	// The name becomes a path in a kept .git directory.
	if err := checkModuleName(mod.name); err != nil {
		return nil, err
	}
	if t.depth >= maxDepth {
		return nil, fmt.Errorf("submodule %s: more than %d levels of submodules", link.path, maxDepth)
	}
	remote, err := t.remote.submodule(mod.url)
	if err != nil {
		return nil, fmt.Errorf("submodule %s: %w", link.path, err)
	}
	return &submodule{
		tree: tree{remote: remote, commit: link.hash, depth: t.depth + 1},
		name: mod.name, path: link.path, url: remote.URL,
	}, nil
}

// checkModuleName is git's check: a name has no component "..".
func checkModuleName(name string) error {
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == ".." {
			return fmt.Errorf("invalid submodule name %q", name)
		}
	}
	if name == "" || path.IsAbs(name) || strings.HasPrefix(name, "-") {
		return fmt.Errorf("invalid submodule name %q", name)
	}
	return nil
}

// submodules writes the submodules of t, whose tree has been written into dir.
func (o *checkout) submodules(ctx context.Context, m *mirror, t *tree, l *listing, dir string) error {
	if o.skip || len(l.links) == 0 {
		return nil
	}
	conf, err := o.c.modules(ctx, m, t.commit)
	if err != nil {
		return err
	}
	var subs []*submodule
	for _, link := range l.links {
		sub, err := t.submodule(conf, link)
		if err != nil {
			return err
		}
		if sub == nil {
			continue
		}
		if o.keep {
			sub.gitDir = filepath.Join(t.gitDirOf(dir), "modules", filepath.FromSlash(sub.name))
		}
		subs = append(subs, sub)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, sub := range subs {
		g.Go(func() error {
			if err := o.writeSubmodule(gctx, sub, dir); err != nil {
				return fmt.Errorf("updating submodule %s: %w", sub.path, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if o.keep {
		return o.register(ctx, t, subs, dir)
	}
	return nil
}

// writeSubmodule writes one submodule of the tree in dir. Git has made its directory, empty.
func (o *checkout) writeSubmodule(ctx context.Context, sub *submodule, dir string) error {
	f, err := openDir(dir, sub.path)
	if err != nil {
		return err
	}
	left, err := f.Readdirnames(1)
	_ = f.Close() // it was only read
	if len(left) > 0 {
		return fmt.Errorf("its directory is not empty: it has %q", left[0])
	}
	m, done, err := o.fetch(ctx, &sub.tree)
	if err != nil {
		return err
	}
	defer done()
	return o.write(ctx, m, &sub.tree, filepath.Join(dir, filepath.FromSlash(sub.path)))
}

// gitDirOf returns where the .git directory of t is, whose files are in dir.
func (t *tree) gitDirOf(dir string) string {
	if t.gitDir != "" {
		return t.gitDir
	}
	return filepath.Join(dir, ".git")
}

// register notes submodules in the configuration of their parent, as "git submodule init" does.
func (o *checkout) register(ctx context.Context, t *tree, subs []*submodule, dir string) error {
	gitDir := t.gitDirOf(dir)
	for _, s := range subs {
		for _, kv := range [][2]string{{"active", "true"}, {"url", Redact(s.url)}} {
			key := "submodule." + s.name + "." + kv[0]
			if err := o.c.setConfig(ctx, gitDir, key, kv[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Client) setConfig(ctx context.Context, gitDir, key, value string) error {
	_, err := c.run(ctx, &command{
		args: []string{"config", "--file", filepath.Join(gitDir, "config"), "--", key, value}, quiet: true,
	})
	if err != nil {
		return fmt.Errorf("writing the repository's configuration: %w", err)
	}
	return nil
}

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
	spec := keepRef(t.commit)
	if t.ref != "" {
		spec += ":" + t.ref
	}
	// Over the file protocol, not by copying the mirror's files: only what this commit needs comes along.
	args := []string{"fetch", "--quiet", "--update-head-ok", "--depth=1", "--no-tags", "--no-write-fetch-head"}
	if err := run(true, append(args, "--", "file://"+m.dir, spec)...); err != nil {
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
