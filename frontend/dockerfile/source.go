package dockerfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

const (
	defaultName = "Dockerfile"
	ignoreName  = ".dockerignore"
)

// A source is the text of a Dockerfile and the way to the .dockerignore that goes with it.
type source struct {
	name string
	text []byte
	// own is the .dockerignore beside the Dockerfile, which goes before the one in the context; nil if there is none.
	own     []byte
	ownName string
	// ignored returns the patterns of .dockerignore. The first call reads the file, if it is not beside the Dockerfile: none is
	// made before it is known that something of the context is needed, which the client may not have, or may not give away.
	ignored func() ([]string, error)
	// fetched is the build context if it was fetched as one file, which was needed to find the Dockerfile.
	fetched *fetchedContext
}

// load reads the Dockerfile, and the .dockerignore beside it. Only a directory of the client's has one that counts.
func load(ctx context.Context, req *frontend.Request, env frontend.Env) (*source, error) {
	src := &source{name: req.Filename, text: req.Text}
	if src.name == "" {
		src.name = defaultName
	}
	var err error
	local, isLocal := req.Context.(*op.Local)
	switch c := req.Context.(type) {
	case *op.HTTP:
		src.fetched, err = fetchContext(ctx, env, c)
	case *op.Git:
		src.fetched, err = gitContext(ctx, env, c, req.BuildArgs)
	default:
		if in, ok := req.Inputs[inputContext]; ok {
			src.fetched, isLocal = &fetchedContext{input: treeInput(in), archive: true, given: true}, false
		}
	}
	if err != nil {
		return nil, err
	}
	src.ignored = sync.OnceValues(func() ([]string, error) {
		if !isLocal {
			return nil, nil
		}
		return src.patterns(ctx, env, local)
	})
	if req.Text != nil {
		return src, nil
	}
	return src, src.read(ctx, req, env)
}

// patterns reads the .dockerignore of dir, unless there is one beside the Dockerfile.
func (s *source) patterns(ctx context.Context, env frontend.Env, dir *op.Local) ([]string, error) {
	text, name := s.own, s.ownName
	if text == nil {
		var err error
		if text, err = readIgnore(ctx, env, dir, "[internal] load "+ignoreName); err != nil {
			return nil, err
		}
		name = ignoreName
	}
	list, err := ignore.Parse(text)
	if err != nil {
		return nil, &frontend.SourceError{File: name, Text: text, Err: fmt.Errorf("failed parsing %s: %w", name, err)}
	}
	return list, nil
}

// read reads the Dockerfile, which may also be called dockerfile, and what is in the .dockerignore beside it.
func (s *source) read(ctx context.Context, req *frontend.Request, env frontend.Env) error {
	from := req.Dockerfile
	if from == nil {
		from = req.Context
	}
	given, isGiven := dockerfileInput(req, from)
	if from == nil && !isGiven {
		return &frontend.UsageError{Message: "there is neither a Dockerfile nor a build context to read one from"}
	}
	fetched := s.fetched
	if from != req.Context {
		fetched = nil
	}
	if fetched != nil && !fetched.archive {
		s.name = contextFile
	}
	names := []string{s.name}
	if dir, base := path.Split(s.name); base == defaultName {
		names = append(names, dir+strings.ToLower(defaultName))
	}
	name := s.name + ignoreName
	if l, ok := from.(*op.Local); ok {
		only := *l
		only.Include, only.Exclude, only.Largest = nil, nil, maxFile
		only.Follow = append([]string{name}, names...)
		from = &only
	}
	step := "[internal] load build definition from " + s.name
	begin := env.Step
	if dir, ok := from.(*op.Local); ok && !isGiven && req.Session != "" {
		begin = definitionStep(env, definedLocal(dir, s.name, req.Session))
	}
	if fetched != nil { // that was a step
		begin = func(ctx context.Context, _ string, fn func(context.Context) error) error { return fn(ctx) }
	}
	return begin(ctx, step, func(ctx context.Context) error {
		var in solver.Input
		var refused, err error
		if isGiven {
			in = treeInput(given)
		} else if fetched != nil {
			in = fetched.input
		} else if in, refused, err = pinDefinition(ctx, env, from, names, step); err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		var missing error
		for _, n := range names {
			text, err := readBegin(ctx, env, in, n, maxText+1) // enough to see that it is too much
			if errors.Is(err, fs.ErrNotExist) {
				if missing == nil {
					missing = err
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("failed to read dockerfile: %w", err)
			}
			s.name, s.text, missing = n, text, nil
			break
		}
		if missing != nil && refused != nil {
			return fmt.Errorf("failed to read dockerfile: %w", refused)
		}
		if missing != nil {
			return &frontend.UsageError{Message: "failed to read dockerfile: open " + s.name + ": no such file or directory"}
		}
		if fetched == nil { // what was fetched as it is to be built has no .dockerignore that counts
			s.ownName = name
			s.own, err = readOptional(ctx, env, in, name)
		}
		return err
	})
}

// shown is the text as reports have it: nothing of one so large that it would take more memory than making the report did.
func (s *source) shown() []byte {
	if len(s.text) > maxDense {
		return nil
	}
	return s.text
}

// definedLocal is a directory with a Dockerfile as BuildKit's frontend defines it in LLB.
func definedLocal(dir *op.Local, filename, session string) *op.Local {
	l := &op.Local{Name: dir.Name, SharedKey: dir.Name, Session: cmp.Or(dir.Session, session), Differ: op.DifferNone}
	l.Follow = []string{filename, filename + ignoreName}
	if in, base := path.Split(filename); base == defaultName {
		l.Follow = append(l.Follow, in+strings.ToLower(defaultName))
	}
	return l
}

// definitionStep is env.Step for reading a Dockerfile, under the digest that BuildKit's clients expect, if env can do that: a
// frontend in an image may go on to read it, and say of what it has read that it warns.
func definitionStep(env frontend.Env, as *op.Local) func(context.Context, string, func(context.Context) error) error {
	e, ok := env.(frontend.SourceStepper)
	if !ok {
		return env.Step
	}
	return func(ctx context.Context, name string, fn func(context.Context) error) error {
		v := solver.NewVertex(as, nil, solver.Meta{Name: name, Internal: true})
		return e.SourceStep(ctx, v, llb.Digest(v), "", fn)
	}
}

// readBegin reads no more than n bytes of a file if env can do that, or else all.
func readBegin(ctx context.Context, env frontend.Env, in solver.Input, name string, n int) ([]byte, error) {
	if r, ok := env.(frontend.HeadReader); ok {
		return r.ReadHead(ctx, in, name, n)
	}
	return env.ReadFile(ctx, in, name)
}

// readIgnore reads the .dockerignore at the root of a directory of the client's; nil if there is none.
func readIgnore(ctx context.Context, env frontend.Env, dir *op.Local, step string) (text []byte, err error) {
	only := *dir
	only.Include, only.Exclude, only.Follow, only.Largest = nil, nil, []string{ignoreName}, maxFile
	err = env.Step(ctx, step, func(ctx context.Context) error {
		in, err := pinInput(ctx, env, &only, step)
		var large *frontend.LargeFileError
		if errors.As(err, &large) {
			return fmt.Errorf("reading %s: %w", ignoreName, err)
		}
		if err != nil {
			return err
		}
		text, err = readOptional(ctx, env, in, ignoreName)
		return err
	})
	return text, err
}

// pinDefinition is pinInput for a directory that has the Dockerfile under one of those names. A file of another name than the
// first is read only if there is none of that, and may else be anything: one that is too large is left out, and refused says so.
func pinDefinition(ctx context.Context, env frontend.Env, from op.Source, names []string, step string) (in solver.Input, refused, err error) {
	in, err = pinInput(ctx, env, from, step)
	var large *frontend.LargeFileError
	l, ok := from.(*op.Local)
	if !ok || !errors.As(err, &large) {
		return in, nil, err
	}
	name := strings.TrimPrefix(large.Path, "/")
	if !slices.Contains(names[1:], name) {
		return in, nil, err
	}
	rest := *l
	rest.Follow = slices.DeleteFunc(slices.Clone(l.Follow), func(n string) bool { return n == name })
	refused = err
	in, err = pinInput(ctx, env, &rest, step)
	return in, refused, err
}

// pinInput pins src and returns it as an input.
func pinInput(ctx context.Context, env frontend.Env, src op.Source, name string) (solver.Input, error) {
	pinned, err := env.Pin(ctx, src)
	if err != nil {
		return solver.Input{}, err
	}
	return solver.Input{Vertex: solver.NewVertex(pinned, nil, solver.Meta{Name: name, Internal: true})}, nil
}

// readOptional is ReadFile for a file that need not be there; a directory of its name is none. An empty file is not nil.
func readOptional(ctx context.Context, env frontend.Env, in solver.Input, name string) ([]byte, error) {
	text, err := env.ReadFile(ctx, in, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, frontend.ErrNoFile):
		// BuildKit says nothing; but more is sent than the user may think.
		env.Warn(solver.Warning{Short: name + " is left out of account: it is no regular file"})
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case text == nil:
		return []byte{}, nil
	}
	return text, nil
}

// checkSyntax looks for a request of another frontend: "# syntax=" or the build argument that overrides it. Every
// release of docker/dockerfile means this frontend; anything else is in an image, which is another's to run.
func (s *source) checkSyntax(args map[string]string) error {
	if v, ok := args["BUILDKIT_SYNTAX"]; ok {
		cmdline := strings.TrimSpace(v)
		ref, _, _ := strings.Cut(cmdline, " ")
		if !isDockerfileSyntax(ref) {
			err := &frontend.UsageError{Message: "failed with BUILDKIT_SYNTAX = " + v + ": " + syntaxRefused(ref)}
			return &frontend.ForeignError{Ref: ref, Cmdline: cmdline, Err: err}
		}
		return nil
	}
	ref, cmdline, where, ok := detectSyntax(s.text)
	if !ok || isDockerfileSyntax(ref) {
		return nil
	}
	err := parser.WithLocation(errors.New(syntaxRefused(ref)), where)
	return &frontend.ForeignError{Ref: ref, Cmdline: cmdline, Err: err}
}

func syntaxRefused(ref string) string {
	return fmt.Sprintf("frontend %q is not supported: only docker/dockerfile is, and it is built in", ref)
}

// isDockerfileSyntax says whether ref is a Dockerfile frontend of Docker's, wherever it is mirrored.
func isDockerfileSyntax(ref string) bool {
	if ref == "dockerfile.v0" {
		return true
	}
	named, err := reference.ParseNormalizedNamed(ref)
	return err == nil && strings.HasPrefix(reference.Path(named), "docker/dockerfile")
}
