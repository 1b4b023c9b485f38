package dockerfile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile/ignore"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// contextFile is the name of what was fetched as the build context, in the tree that holds nothing else.
const contextFile = "context"

// A fetchedContext is a build context that came as one file: an archive, of which input is the content, or else a
// Dockerfile, which is called "context" and which the context consists of.
type fetchedContext struct {
	input   solver.Input
	archive bool
	given   bool // it was not fetched: it is a tree that came with the request
}

// fetchContext fetches the build context, and looks what it is. What is not an archive is a Dockerfile, however it looks.
func fetchContext(ctx context.Context, env frontend.Env, get *op.HTTP) (*fetchedContext, error) {
	const step = "[internal] load remote build context"
	named := *get
	named.Filename = contextFile
	out := &fetchedContext{}
	err := env.Step(ctx, step, func(ctx context.Context) (err error) {
		out.input, err = pinInput(ctx, env, &named, step)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("failed to read downloaded context: %w", err)
	}
	head, err := readBegin(ctx, env, out.input, contextFile, headSize)
	if err != nil {
		return nil, fmt.Errorf("failed to read downloaded context: %w", err)
	}
	if !isArchive(head) {
		return out, nil
	}
	out.archive = true
	unpack := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Copy: &op.Copy{Src: "/" + contextFile, Dst: "/", Unpack: true},
	}}}
	out.input.Select = &solver.Selector{Paths: []string{"/" + contextFile}}
	meta := solver.Meta{Name: "copy /" + contextFile + " /"} // as BuildKit calls it
	out.input = solver.Input{Vertex: solver.NewVertex(unpack, []solver.Input{out.input}, meta)}
	return out, nil
}

// headSize is how much of a file is looked at, in bytes: a header of a tar, with the two blocks that may stand before it.
const headSize = 64 << 10

// isArchive says whether a file begins as one of the compressions does that archives have, or as a tar.
func isArchive(head []byte) bool {
	for _, magic := range []string{"BZh", "\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil || errors.Is(err, tar.ErrInsecurePath)
}

// below returns the tree of a directory of in as an input.
func below(in solver.Input, dir string) solver.Input {
	dir = path.Join("/", dir)
	scope := &op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Copy: &op.Copy{Src: dir, Dst: "/", DirContents: true},
	}}}
	in.Select = &solver.Selector{Paths: []string{dir}, Named: true}
	return solver.Input{Vertex: solver.NewVertex(scope, []solver.Input{in}, solver.Meta{Name: "copy " + dir + " /"})}
}

// contextTree returns the build context as a tree; nil if there is none.
func (t *translation) contextTree() *tree {
	fc := t.src.fetched
	if t.req.Context == nil && fc == nil {
		return nil
	}
	tr := &tree{src: t.req.Context, label: "[internal] load build context"}
	if fc != nil {
		in := fc.input
		tr.input = &in
	}
	if _, local := tr.src.(*op.Local); !local || fc != nil {
		tr.subdir = t.req.ContextSubdir
	}
	return tr
}

// needsContext says whether a stage that is needed reads from the build context for certain. What variables hold is not known
// yet, so an ADD or a mount may turn out to read from it later.
func (t *translation) needsContext(needed map[*stage]bool) bool {
	for s := range needed {
		if slices.ContainsFunc(s.commands, command.readsContext) && s.override == nil {
			return true
		}
	}
	return false
}

// readsContext says whether a command reads from the build context for certain.
func (c command) readsContext() bool {
	switch ic := c.Command.(type) {
	case *instructions.CopyCommand:
		return ic.From == "" && len(ic.SourcePaths) > 0
	case *instructions.AddCommand:
		return slices.ContainsFunc(ic.SourcePaths, func(src string) bool {
			return !strings.Contains(src, "$") && classify(src) == fileSource
		})
	case *instructions.RunCommand:
		return mountsContext(ic.String())
	}
	return false
}

// mountsContext says whether a RUN, as it is written, has a bind mount of the context for certain. The type of a mount is
// parsed when variables have values only.
func mountsContext(text string) bool {
	_, flags, _ := strings.Cut(text, " ")
	for flag := range strings.FieldsSeq(flags) {
		if !strings.HasPrefix(flag, "--") {
			return false
		}
		mount, ok := strings.CutPrefix(flag, "--mount=")
		other := func(field string) bool {
			key, value, _ := strings.Cut(strings.ToLower(field), "=")
			return key == "from" || key == "type" && value != "bind"
		}
		if ok && !slices.ContainsFunc(strings.Split(mount, ","), other) {
			return true
		}
	}
	return false
}

// excluded returns what .dockerignore excludes from the build context; nil for nothing.
func (t *translation) excluded() (*ignore.Matcher, error) {
	if t.out != nil || t.context == nil {
		return t.out, nil
	}
	patterns, err := t.src.ignored()
	if err != nil || len(patterns) == 0 {
		return nil, err
	}
	if t.out, err = ignore.New(patterns); err != nil {
		return nil, fmt.Errorf("failed parsing %s: %w", ignoreName, err)
	}
	t.context.ignore = patterns
	return t.out, nil
}

// ContextSource returns the source, unpinned, that a user means who names ref as the build context and has no directory
// of that name: a Git repository, or else what is fetched by HTTP.
func ContextSource(ref string) (op.Source, error) {
	switch classifyContext(ref) {
	case gitSource:
		g, err := parseGitRef(ref)
		if err != nil {
			return nil, err
		}
		return g.op(), nil
	case urlSource:
		return &op.HTTP{URL: ref, Filename: contextFile}, nil
	case fileSource:
	}
	return nil, errors.New("it is neither an http or https URL nor a Git repository")
}
