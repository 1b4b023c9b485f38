package dockerfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// git returns the copy of a repository's tree. What the instruction and the reference both say has to be the same.
func (cp *copying) git(src string, a op.Copy, where []parser.Range) (copySource, error) {
	ref, err := parseGitRef(src)
	if err != nil {
		return copySource{}, err
	}
	if ref.keepGitDir == nil {
		ref.keepGitDir = cp.keepGitDir
	} else if cp.keepGitDir != nil && *cp.keepGitDir != *ref.keepGitDir {
		return copySource{}, errors.New("inconsistent keep-git-dir configuration")
	}
	cp.keepGitDir = ref.keepGitDir // for the sources that follow too, as in BuildKit
	if cp.commit != "" && ref.checksum != "" && cp.commit != ref.checksum {
		return copySource{}, fmt.Errorf("checksum mismatch %q != %q", cp.commit, ref.checksum)
	}
	if ref.checksum == "" {
		ref.checksum = cp.commit
	}
	tr := &tree{src: ref.op(), where: where}
	a.Src, a.Exclude = "/", cp.exclude
	tr.use(a.Src)
	return copySource{from: from{tree: tr}, action: a, sel: solver.Selector{Paths: []string{a.Src}, Exclude: a.Exclude}}, nil
}

// gitName is what the fetching of a repository that is a context is called.
func gitName(repo *op.Git) string {
	name := repo.Written
	if name == "" {
		name = repo.String()
	}
	return "[internal] load git source " + name
}

// loadGit returns a repository that is a named context.
func (nc *namedContext) loadGit() (*origin, error) {
	if classify(nc.value) != gitSource {
		return nil, fmt.Errorf("invalid git context %s", op.RedactGit(nc.value))
	}
	ref, err := parseGitRef(nc.value)
	if err != nil {
		return nil, err
	}
	repo := ref.op()
	return &origin{tree: &tree{src: repo, label: gitName(repo)}}, nil
}

// gitContext finds the build context where that is a repository. It is fetched when something is read from it.
func gitContext(ctx context.Context, env frontend.Env, repo *op.Git, args map[string]string) (*fetchedContext, error) {
	own := *repo
	if keep, err := strconv.ParseBool(args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil && keep {
		own.KeepGitDir = true
	}
	if args["SOURCE_DATE_EPOCH"] != "" {
		own.CommitTime = true
	}
	in, err := pinGit(ctx, env, &own, solver.Meta{Name: gitName(&own)})
	if err != nil {
		return nil, err
	}
	return &fetchedContext{input: in, archive: true}, nil
}

// pinGit pins a repository and returns it as an input. It is no step to people if the remote is not asked: where the
// reference itself is a commit. Else it is the step as which it is fetched, as with BuildKit.
func pinGit(ctx context.Context, env frontend.Env, repo *op.Git, meta solver.Meta) (in solver.Input, err error) {
	pin := func(ctx context.Context) error {
		pinned, err := env.Pin(ctx, repo)
		if err == nil {
			in = solver.Input{Vertex: solver.NewVertex(pinned, nil, meta)}
		}
		return err
	}
	if repo.FetchByCommit || isCommit(repo.Ref) {
		err = pin(ctx)
	} else {
		err = env.Step(ctx, cmp.Or(meta.Name, gitName(repo)), pin)
	}
	return in, err
}

// isCommit says whether ref is the full hash of a commit.
func isCommit(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}
