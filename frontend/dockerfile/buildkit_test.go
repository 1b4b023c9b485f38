package dockerfile

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A translated is what a Dockerfile means, in a form that two implementations can be compared in.
type translated struct {
	Error    string          `json:"error,omitempty"`
	Lines    []int           `json:"lines,omitempty"`
	Config   json.RawMessage `json:"config,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Names    []string        `json:"names,omitempty"`
	Ops      []string        `json:"ops,omitempty"`
}

var corpus = flag.String("corpus", "testdata/buildkit", "directory with the cases of TestBuildKit")

// TestBuildKit checks that each Dockerfile of the corpus means what it means to BuildKit v0.32.2: the configuration and
// history, the names of vertices, what they do, the warnings, and errors with their lines. The section "buildkit" of
// each file was written by a program that calls BuildKit's own translation. A line of a section
// "differs" names what is not compared and says why.
func TestBuildKit(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(*corpus, "*.txtar"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c := readCase(t, file)
			if _, ok := c.env.urls["*"]; !ok {
				c.env.urls["*"] = "something" // BuildKit's translation fetches nothing
			}
			var want translated
			differs := map[string]bool{}
			for _, f := range c.ar.Files {
				if f.Name == "differs" {
					for line := range strings.Lines(string(f.Data)) {
						key, _, _ := strings.Cut(line, ":")
						differs[key] = true
					}
				}
				if f.Name == "buildkit" {
					if err := json.Unmarshal(f.Data, &want); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := flatten(c)
			w, g := normal(want), normal(got)
			for key := range differs {
				delete(w, key)
				delete(g, key)
			}
			if len(want.Lines) == 0 {
				delete(w, "lines") // BuildKit does not say where
				delete(g, "lines")
			}
			if diff := cmp.Diff(w, g); diff != "" {
				t.Errorf("differs from BuildKit (-BuildKit +here):\n%s", diff)
			}
		})
	}
}

var (
	sameIDs  = regexp.MustCompile(` owner=\d+:\d+`)
	sameDirs = regexp.MustCompile(`/ type=| sel=/ | ssh=default `)
)

// normal returns x as plain values, without differences that mean nothing: slashes at the end of a mount's target, the
// names of the default agent and of the root, a group that is given though it is the one that follows from the user, and
// lines that are named twice or counted from 0.
func normal(x translated) map[string]any {
	var cfg any
	if len(x.Config) > 0 {
		if err := json.Unmarshal(x.Config, &cfg); err != nil {
			panic(err)
		}
	}
	ops := slices.Clone(x.Ops)
	for i, o := range ops {
		o = sameIDs.ReplaceAllStringFunc(o, func(s string) string {
			user, group, _ := strings.Cut(strings.TrimPrefix(s, " owner="), ":")
			if user != group {
				return s
			}
			return " owner=" + user + ":-"
		})
		ops[i] = sameDirs.ReplaceAllStringFunc(o, func(s string) string {
			return strings.NewReplacer("/", "", "default", "").Replace(s)
		})
	}
	slices.Sort(ops)
	lines := slices.Clone(x.Lines)
	for i, n := range lines {
		lines[i] = max(n, 1)
	}
	slices.Sort(lines)
	return map[string]any{
		"error": x.Error, "lines": slices.Compact(lines), "config": cfg, "warnings": x.Warnings, "names": x.Names, "ops": ops,
	}
}

func flatten(c *testcase) translated {
	var x translated
	out, err := c.translate()
	for _, w := range c.env.warnings {
		x.Warnings = append(x.Warnings, w.Short)
	}
	slices.Sort(x.Warnings)
	if err != nil {
		x.Error = err.Error()
		var se *frontend.SourceError
		if errors.As(err, &se) {
			x.Error = se.Err.Error()
			for _, r := range se.Ranges {
				for n := r.Start; n <= r.End; n++ {
					x.Lines = append(x.Lines, n)
				}
			}
		}
		return x
	}
	img := out.Images[0]
	x.Config, _ = json.Marshal(img.Config)
	seen := map[*solver.Vertex]bool{}
	var visit func(v *solver.Vertex)
	visit = func(v *solver.Vertex) {
		if seen[v] {
			return
		}
		seen[v] = true
		for _, in := range v.Inputs() {
			visit(in.Vertex)
		}
		if name := v.Name(); name != "[internal] load build context" && !strings.HasPrefix(name, "[internal] preparing") {
			x.Names = append(x.Names, name)
		}
		x.Ops = append(x.Ops, flatOp(v)...)
	}
	if img.Root != nil {
		visit(img.Root.Vertex)
	}
	slices.Sort(x.Names)
	slices.Sort(x.Ops)
	return x
}

// flatOp describes what a vertex does as the program that wrote the corpus does.
func flatOp(v *solver.Vertex) []string {
	var out []string
	switch o := v.Op().(type) {
	case *op.Exec:
		var ms []string
		for _, m := range o.Mounts {
			s := fmt.Sprintf("%s type=%d sel=%s ro=%v", m.Dest, m.Type, m.Selector, m.ReadOnly)
			switch m.Type {
			case op.MountCache:
				s += fmt.Sprintf(" cache=%s/%d", m.Cache.ID, m.Cache.Sharing)
			case op.MountSecret:
				s += fmt.Sprintf(" secret=%s %d %d %o %v", m.Secret.ID, m.Secret.UID, m.Secret.GID, m.Secret.Mode, m.Secret.Optional)
			case op.MountSSH:
				s += fmt.Sprintf(" ssh=%s %d %d %o %v", m.SSH.ID, m.SSH.UID, m.SSH.GID, m.SSH.Mode, m.SSH.Optional)
			case op.MountTmpfs:
				s += fmt.Sprintf(" tmpfs=%d", m.Tmpfs)
			case op.MountBind:
			}
			ms = append(ms, s)
		}
		slices.Sort(ms)
		for _, s := range o.Secrets {
			ms = append(ms, fmt.Sprintf("secretenv %s=%s %v", s.Name, s.ID, s.Optional))
		}
		out = append(out, fmt.Sprintf("exec %q env=%q cwd=%s user=%s net=%d sec=%d mounts=[%s]",
			o.Meta.Args, o.Meta.Env, o.Meta.Cwd, o.Meta.User, o.Network, o.Security, strings.Join(ms, "; ")))
	case *op.HTTP:
		out = append(out, fmt.Sprintf("http %s filename=%s checksum=%s", o.URL, o.Filename, o.Checksum))
	case *op.Git:
		out = append(out, fmt.Sprintf("git %s ref=%s subdir=%s keep=%v checksum=%s skip=%v bycommit=%v ssh=%s secrets=%s,%s",
			o.Remote, o.Ref, o.Subdir, o.KeepGitDir, o.Checksum, o.SkipSubmodules, o.FetchByCommit, o.SSH, o.AuthTokenSecret, o.AuthHeaderSecret))
	case *op.File:
		for _, a := range o.Actions {
			switch {
			case a.Copy != nil:
				out = append(out, flatCopy(a.Copy))
			case a.Mkdir != nil:
				out = append(out, fmt.Sprintf("mkdir %s %o parents=%v%s", a.Mkdir.Path, a.Mkdir.Mode, a.Mkdir.Parents, flatOwner(a.Mkdir.Owner)))
			case a.Mkfile != nil:
				out = append(out, fmt.Sprintf("mkfile %s %o %q", a.Mkfile.Path, a.Mkfile.Mode, a.Mkfile.Data))
			}
		}
	}
	return out
}

func flatCopy(c *op.Copy) string {
	s := fmt.Sprintf("copy %s -> %s%s", c.Src, c.Dst, flatOwner(c.Owner))
	if c.ModeSet {
		s += fmt.Sprintf(" mode=%o", c.Mode)
	}
	if c.ModeString != "" {
		s += " mode=" + c.ModeString
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{" unpack", c.Unpack}, {" contents", c.DirContents}, {" follow", c.FollowSymlinks}} {
		if f.set {
			s += f.name
		}
	}
	for _, f := range []struct {
		name string
		list []string
	}{{"include", c.Include}, {"exclude", c.Exclude}, {"required", c.Required}} {
		if len(f.list) > 0 {
			s += fmt.Sprintf(" %s=%q", f.name, f.list)
		}
	}
	return s
}

// flatOwner writes an owner as BuildKit has it: a group that is not given is "-".
func flatOwner(o *op.Owner) string {
	if o == nil {
		return ""
	}
	user, group := o.User, o.Group
	if user == "" {
		user = strconv.Itoa(o.UID)
	}
	switch {
	case group != "":
	case o.GID == op.PrimaryGroup, o.User == "" && o.GID == o.UID:
		group = "-"
	default:
		group = strconv.Itoa(o.GID)
	}
	return " owner=" + user + ":" + group
}
