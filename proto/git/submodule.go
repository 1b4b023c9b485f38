package git

import (
	"bytes"
	"context"
	"fmt"
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
	if name == "" || name == "." || path.Clean(name) != name || path.IsAbs(name) || strings.HasPrefix(name, "-") {
		return fmt.Errorf("invalid submodule name %q", name)
	}
	return nil
}

// checkNested refuses names of which one is a directory in another: the repository of the one would be among the files
// of that of the other.
func checkNested(subs []*submodule) error {
	names := map[string]bool{}
	for _, s := range subs {
		names[s.name] = true
	}
	for _, s := range subs {
		for p := path.Dir(s.name); p != "."; p = path.Dir(p) {
			if names[p] {
				return fmt.Errorf("invalid submodule name %q: its directory is inside that of %q", s.name, p)
			}
		}
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
	if err := checkNested(subs); err != nil {
		return err
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
	left, _ := f.Readdirnames(1) // its end is an error too
	_ = f.Close()                // it was only read
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
