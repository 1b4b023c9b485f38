package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
)

// maxFile is the size up to which a frontend may read a file, in bytes.
const maxFile = 16 << 20

// env is the frontend.Env of one build.
type env struct {
	b   *Builder
	id  string
	req *worker.BuildRequest
	em  *emitter
	// grants are what steps may have that run while the graph is being made.
	grants *frontend.Grants

	mu      sync.Mutex // guards what follows
	dirs    map[string]filesync.Source
	pins    map[solver.Key]*pin
	refs    map[[2]string]*run.GitMeta // by remote and ref
	cleanup []func()
	reads   int
	closed  bool
	// containers are those that have not been closed.
	containers map[*container]bool

	settled settled
}

// A pin is the answer to one question, asked once a build.
type pin struct {
	done chan struct{} // closed when what follows is set
	src  op.Source
	git  *run.GitMeta // instead of src, of a repository
	err  error
	// givenUp says that there is no answer, as who asked does not want it any more.
	givenUp bool
}

// close gives back what the build has pinned, after it has ended what still runs.
func (e *env) close() {
	e.mu.Lock()
	e.closed = true
	cleanup, dirs := e.cleanup, e.dirs
	e.cleanup, e.dirs = nil, nil
	left := slices.Collect(maps.Keys(e.containers))
	e.mu.Unlock()
	for _, c := range left {
		_ = c.Close() // that something is not quite gone changes nothing of what was built
	}
	for _, f := range cleanup {
		f()
	}
	for _, d := range dirs {
		d.Close()
	}
}

// atClose has f called by close, or at once if that has been called.
func (e *env) atClose(f func()) {
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.cleanup = append(e.cleanup, f)
	}
	e.mu.Unlock()
	if closed {
		f()
	}
}

// errOver says that a build has ended.
var errOver = errors.New("the build is over")

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

// directory opens the client's directory of that name, once. session is the ID of the client's, if not the build's own.
func (e *env) directory(ctx context.Context, session, name string) (filesync.Source, error) {
	key := session + "\x00" + name
	e.mu.Lock()
	d, ok := e.dirs[key]
	e.mu.Unlock()
	if ok {
		return d, nil
	}
	if e.req.Sources == nil {
		return nil, &frontend.UsageError{Message: fmt.Sprintf("the build has no directory %q", name)}
	}
	d, err := e.openDirectory(ctx, session, name)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	have, ok := e.dirs[key]
	closed := e.closed
	if !ok && !closed {
		if e.dirs == nil {
			e.dirs = make(map[string]filesync.Source)
		}
		e.dirs[key] = d
	}
	e.mu.Unlock()
	switch {
	case ok: // another goroutine was quicker
		d.Close()
		return have, nil
	case closed:
		return nil, errors.Join(errOver, d.Close())
	}
	return d, nil
}

func (e *env) openDirectory(ctx context.Context, session, name string) (filesync.Source, error) {
	if others, ok := e.req.Sources.(worker.SessionSources); ok && session != "" {
		return others.SessionDirectory(ctx, session, name)
	}
	return e.req.Sources.Directory(ctx, name)
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

// ReadFile implements frontend.Env.
func (e *env) ReadFile(ctx context.Context, in solver.Input, name string) ([]byte, error) {
	var data []byte
	err := e.open(ctx, in, name, func(f io.Reader, size int64) (err error) {
		if size > maxFile {
			return fmt.Errorf("%d bytes are more than the %d allowed", size, maxFile)
		}
		if data, err = readSized(f, size, maxFile+1); err == nil && len(data) > maxFile {
			err = fmt.Errorf("more than the %d bytes allowed", maxFile)
		}
		return err
	})
	return data, err
}

// ReadHead implements frontend.HeadReader.
func (e *env) ReadHead(ctx context.Context, in solver.Input, name string, n int) ([]byte, error) {
	var data []byte
	err := e.open(ctx, in, name, func(f io.Reader, size int64) (err error) {
		data, err = readSized(f, size, int64(n))
		return err
	})
	return data, err
}

// readSized reads up to limit bytes of a file that is said to have size, without more memory than they take.
func readSized(f io.Reader, size, limit int64) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, max(min(size, limit), 0)+bytes.MinRead))
	_, err := buf.ReadFrom(io.LimitReader(f, limit))
	return buf.Bytes(), err
}

// open has read read a file of a result.
func (e *env) open(ctx context.Context, in solver.Input, name string, read func(f io.Reader, size int64) error) error {
	tree, done, err := e.tree(ctx, in)
	if err != nil {
		return &unmadeError{err}
	}
	defer done()
	name = path.Join("/", name)
	entry, err := treehash.Resolve(ctx, tree, name, true)
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("reading %s: %w: %w", name, frontend.ErrNoFile, err)
	}
	if err != nil {
		return err
	}
	if !entry.IsRegular() {
		return fmt.Errorf("reading %s: %w", name, frontend.ErrNoFile)
	}
	f, err := tree.Open(ctx, entry.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f, entry.Size); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// An unmadeError is why there is no tree to read a file from. That a step did not find something is not that the file is
// not there, so it is no fs.ErrNotExist, nor ErrNoFile; for the rest it is what it wraps.
type unmadeError struct{ err error }

func (e *unmadeError) Error() string { return e.err.Error() }
func (e *unmadeError) Is(target error) bool {
	return target != fs.ErrNotExist && target != frontend.ErrNoFile && errors.Is(e.err, target)
}
func (e *unmadeError) As(target any) bool { return errors.As(e.err, target) }

// tree solves in and opens its result. A client's directory needs no solving.
func (e *env) tree(ctx context.Context, in solver.Input) (treehash.Tree, func(), error) {
	var res solver.Result
	if l, ok := in.Vertex.Op().(*op.Local); ok && l.Pinned() {
		res = solver.Result("local:" + l.Root)
	} else {
		out, err := e.results(ctx, []solver.Input{in})
		if err != nil {
			return nil, nil, err
		}
		res = out[0]
	}
	return e.b.deps.Runner.Open(ctx, res)
}

// Step implements frontend.Env.
func (e *env) Step(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	return e.em.step(ctx, name, func(ctx context.Context, p *progress) error {
		return fn(run.WithStatus(ctx, p.status))
	})
}

// AskStep implements frontend.Asker.
func (e *env) AskStep(ctx context.Context, name string, src op.Source, fn func(ctx context.Context) error) error {
	return e.em.run(ctx, e.em.asking(name, keyOf(src)), func(ctx context.Context, p *progress) error {
		return fn(run.WithStatus(ctx, p.status))
	})
}

// SourceStep implements frontend.SourceStepper. What has been done once is told once, as BuildKit does it once.
func (e *env) SourceStep(ctx context.Context, v *solver.Vertex, known digest.Digest, part string, fn func(ctx context.Context) error) error {
	step, done := e.em.source(v, known)
	if done {
		err := fn(ctx)
		if err != nil {
			e.em.end(ctx, step, err)
		}
		return err
	}
	return e.em.run(ctx, step, func(ctx context.Context, p *progress) error {
		if part != "" {
			defer p.begin(part)()
		}
		return fn(run.WithStatus(ctx, p.status))
	})
}

// LoggedStep implements frontend.Logger.
func (e *env) LoggedStep(ctx context.Context, name string, fn func(ctx context.Context, log io.Writer) error) error {
	l := &logged{e: e.em, v: e.em.vertex(name), began: time.Now()}
	err := fn(ctx, l)
	if l.told.Load() {
		e.em.end(ctx, l.v, err)
	}
	return err
}

// Warn implements frontend.Env.
func (e *env) Warn(w solver.Warning) {
	e.em.emit(solver.Event{Kind: solver.Warned, Time: time.Now(), Vertex: e.em.named(w.Vertex), Warning: w})
}

var (
	_ frontend.Env           = (*env)(nil)
	_ frontend.HeadReader    = (*env)(nil)
	_ frontend.Logger        = (*env)(nil)
	_ frontend.SourceStepper = (*env)(nil)
	_ frontend.Asker         = (*env)(nil)
)

// isCanceled says whether err is the end of a context.
func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
