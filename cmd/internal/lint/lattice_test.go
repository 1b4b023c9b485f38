package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/boxbuild/boxbuild"

// A pkg is what `go list` says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	Name         string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

func (p *pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

func list(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Dir,Doc,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []*pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// lattice says which packages of the module a package may import. A key or value that ends in "/..." stands for the
// folder and everything below. The first key that matches a package counts. Below stands what ARCHITECTURE.md's lattice
// became; DESIGN.md of the package has the reason where the two differ.
var lattice = []struct {
	who  string
	what []string
}{
	{"solver", nil},
	{"solver/op", []string{"solver"}},
	{"solver/cachedb", []string{"solver"}},
	{"solver/session", nil},
	{"solver/treehash/dirfd", nil},
	{"solver/treehash", []string{"solver", "solver/treehash/dirfd"}},
	{"solver/solvertest", []string{"solver"}},
	{"solver/run/...", []string{
		"solver", "solver/op", "solver/session", "solver/treehash/...", "solver/run/...", "snapshot/...", "executor", "proto/registry", "proto/filesync", "proto/git",
	}},

	{"proto/boxbuild/...", nil},
	{"proto/registry", nil},
	{"proto/registry/registrytest", []string{"proto/registry"}},
	{"proto/git/...", nil},
	{"proto/filesync/...", []string{"solver", "solver/treehash/...", "proto/filesync"}},
	{"proto/llb/...", []string{"solver", "solver/op", "proto/llb"}},
	{"proto/bksession/...", []string{"solver", "solver/session", "solver/treehash/...", "proto/filesync", "proto/registry", "proto/bksession"}},

	{"frontend", []string{"frontend/report", "solver", "solver/op", "proto/llb/..."}},
	{"frontend/report", nil}, // which the command line reads
	{"frontend/...", []string{"solver", "solver/op", "proto/llb/...", "frontend/..."}},

	{"snapshot", nil},
	{"snapshot/mount", []string{"snapshot"}},
	{"snapshot/overlay", []string{"snapshot", "snapshot/mount", "snapshot/store"}},
	{"snapshot/native", []string{"snapshot", "snapshot/mount", "snapshot/store"}},
	{"snapshot/lazy", []string{"snapshot", "snapshot/mount"}},
	{"snapshot/blob", []string{"snapshot"}},
	{"snapshot/lease", []string{"snapshot"}},
	{"snapshot/layer", []string{"snapshot", "snapshot/blob", "snapshot/mount"}},
	{"snapshot/image", []string{"snapshot", "snapshot/blob"}},
	{"snapshot/snapshottest", []string{"snapshot", "snapshot/mount"}},
	{"snapshot/...", []string{"snapshot", "snapshot/mount"}},

	{"executor", nil},
	{"executor/...", []string{"executor/..."}},

	{"exporter", nil},
	{"exporter/...", []string{
		"exporter", "exporter/image", "solver", "solver/treehash/...", "snapshot/layer", "snapshot/blob", "snapshot/image", "proto/registry",
	}},

	{"worker", []string{"solver/...", "snapshot/...", "exporter/...", "frontend", "frontend/report", "executor", "proto/registry", "proto/filesync"}},
	{"worker/builder", []string{
		"worker", "worker/images", "worker/transfer", "solver/...", "snapshot/...", "exporter/...", "frontend/...", "executor", "proto/registry", "proto/filesync", "proto/llb/...",
	}},
	{"worker/api/...", []string{"worker/...", "proto/...", "solver", "solver/op", "solver/session", "solver/treehash", "frontend/...", "exporter", "exporter/local", "executor", "snapshot/blob"}},
	{"worker/workertest", []string{
		"worker", "solver", "solver/op", "solver/treehash", "executor", "frontend/...", "proto/registry", "proto/filesync",
	}},
	{"worker/transfer", []string{
		"worker", "worker/images", "solver", "solver/op", "snapshot/...", "exporter/...", "frontend", "proto/registry",
	}},
	{"worker/history", []string{"worker", "solver", "solver/op", "snapshot/lease", "frontend/report"}},
	{"worker/container/...", []string{"worker", "executor", "snapshot/...", "frontend", "worker/container/..."}},
	{"worker/network/...", []string{"worker", "executor", "executor/netns/...", "executor/pidfd", "worker/network/..."}},
	{"worker/...", []string{
		"worker", "solver", "solver/op", "executor", "snapshot/...", "exporter/...", "frontend", "proto/registry", "proto/filesync",
	}},

	{"cmd/boxshim", []string{"executor", "executor/libcontainer", "executor/shim/...", "executor/sandbox", "worker/network/portmap/carry"}},
	// The command line links no engine: it starts at every call.
	{"cmd/boxbuild", []string{"frontend/report", "proto/...", "cmd/internal/...", "solver", "solver/session", "solver/treehash"}},
	{"cmd/internal/progress", []string{"proto/...", "solver"}},
	{"cmd/internal/config", []string{"proto/registry"}},
	{"cmd/internal/...", []string{"cmd/internal/...", "proto/..."}},
	{"cmd/...", []string{"..."}},
}

func matches(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

// TestLattice checks that no package imports one that it may not: the folders form a DAG by design, not by chance.
func TestLattice(t *testing.T) {
	for _, p := range list(t) {
		rule := -1
		for i := range lattice {
			if matches(lattice[i].who, p.rel()) {
				rule = i
				break
			}
		}
		if rule < 0 {
			t.Errorf("%s is not in the lattice", p.rel())
			continue
		}
		for _, imp := range p.Imports {
			rel, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			ok := false
			for _, w := range lattice[rule].what {
				ok = ok || matches(w, rel)
			}
			if !ok {
				t.Errorf("%s must not import %s", p.rel(), rel)
			}
		}
	}
}

// Packages that only some programs may link, directly or through others.
var linking = []struct {
	dep     string
	allowed []string // packages of ours that may depend on it
	why     string
}{
	{
		"github.com/opencontainers/runc/libcontainer",
		[]string{"executor/libcontainer", "cmd/boxshim"},
		"every sandbox pays for the size of what links it",
	},
	{
		module + "/solver/run",
		[]string{"solver/run", "worker/...", "cmd/boxbuildd", "cmd/boxbench"},
		"only the daemon performs operations",
	},
	{
		"github.com/moby/buildkit/solver",
		nil,
		"the solver is what boxbuild exists for",
	},
	{
		"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb",
		nil,
		"the translation is what boxbuild exists for",
	},
	{
		"github.com/moby/buildkit/executor",
		nil,
		"the sandbox is what boxbuild exists for",
	},
}

// TestLinking checks what packages depend on through others.
func TestLinking(t *testing.T) {
	for _, p := range list(t) {
		for _, l := range linking {
			if p.ImportPath == l.dep {
				continue
			}
			for _, d := range p.Deps {
				if d != l.dep {
					continue
				}
				ok := false
				for _, a := range l.allowed {
					ok = ok || matches(a, p.rel())
				}
				if !ok {
					t.Errorf("%s links %s: %s", p.rel(), l.dep, l.why)
				}
			}
		}
	}
}
