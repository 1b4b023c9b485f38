package dockerfile

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A fakeEnv is a builder whose directories and images are in memory. It answers as a real one does: a directory's root
// depends on what is asked for, and only that can be read.
type fakeEnv struct {
	dirs   map[string]map[string]string // by the name of the Local
	images map[string]string            // JSON of the configuration by reference; "*" for any other
	urls   map[string]string            // what they have; "*" for any other

	mu       sync.Mutex
	steps    []string
	warnings []solver.Warning
	locals   []op.Local // as they were pinned, in order of name
	pins     int
}

func (e *fakeEnv) Pin(_ context.Context, src op.Source) (op.Source, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pins++
	if _, img := src.(*op.Image); src.Pinned() && !img {
		return src, nil
	}
	switch src := src.(type) {
	case *op.Image:
		if _, err := e.config(src.Ref); err != nil {
			return nil, err
		}
		pinned := *src
		if pinned.Digest == "" {
			pinned.Digest = digest.FromString(src.Ref)
		}
		return &pinned, nil
	case *op.OCILayout:
		if _, err := e.config(src.Ref); err != nil {
			return nil, err
		}
		return &op.Image{Ref: src.Ref, Digest: digest.FromString(src.String() + src.Store), Platform: src.Platform}, nil
	case *op.HTTP:
		pinned := *src
		pinned.Digest, pinned.Name = src.Checksum, op.SafeName(src.Filename)
		if src.Checksum == "" {
			text, ok := e.urls[src.URL]
			if !ok {
				text, ok = e.urls["*"]
			}
			if !ok {
				return nil, fmt.Errorf("fetching %s: invalid response status 404", src)
			}
			pinned.Digest = digest.FromString(text)
		}
		return &pinned, nil
	case *op.Git:
		pinned := *src
		pinned.Commit = digest.FromString(src.Remote + "#" + src.Ref + src.Checksum).Encoded()
		if isCommit(src.Ref) {
			pinned.Commit, pinned.Ref = src.Ref, ""
		}
		return &pinned, nil
	case *op.Local:
		dir, ok := e.dirs[src.Name]
		if !ok {
			return nil, fmt.Errorf("directory %q: not found", src.Name)
		}
		h := sha256.New()
		for _, name := range slices.Sorted(maps.Keys(dir)) {
			if size := int64(len(dir[name])); selected(src, name) {
				if src.Largest > 0 && size > src.Largest {
					return nil, &frontend.LargeFileError{Path: "/" + name, Size: size, Max: src.Largest}
				}
				fmt.Fprintf(h, "%q %q\n", name, dir[name])
			}
		}
		pinned := *src
		pinned.Root = hex.EncodeToString(h.Sum(nil))
		e.locals = append(e.locals, pinned)
		slices.SortFunc(e.locals, func(a, b op.Local) int {
			return strings.Compare(a.Name+fmt.Sprint(a.Follow), b.Name+fmt.Sprint(b.Follow))
		})
		return &pinned, nil
	}
	return nil, fmt.Errorf("%T cannot be pinned", src)
}

// selected says whether a file is among what a Local asks for.
func selected(l *op.Local, name string) bool {
	if len(l.Exclude) > 0 {
		if out, err := patternmatcher.MatchesOrParentMatches(name, l.Exclude); err != nil || out {
			return false
		}
	}
	if len(l.Follow) == 0 {
		return true
	}
	in, err := patternmatcher.MatchesOrParentMatches(name, l.Follow)
	return err == nil && in
}

func (e *fakeEnv) config(ref string) (*frontend.ImageConfig, error) {
	text, ok := e.images[ref]
	if !ok {
		if text, ok = e.images["*"]; !ok {
			return nil, fmt.Errorf("%s: not found", ref)
		}
	}
	var c frontend.ImageConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return nil, err
	}
	return &c, nil
}

func (e *fakeEnv) ImageConfig(_ context.Context, img *op.Image) (*frontend.ImageConfig, error) {
	if img.Digest == "" {
		return nil, fmt.Errorf("%s is not pinned", img.Ref)
	}
	return e.config(img.Ref)
}

// ReadHead implements frontend.HeadReader.
func (e *fakeEnv) ReadHead(ctx context.Context, in solver.Input, name string, n int) ([]byte, error) {
	text, err := e.ReadFile(ctx, in, name)
	return text[:min(n, len(text))], err
}

func (e *fakeEnv) ReadFile(_ context.Context, in solver.Input, name string) ([]byte, error) {
	if get, ok := in.Vertex.Op().(*op.HTTP); ok && name == get.Name && get.Pinned() {
		return []byte(e.urls[get.URL]), nil
	}
	if repo, ok := in.Vertex.Op().(*op.Git); ok && repo.Pinned() {
		text, ok := e.urls[repo.Remote+" "+name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}
	if f, ok := in.Vertex.Op().(*op.File); ok && f.Actions[0].Copy.Unpack {
		return e.readUnpacked(in.Vertex.Inputs()[0], name)
	}
	l, ok := in.Vertex.Op().(*op.Local)
	if !ok || l.Root == "" {
		return nil, fmt.Errorf("%s is not a pinned directory", in.Vertex.Name())
	}
	name = path.Clean(name)
	text, ok := e.dirs[l.Name][name]
	if !ok || !selected(l, name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// readUnpacked reads a file of an archive that was fetched.
func (e *fakeEnv) readUnpacked(in solver.Input, name string) ([]byte, error) {
	r := tar.NewReader(strings.NewReader(e.urls[in.Vertex.Op().(*op.HTTP).URL]))
	for {
		h, err := r.Next()
		if err != nil {
			return nil, fs.ErrNotExist
		}
		if h.Name == name {
			return io.ReadAll(r)
		}
	}
}

func (e *fakeEnv) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	e.mu.Lock()
	e.steps = append(e.steps, name)
	e.mu.Unlock()
	return fn(ctx)
}

func (e *fakeEnv) Warn(w solver.Warning) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.warnings = append(e.warnings, w)
}

// A testcase is a request and its surroundings, read from an archive. The comment at its top has one option a line:
//
//	target: name         arg: NAME=value     label: name=value    platform: amd64, or windows/amd64 (repeatable)
//	context: name=value  no-cache: [stage]   pull: yes            grant: network.host
//	main: URL            subdir: path
//
// "Dockerfile" is the Dockerfile, "image REF" an image's configuration, "local NAME/path" a file of another directory
// of the client's, "url URL" what is at a URL, "tar URL NAME" a file of an archive there, "git REMOTE NAME" one of a repository; what begins in small letters otherwise is not part of the case, and all else is in the context.
type testcase struct {
	req *frontend.Request
	env *fakeEnv
	ar  *txtar.Archive
}

func readCase(t testing.TB, file string) *testcase {
	t.Helper()
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return newCase(t, ar)
}

func newCase(t testing.TB, ar *txtar.Archive) *testcase {
	t.Helper()
	ctx := map[string]string{}
	c := &testcase{
		ar: ar,
		env: &fakeEnv{
			dirs: map[string]map[string]string{"context": ctx, "dockerfile": ctx}, images: map[string]string{}, urls: map[string]string{},
		},
		req: &frontend.Request{
			Context: &op.Local{Name: "context"}, Dockerfile: &op.Local{Name: "dockerfile"},
			BuildArgs: map[string]string{}, Labels: map[string]string{}, Contexts: map[string]string{},
			Default: op.Platform{OS: "linux", Architecture: "amd64"},
		},
	}
	for _, f := range ar.Files {
		kind, rest, _ := strings.Cut(f.Name, " ")
		switch kind {
		case "image":
			c.env.images[rest] = string(f.Data)
		case "url", "git":
			c.env.urls[rest] = string(f.Data)
		case "tar":
			url, name, _ := strings.Cut(rest, " ")
			c.env.urls[url] += tarOf(t, name, f.Data)
		case "local":
			dir, name, _ := strings.Cut(rest, "/")
			if c.env.dirs[dir] == nil {
				c.env.dirs[dir] = map[string]string{}
			}
			c.env.dirs[dir][name] = string(f.Data)
		case "want", "buildkit", "differs":
		default:
			ctx[f.Name] = string(f.Data)
		}
	}
	for line := range strings.Lines(string(ar.Comment)) {
		c.option(t, strings.TrimSpace(line))
	}
	return c
}

// tarOf returns a tar with one file and no end.
func tarOf(t testing.TB, name string, data []byte) string {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data) // to memory
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (c *testcase) option(t testing.TB, line string) {
	t.Helper()
	key, val, ok := strings.Cut(line, ":")
	val = strings.TrimSpace(val)
	name, rest, _ := strings.Cut(val, "=")
	if !ok {
		return // prose
	}
	switch key {
	case "target":
		c.req.Target = val
	case "arg":
		c.req.BuildArgs[name] = rest
	case "label":
		c.req.Labels[name] = rest
	case "platform":
		p := op.Platform{OS: "linux", Architecture: val}
		if strings.Contains(val, "/") {
			p = platforms.MustParse(val)
		}
		c.req.Platforms = append(c.req.Platforms, p)
	case "context":
		c.req.Contexts[name] = rest
	case "no-cache":
		c.req.NoCache = true
		if val != "" {
			c.req.NoCacheStages = append(c.req.NoCacheStages, val)
		}
	case "pull":
		c.req.Pull = true
	case "grant":
		c.req.Entitlements = append(c.req.Entitlements, val)
	case "file":
		c.req.Filename = val
	case "main":
		src, err := ContextSource(val)
		if err != nil {
			t.Fatal(err)
		}
		c.req.Context, c.req.Dockerfile = src, nil
	case "subdir":
		c.req.ContextSubdir = val
	}
}

func (c *testcase) translate() (*frontend.Output, error) {
	return New().Translate(context.Background(), c.req, c.env)
}

// anyImage is the configuration of an image with one layer.
const anyImage = `{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":[` +
	`"sha256:1111111111111111111111111111111111111111111111111111111111111111"]},"history":[{"created_by":"base"}]}`

// dockerfileCase is a case with nothing but a Dockerfile and a base image for every name.
func dockerfileCase(t testing.TB, text string) *testcase {
	t.Helper()
	return newCase(t, &txtar.Archive{Files: []txtar.File{
		{Name: "Dockerfile", Data: []byte(text)},
		{Name: "image *", Data: []byte(anyImage)},
	}})
}
