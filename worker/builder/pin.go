package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
)

// A pin is the answer to one question, asked once a build.
type pin struct {
	done chan struct{} // closed when what follows is set
	src  op.Source
	git  *run.GitMeta // instead of src, of a repository
	err  error
	// givenUp says that there is no answer, as who asked does not want it any more.
	givenUp bool
}

// Pin implements frontend.Env.
func (e *env) Pin(ctx context.Context, src op.Source) (op.Source, error) {
	src, err := e.Allowed(ctx, src)
	if err != nil {
		return nil, err
	}
	if _, img := src.(*op.Image); src.Pinned() && !img {
		return src, nil
	}
	if g, ok := src.(*op.Git); ok {
		m, err := e.gitMeta(ctx, g)
		if err != nil {
			return nil, err
		}
		return m.Pin(g), nil
	}
	p, err := e.ask(ctx, src)
	if err != nil {
		return nil, err
	}
	return p.src, nil
}

// gitMeta asks what a reference means once a build: directories of one branch are of one commit, and a tag that moves is what
// it was when somebody asked first.
func (e *env) gitMeta(ctx context.Context, g *op.Git) (*run.GitMeta, error) {
	p, err := e.ask(ctx, g.Question())
	if err != nil {
		return nil, err
	}
	return p.git, nil
}

// askGit asks the remote, unless it has said already what the reference means: then neither another checksum nor another way
// to be let in changes that.
func (e *env) askGit(ctx context.Context, g *op.Git) (*run.GitMeta, error) {
	if g.FetchByCommit || g.Bundle != "" {
		return e.b.deps.Runner.GitMeta(ctx, g, nil) // the remote is not asked
	}
	name := [2]string{g.Remote, g.Ref}
	e.mu.Lock()
	known := e.refs[name]
	e.mu.Unlock()
	for {
		m, err := e.b.deps.Runner.GitMeta(ctx, g, known)
		if err != nil {
			return nil, err
		}
		e.mu.Lock()
		first := e.refs[name]
		if first == nil {
			if e.refs == nil {
				e.refs = make(map[[2]string]*run.GitMeta)
			}
			e.refs[name], first = m, m
		}
		e.mu.Unlock()
		if first == known || *first == *m {
			return m, nil
		}
		known = first // somebody else was quicker
	}
}

// ask returns the answer to a question, which has no error then.
func (e *env) ask(ctx context.Context, src op.Source) (*pin, error) {
	key := keyOf(src)
	for {
		e.mu.Lock()
		p := e.pins[key]
		first := p == nil
		if first {
			p = &pin{done: make(chan struct{})}
			if e.pins == nil {
				e.pins = make(map[solver.Key]*pin)
			}
			e.pins[key] = p
		}
		e.mu.Unlock()
		if first {
			e.answer(ctx, key, p, src)
			return p, p.err
		}
		select {
		case <-p.done:
			if !p.givenUp {
				return p, p.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// answer finds the answer p to a question. That ctx has ended meanwhile is none for others.
func (e *env) answer(ctx context.Context, key solver.Key, p *pin, src op.Source) {
	if g, ok := src.(*op.Git); ok {
		p.git, p.err = e.askGit(ctx, g)
	} else {
		p.src, p.err = e.pin(ctx, src)
	}
	if p.givenUp = p.err != nil && ctx.Err() != nil; p.givenUp {
		e.mu.Lock()
		delete(e.pins, key)
		e.mu.Unlock()
	}
	close(p.done)
}

// keyOf names a question of Pin.
func keyOf(src op.Source) solver.Key {
	var h solver.Hasher
	src.WriteKey(&h)
	if img, ok := src.(*op.Image); ok {
		h.Int("resolve", int64(img.Resolve))
		h.Str("ref", img.Ref) // of which an answer with a digest says no more
		h.Str("checksum", string(img.Checksum))
	}
	return h.Sum()
}

func (e *env) pin(ctx context.Context, src op.Source) (op.Source, error) {
	switch s := src.(type) {
	case *op.Local:
		return e.pinLocal(ctx, s)
	case *op.Image:
		if e.req.AskRegistries {
			asked := *s
			if asked.Unnamed = true; s.Resolve == op.ResolveDefault {
				asked.Resolve = op.ResolveRegistry
			}
			s = &asked
		}
		return e.b.deps.Images.Resolve(ctx, s)
	case *op.HTTP:
		return e.pinHTTP(ctx, s)
	case *op.OCILayout:
		return e.pinLayout(ctx, s)
	}
	return nil, fmt.Errorf("%s: this kind of source is not supported", src)
}

func (e *env) pinLocal(ctx context.Context, l *op.Local) (op.Source, error) {
	dir, err := e.directory(ctx, l.Session, l.Name)
	if err != nil {
		return nil, err
	}
	tctx, arrived := counting(ctx, "transferring "+l.Name+":")
	tree, err := dir.Tree(tctx, filesync.Selection{
		Include: l.Include, Exclude: l.Exclude, Follow: l.Follow, Largest: l.Largest,
		Fresh: l.Differ == op.DifferNone, Hint: l.SharedKey,
	})
	arrived()
	var large *filesync.LargeFileError
	if errors.As(err, &large) {
		return nil, &frontend.LargeFileError{Path: path.Join("/", large.Path), Size: large.Size, Max: large.Max}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the %s directory: %w", l.Name, err)
	}
	if l.MetadataOnly {
		if tree, err = onlyMetadata(ctx, tree, l.MetadataExceptions); err != nil {
			return nil, fmt.Errorf("reading the %s directory: %w", l.Name, err)
		}
	}
	rooted, ok := tree.(treehash.Rooted)
	if !ok {
		return nil, fmt.Errorf("reading the %s directory: its tree has no root digest", l.Name)
	}
	pinned := *l
	pinned.Root, pinned.Largest = rooted.Root().String(), 0
	remove := e.b.deps.Runner.AddTree(ctx, pinned.Root, tree)
	e.atClose(remove)
	return &pinned, nil
}

func (e *env) pinHTTP(ctx context.Context, s *op.HTTP) (op.Source, error) {
	var body io.ReadCloser
	if id, ok := s.Upload(); ok {
		up, ok := e.req.Sources.(worker.Uploads)
		if !ok {
			return nil, &frontend.UsageError{Message: "the client sends no build context"}
		}
		var err error
		if body, err = up.Upload(ctx, id); err != nil {
			return nil, err
		}
	}
	pinned, release, err := e.b.deps.Runner.PinHTTP(ctx, s, body)
	if err != nil {
		return nil, err
	}
	e.atClose(release)
	return pinned, nil
}

// ImageConfig implements frontend.Env.
func (e *env) ImageConfig(ctx context.Context, img *op.Image) (*frontend.ImageConfig, error) {
	raw, err := e.b.deps.Images.Config(ctx, img)
	if err != nil {
		return nil, err
	}
	var c frontend.ImageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", img.Ref, err)
	}
	return &c, nil
}
