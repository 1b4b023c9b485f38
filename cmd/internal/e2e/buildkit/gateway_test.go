package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// direct has f direct a build.
func (d *daemon) direct(ctx context.Context, opt client.SolveOpt, f gateway.BuildFunc) (*client.SolveResponse, *progress, error) {
	d.t.Helper()
	ch := make(chan *client.SolveStatus)
	var p *progress
	var wg sync.WaitGroup
	wg.Go(func() { p = take(ch) })
	resp, err := d.c.Build(ctx, opt, "boxbuild", f, ch)
	wg.Wait()
	return resp, p, err
}

// solved solves a state, and returns its only reference.
func solved(ctx context.Context, c gateway.Client, s llb.State, evaluate bool) (gateway.Reference, error) {
	def, err := s.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: evaluate})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}

func shell(s llb.State, script string) llb.State {
	return s.Run(llb.Args([]string{"/bin/sh", "-c", script})).Root()
}

// TestDirectFiles checks that a client which directs a build sees the files of what it has solved: whole and in part,
// through symlinks, and listed; and that what it returns is what is exported.
func TestDirectFiles(t *testing.T) {
	d := start(t)
	d.load()
	dest := t.TempDir()
	opt := client.SolveOpt{Exports: []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dest}}}
	_, p, err := d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, err := solved(ctx, c, shell(llb.Image("busybox"),
			"mkdir -p /d/sub && printf 0123456789 > /d/file && ln -s /d/file /d/link && touch /d/other.txt && chmod 4755 /d/file"), false)
		if err != nil {
			return nil, err
		}
		for _, tc := range []struct {
			name string
			r    *gateway.FileRange
			want string
		}{
			{"/d/file", nil, "0123456789"},
			{"d/link", nil, "0123456789"},
			{"/d/file", &gateway.FileRange{Offset: 3, Length: 4}, "3456"},
			{"/d/file", &gateway.FileRange{Offset: 8, Length: 40}, "89"},
			{"/d/file", &gateway.FileRange{Offset: 80, Length: 4}, ""},
			{"/d/file", &gateway.FileRange{Offset: 3}, ""},
		} {
			got, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: tc.name, Range: tc.r})
			if err != nil || string(got) != tc.want {
				t.Errorf("%s %+v: got %q, %v, want %q", tc.name, tc.r, got, err, tc.want)
			}
		}
		if _, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: "/none"}); err == nil || !strings.Contains(err.Error(), "no such file") && !strings.Contains(err.Error(), "not found") {
			t.Errorf("a file that is not there: %v", err)
		}
		list, err := ref.ReadDir(ctx, gateway.ReadDirRequest{Path: "/d"})
		var names []string
		for _, st := range list {
			names = append(names, fmt.Sprintf("%s %v", st.Path, os.FileMode(st.Mode)))
		}
		want := []string{"file urwxr-xr-x", "link Lrwxrwxrwx", "other.txt -rw-r--r--", "sub drwxr-xr-x"}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("listed: got %q, %v, want %q", names, err, want)
		}
		list, err = ref.ReadDir(ctx, gateway.ReadDirRequest{Path: "/d", IncludePattern: "*.txt"})
		if err != nil || len(list) != 1 || list[0].Path != "other.txt" {
			t.Errorf("listed by a pattern: got %v, %v", list, err)
		}
		st, err := ref.StatFile(ctx, gateway.StatRequest{Path: "/d/link"})
		if err != nil || st.Size != 10 || st.Path != "file" {
			t.Errorf("described: got %v, %v", st, err)
		}
		if err := ref.Evaluate(ctx); err != nil {
			t.Error(err)
		}
		return c.Solve(ctx, gateway.SolveRequest{Definition: definition(ctx, t, llb.Scratch().File(llb.Mkfile("/made", 0o644, []byte("x"))))})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dest, "made")); err != nil || string(got) != "x" {
		t.Errorf("exported: %q, %v", got, err)
	}
	n := 0
	for _, name := range p.order {
		if strings.Contains(name, "mkdir -p /d/sub") {
			n++
			if p.vertices[name].Cached {
				t.Errorf("%q is told to be cached", name)
			}
		}
	}
	if n != 1 {
		t.Errorf("the step is told of %d times: %q", n, p.order)
	}
}

func definition(ctx context.Context, t *testing.T, s llb.State) *pb.Definition {
	t.Helper()
	def, err := s.Marshal(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

// TestDirectFailure checks that a step's failure says which step it was, with what exit code, when it is asked for and not
// before; and that the other steps of the build go on.
func TestDirectFailure(t *testing.T) {
	d := start(t)
	d.load()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		bad := shell(llb.Image("busybox"), "echo complaint >&2; exit 7")
		ref, err := solved(ctx, c, bad, false)
		if err != nil {
			t.Errorf("it failed before it was asked for: %v", err)
			return nil, err
		}
		check := func(what string, err error) {
			t.Helper()
			var exit *gatewaypb.ExitError
			var solve *errdefs.SolveError
			var vertex *errdefs.VertexError
			switch {
			case !errors.As(err, &exit) || exit.ExitCode != 7:
				t.Errorf("%s: %v has no exit code", what, err)
			case !errors.As(err, &vertex) || vertex.GetDigest() == "":
				t.Errorf("%s: %v names no vertex", what, err)
			case !errors.As(err, &solve) || len(solve.GetMountIDs()) != 1 || solve.GetOp().GetExec().GetMeta().GetArgs()[0] != "/bin/sh":
				t.Errorf("%s: %v does not have the operation", what, err)
			}
		}
		check("Evaluate", ref.Evaluate(ctx))
		_, err = ref.ReadFile(ctx, gateway.ReadRequest{Filename: "/x"})
		check("ReadFile", err)
		_, err = solved(ctx, c, bad, true)
		check("Solve", err)
		// What the command saw can be looked at.
		var solve *errdefs.SolveError
		if errors.As(err, &solve) {
			ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", ResultID: solve.GetMountIDs()[0], MountType: pb.MountType_BIND}}})
			if err != nil {
				t.Error(err)
			} else {
				out, err := inContainer(ctx, ctr, gateway.StartRequest{Args: []string{"ls", "/bin/sh"}})
				if err != nil || out != "/bin/sh\n" {
					t.Errorf("in the debugging container: %q, %v", out, err)
				}
				if err := ctr.Release(ctx); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := solved(ctx, c, shell(llb.Image("busybox"), "true"), true); err != nil {
			t.Errorf("the build does not go on: %v", err)
		}
		return c.Solve(ctx, gateway.SolveRequest{Definition: definition(ctx, t, bad)})
	})
	var exit *gatewaypb.ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 7 {
		t.Errorf("the build's failure is %v", err)
	}
	// What a client returns as an error is the build's.
	_, _, err = d.direct(t.Context(), client.SolveOpt{}, func(context.Context, gateway.Client) (*gateway.Result, error) {
		return nil, errors.New("I do not like it")
	})
	if err == nil || !strings.Contains(err.Error(), "I do not like it") {
		t.Errorf("got %v", err)
	}
}

// inContainer runs a process to its end, and returns its output.
func inContainer(ctx context.Context, ctr gateway.Container, req gateway.StartRequest) (string, error) {
	var out bytes.Buffer
	req.Stdout = nopCloser{&out}
	if !req.Tty && req.Stderr == nil {
		req.Stderr = nopCloser{io.Discard}
	}
	p, err := ctr.Start(ctx, req)
	if err != nil {
		return "", err
	}
	err = p.Wait()
	return out.String(), err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestDirectContainer checks processes in containers: their streams, exit codes, terminals, signals, secrets and mounts,
// that several run at once, and that the files of a container can be looked at while it runs.
func TestDirectContainer(t *testing.T) {
	d := start(t)
	d.load()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		base, err := solved(ctx, c, llb.Image("busybox"), false)
		if err != nil {
			return nil, err
		}
		extra, err := solved(ctx, c, llb.Scratch().File(llb.Mkfile("/note", 0o644, []byte("a note"))), false)
		if err != nil {
			return nil, err
		}
		ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{
			Hostname: "thehost", ExtraHosts: []*pb.HostIP{{Host: "other", IP: "10.1.2.3"}},
			Mounts: []gateway.Mount{
				{Dest: "/", Ref: base, MountType: pb.MountType_BIND},
				{Dest: "/extra", Ref: extra, MountType: pb.MountType_BIND, Readonly: true},
				{Dest: "/cache", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}},
				{Dest: "/tmpfs", MountType: pb.MountType_TMPFS},
			},
		})
		if err != nil {
			return nil, err
		}
		defer ctr.Release(ctx)
		// The first process is what the container lives by.
		in, stdin := io.Pipe()
		first, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"cat"}, Stdin: in, Stdout: nopCloser{io.Discard}})
		if err != nil {
			return nil, err
		}
		for _, tc := range []struct {
			name string
			req  gateway.StartRequest
			want string
			code uint32
		}{
			{"input", gateway.StartRequest{Args: []string{"cat"}, Stdin: io.NopCloser(strings.NewReader(strings.Repeat("long ", 1<<18)))}, strings.Repeat("long ", 1<<18), 0},
			{"code", gateway.StartRequest{Args: []string{"sh", "-c", "echo out; exit 3"}}, "out\n", 3},
			{"environment", gateway.StartRequest{Args: []string{"sh", "-c", "echo $A $PWD $(id -u) $(hostname)"}, Env: []string{"A=b"}, Cwd: "/tmp", User: "1000"}, "b /tmp 1000 thehost\n", 0},
			{"terminal", gateway.StartRequest{Args: []string{"sh", "-c", "test -t 0 && test -t 1 && echo $TERM"}, Tty: true, Stdin: io.NopCloser(strings.NewReader(""))}, "xterm\r\n", 0},
			{"hosts", gateway.StartRequest{Args: []string{"grep", "other", "/etc/hosts"}}, "10.1.2.3\tother\n", 0},
			{"mount", gateway.StartRequest{Args: []string{"cat", "/extra/note"}}, "a note", 0},
			{"read-only", gateway.StartRequest{Args: []string{"sh", "-c", "echo x > /extra/note"}}, "", 1},
			{"others", gateway.StartRequest{Args: []string{"sh", "-c", "echo x > /cache/x && echo x > /tmpfs/x && echo fresh > /made"}}, "", 0},
			{"missing", gateway.StartRequest{Args: []string{"/no/such"}}, "", 127},
		} {
			got, err := inContainer(ctx, ctr, tc.req)
			var exit *gatewaypb.ExitError
			var code uint32
			if errors.As(err, &exit) {
				code = exit.ExitCode
			} else if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			if got != tc.want || code != tc.code {
				t.Errorf("%s: got %.100q (%d bytes) and code %d, want %.100q and %d", tc.name, got, len(got), code, tc.want, tc.code)
			}
		}
		data, err := ctr.ReadFile(ctx, gateway.ReadContainerRequest{ReadRequest: gateway.ReadRequest{Filename: "/made"}})
		if err != nil || string(data) != "fresh\n" {
			t.Errorf("read in the container: %q, %v", data, err)
		}
		data, err = ctr.ReadFile(ctx, gateway.ReadContainerRequest{ReadRequest: gateway.ReadRequest{Filename: "/note", Range: &gateway.FileRange{Offset: 2, Length: 3}}, MountIndex: 1})
		if err != nil || string(data) != "not" {
			t.Errorf("read in a mount: %q, %v", data, err)
		}
		list, err := ctr.ReadDir(ctx, gateway.ReadDirContainerRequest{ReadDirRequest: gateway.ReadDirRequest{Path: "/"}, MountIndex: 2})
		if err != nil || len(list) != 1 || list[0].Path != "x" {
			t.Errorf("listed in a mount: %v, %v", list, err)
		}
		st, err := ctr.StatFile(ctx, gateway.StatContainerRequest{StatRequest: gateway.StatRequest{Path: "/made"}})
		if err != nil || st.Size != 6 || st.Path != "made" {
			t.Errorf("described in the container: %v, %v", st, err)
		}
		for _, index := range []int{3, 4, -1} {
			if _, err := ctr.StatFile(ctx, gateway.StatContainerRequest{StatRequest: gateway.StatRequest{Path: "/"}, MountIndex: index}); err == nil {
				t.Errorf("mount %d can be looked at", index)
			}
		}
		signalled(ctx, t, ctr)
		stdin.Close()
		if err := first.Wait(); err != nil {
			t.Errorf("the first process: %v", err)
		}
		return gateway.NewResult(), released(ctx, t, c, base)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// released checks that nothing can be started in a container that has been released, and that this harms no other.
func released(ctx context.Context, t *testing.T, c gateway.Client, base gateway.Reference) error {
	t.Helper()
	mounts := []gateway.Mount{{Dest: "/", Ref: base, MountType: pb.MountType_BIND}}
	other, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: mounts})
	if err != nil {
		return err
	}
	defer other.Release(ctx)
	gone, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: mounts})
	if err != nil {
		return err
	}
	in, stdin := io.Pipe()
	var out bytes.Buffer
	p, err := other.Start(ctx, gateway.StartRequest{Args: []string{"cat"}, Stdin: in, Stdout: nopCloser{&out}})
	if err != nil {
		return err
	}
	if err := gone.Release(ctx); err != nil {
		return err
	}
	for range 2 {
		p, err := gone.Start(ctx, gateway.StartRequest{
			Args: []string{"true"}, Stdin: io.NopCloser(strings.NewReader("x")), Stdout: nopCloser{io.Discard},
		})
		if err == nil || p != nil {
			t.Errorf("a process is started in a container that was released: %v", err)
		}
	}
	if _, err := io.WriteString(stdin, "still there"); err != nil {
		t.Error(err)
	}
	stdin.Close()
	if err := p.Wait(); err != nil || out.String() != "still there" {
		t.Errorf("the other container: %q, %v", out.String(), err)
	}
	return nil
}

// signalled checks signals and sizes of terminals.
func signalled(ctx context.Context, t *testing.T, ctr gateway.Container) {
	t.Helper()
	r, w := io.Pipe()
	p, err := ctr.Start(ctx, gateway.StartRequest{
		Args: []string{"sh", "-c", `trap 'stty size; exit 4' WINCH; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.02; done`},
		Tty:  true, Stdout: w,
	})
	if err != nil {
		t.Error(err)
		return
	}
	wait(r, "ready")
	rest := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		rest <- string(b)
	}()
	if err := p.Resize(ctx, gateway.WinSize{Rows: 33, Cols: 77}); err != nil {
		t.Error(err)
	}
	err = p.Wait()
	w.Close()
	var exit *gatewaypb.ExitError
	if got := <-rest; !errors.As(err, &exit) || exit.ExitCode != 4 || !strings.Contains(got, "33 77") {
		t.Errorf("after resizing: %q, %v", got, err)
	}
	r, w = io.Pipe()
	p, err = ctr.Start(ctx, gateway.StartRequest{
		Args: []string{"sh", "-c", `trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done`}, Stdout: w,
	})
	if err != nil {
		t.Error(err)
		return
	}
	wait(r, "ready")
	go func() { _, _ = io.Copy(io.Discard, r) }()
	if err := p.Signal(ctx, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode != 5 {
		t.Errorf("after a signal: %v", err)
	}
}

// wait reads until text has come.
func wait(r io.Reader, text string) {
	var got []byte
	for b := make([]byte, 1); !strings.Contains(string(got), text); {
		if _, err := r.Read(b); err != nil {
			return
		}
		got = append(got, b...)
	}
}

// TestDirectPlatforms checks that a result for several platforms becomes an index whose images have the configurations
// that the client wrote, with fields that nobody here knows.
func TestDirectPlatforms(t *testing.T) {
	d := start(t)
	var buf bytes.Buffer
	opt := client.SolveOpt{Exports: []client.ExportEntry{{
		Type: client.ExporterOCI, Attrs: map[string]string{"tar": "true"},
		Output: func(map[string]string) (io.WriteCloser, error) { return nopCloser{&buf}, nil },
	}}}
	resp, _, err := d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		res := gateway.NewResult()
		type platform struct {
			ID       string
			Platform ocispec.Platform
		}
		var list struct{ Platforms []platform }
		for _, arch := range []string{"amd64", "arm64"} {
			id := "linux/" + arch
			ref, err := solved(ctx, c, llb.Scratch().File(llb.Mkfile("/arch", 0o644, []byte(arch))), false)
			if err != nil {
				return nil, err
			}
			res.AddRef(id, ref)
			res.AddMeta("containerimage.config/"+id, []byte(`{"os":"linux","architecture":"`+arch+`","x-mine":{"n":1},"config":{"Labels":{"a":"`+arch+`"},"X-Other":true}}`))
			list.Platforms = append(list.Platforms, platform{id, ocispec.Platform{OS: "linux", Architecture: arch}})
		}
		raw, err := json.Marshal(list)
		res.AddMeta("refs.platforms", raw)
		return res, err
	})
	if err != nil {
		t.Fatal(err)
	}
	files := readTar(t, &buf)
	read := func(d digest.Digest, v any) {
		t.Helper()
		if err := json.Unmarshal([]byte(files["blobs/sha256/"+d.Encoded()]), v); err != nil {
			t.Fatalf("reading %s: %v", d, err)
		}
	}
	var index ocispec.Index
	read(digest.Digest(resp.ExporterResponse["containerimage.digest"]), &index)
	if len(index.Manifests) != 2 {
		t.Fatalf("got %+v", index)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		var m ocispec.Manifest
		read(index.Manifests[i].Digest, &m)
		var cfg struct {
			Architecture string          `json:"architecture"`
			Mine         json.RawMessage `json:"x-mine"`
			Config       map[string]any  `json:"config"`
			RootFS       ocispec.RootFS  `json:"rootfs"`
		}
		read(m.Config.Digest, &cfg)
		if cfg.Architecture != arch || string(cfg.Mine) != `{"n":1}` || cfg.Config["X-Other"] != true || len(cfg.RootFS.DiffIDs) != 1 || len(m.Layers) != 1 {
			t.Errorf("got %+v", cfg)
		}
		if p := index.Manifests[i].Platform; p == nil || p.Architecture != arch {
			t.Errorf("the index has %+v", p)
		}
	}
}
