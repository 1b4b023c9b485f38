package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
)

// define builds a graph that a client has made itself.
func (d *daemon) define(s llb.State, opt client.SolveOpt) (*llb.Definition, *progress, error) {
	d.t.Helper()
	def, err := s.Marshal(d.t.Context(), llb.LinuxAmd64)
	if err != nil {
		d.t.Fatal(err)
	}
	ch := make(chan *client.SolveStatus)
	done := make(chan *progress)
	go func() { done <- take(ch) }()
	_, err = d.c.Solve(d.t.Context(), def, opt, ch)
	return def, <-done, err
}

// everything is a graph of every kind of operation whose result says what each has done.
func everything() llb.State {
	base := llb.Image("busybox")
	context := llb.Local("context", llb.ExcludePatterns([]string{"secret"}))
	files := base.File(llb.Mkdir("/w/sub", 0o750, llb.WithParents(true), llb.WithUser("nobody:nobody")).
		Mkfile("/w/made", 0o640, []byte("made"), llb.WithUIDGID(1, 2)).
		Symlink("made", "/w/link").
		Copy(context, "/dir", "/w/", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true}).
		Rm("/w/gone*", llb.WithAllowWildcard(true)))
	run := files.Run(
		llb.Shlex(`sh -c "stat -c '%n %a %u:%g' /w/sub /w/made > /out/stat; ls /w > /out/ls; cat /w/link /ctx/dir/a > /out/cat; ls /ctx >> /out/ls; df -k /t | tail -n 1 | awk '{print $2}' > /out/size; echo $K-$(pwd)-$(hostname) > /out/meta; touch /cache/x /rootfile; exit 7"`),
		llb.Dir("/w"), llb.AddEnv("K", "v"), llb.With(llb.Hostname("named")), llb.ValidExitCodes(7), llb.WithCustomName("look around"),
		llb.AddMount("/ctx", context, llb.Readonly),
		llb.AddMount("/t", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(1<<20))),
		llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("e2e", llb.CacheMountLocked)),
	)
	out := run.AddMount("/out", llb.Scratch())
	added := llb.Diff(files, run.Root())
	passed := llb.NewPassthroughOp("e2e", []llb.PassthroughInput{{State: base}, {State: added, Output: true}})
	return llb.Merge([]llb.State{llb.Scratch().File(llb.Mkfile("/first", 0o644, []byte("1"))), out, llb.NewState(passed.OutputAt(0))})
}

// TestDefinition checks that a definition with every kind of operation does what it says, and that the client is told of
// its operations by the digests that it has given them; and that the same graph is there the next time, though its
// digests are others.
func TestDefinition(t *testing.T) {
	d := start(t)
	d.load()
	dest := t.TempDir()
	opt := client.SolveOpt{
		LocalMounts: map[string]fsutil.FS{"context": tree(t, map[string]string{"dir/a": "A", "dir/gone1": "", "secret": "s"})},
		Exports:     []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dest}},
	}
	def, p, err := d.define(everything(), opt)
	if err != nil {
		t.Fatalf("%v\nsteps: %s", err, strings.Join(p.order, "\n"))
	}
	for name, want := range map[string]string{
		"first": "1", "stat": "/w/sub 750 65534:65534\n/w/made 640 1:2\n", "ls": "a\nlink\nmade\nsub\ndir\n", "cat": "madeA", "size": "1024\n",
		"meta": "v-/w-named\n", "rootfile": "",
	} {
		got, err := os.ReadFile(filepath.Join(dest, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dest, "bin")); err == nil {
		t.Error("the difference has what both sides have")
	}
	for _, raw := range def.Def[:len(def.Def)-1] {
		var o pb.Op
		if err := o.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		name, ok := p.names[digest.FromBytes(raw).String()]
		if strings.HasPrefix(o.GetSource().GetIdentifier(), "local://") {
			ok = p.vertices[o.GetSource().GetIdentifier()] != nil // it is the reading of the directory that is told of
		}
		if !ok {
			t.Errorf("nothing was told of %v", &o)
		} else if o.GetExec() != nil && name != "look around" {
			t.Errorf("the command is called %q", name)
		}
	}
	again, p, err := d.define(everything(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if run := p.vertices["look around"]; run != nil && !run.Cached {
		t.Errorf("the second time the command was run: %+v", run)
	}
	if string(again.Def[len(again.Def)-1]) == string(def.Def[len(def.Def)-1]) {
		t.Error("the definition is the same, so that was no test") // the client gives directories an ID of their own each time
	}
}

// TestDefinitionErrors checks that what fails is found in the client's file, and that what is not there is refused by name.
func TestDefinitionErrors(t *testing.T) {
	d := start(t)
	d.load()
	file := llb.NewSourceMap(nil, "graph.hcl", "HCL", []byte("one\ntwo\nthree\n"))
	at := func(line int32) llb.ConstraintsOpt {
		return file.Location([]*pb.Range{{Start: &pb.Position{Line: line}, End: &pb.Position{Line: line}}})
	}
	for _, tc := range []struct {
		state llb.State
		want  string
		line  int32
	}{
		{llb.Image("busybox").Run(llb.Shlex("sh -c 'exit 3'"), at(2)).Root(), "exit code: 3", 2},
		{llb.Image("localhost:1/x:1", at(3)), "localhost:1/x:1", 3},
	} {
		_, _, err := d.define(tc.state, client.SolveOpt{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q", err, tc.want)
			continue
		}
		src := errdefs.Sources(err)
		if len(src) != 1 || src[0].Info.Filename != "graph.hcl" || src[0].Ranges[0].Start.Line != tc.line || string(src[0].Info.Data) != "one\ntwo\nthree\n" {
			t.Errorf("%s: the sources are %v, of %v", tc.want, src, err)
		}
	}
	def, err := llb.Image("busybox").Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	md := def.Metadata[digest.FromBytes(def.Def[0])]
	md.Caps["new.thing"] = true
	_, err = d.c.Solve(t.Context(), def, client.SolveOpt{}, nil)
	if err == nil || !strings.Contains(err.Error(), "new.thing") {
		t.Errorf("an unknown capability: got %v", err)
	}
	var vertex *errdefs.VertexError
	if errors.As(err, &vertex) {
		t.Errorf("a definition that was refused has failed at %s", vertex.Digest)
	}
}
