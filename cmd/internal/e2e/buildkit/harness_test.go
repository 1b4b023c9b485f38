package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// A daemon is a boxbuildd of one test.
type daemon struct {
	t      *testing.T
	root   string
	socket string
	bases  string
	flags  []string
	cmd    *exec.Cmd
	log    bytes.Buffer // what it says; read once it has ended
	c      *client.Client
	debug  *http.Client // asks for profiles; nil unless observed
}

// start starts a daemon, and connects to it. Flags are the daemon's.
func start(t *testing.T, flags ...string) *daemon {
	t.Helper()
	return startIn(t, "", flags...)
}

// startIn is start with a root in that directory; "" for one of its own.
func startIn(t *testing.T, parent string, flags ...string) *daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bin, bases := os.Getenv("BOXBUILD_BIN"), os.Getenv("BOXBUILD_BASES")
	if bin == "" || bases == "" {
		t.Skip("BOXBUILD_BIN or BOXBUILD_BASES is not set; `make test` sets them")
	}
	dir, err := os.MkdirTemp("", "bk") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, root: filepath.Join(dir, "r"), socket: filepath.Join(dir, "s"), bases: bases}
	if parent != "" {
		d.root = filepath.Join(parent, "r")
	}
	d.flags = flags
	d.launch()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.log.String())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d.answers()
	if d.c, err = client.New(context.Background(), d.addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.c.Close() })
	if err := d.c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// launch starts the program.
func (d *daemon) launch() {
	d.t.Helper()
	args := append([]string{"--root", d.root, "--addr", d.addr()}, d.flags...)
	d.cmd = exec.Command(filepath.Join(os.Getenv("BOXBUILD_BIN"), "boxbuildd"), args...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// answers waits until the daemon does.
func (d *daemon) answers() {
	for { // the client itself tries once a second
		conn, err := net.Dial("unix", strings.TrimPrefix(d.addr(), "unix://"))
		if err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the daemon, and checks that nothing of it is left. It may be called again.
func (d *daemon) stop() {
	if d.cmd.ProcessState != nil {
		return
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Error(err)
	}
	_ = d.cmd.Wait() // how it ends is tested elsewhere
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Error(err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, d.root) {
			d.t.Errorf("a mount is left: %s", line)
		}
	}
}

// load puts the base image into the daemon's store.
func (d *daemon) load() {
	d.t.Helper()
	d.boxbuild("import", filepath.Join(d.bases, "busybox.tar"), "busybox")
}

// boxbuild runs the daemon's own command line, and returns what it prints.
func (d *daemon) boxbuild(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("BOXBUILD_BIN"), "boxbuild"), args...)
	cmd.Env = append(os.Environ(), "BOXBUILD_ADDR="+d.addr(), "BOXBUILD_ROOT="+d.root)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("boxbuild %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *daemon) addr() string { return "unix://" + d.socket }

// tree makes a directory with these files.
func tree(t *testing.T, files map[string]string) fsutil.FS {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// opts are the options for building a directory that has a Dockerfile.
func opts(t *testing.T, files map[string]string) client.SolveOpt {
	t.Helper()
	fs := tree(t, files)
	return client.SolveOpt{
		Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{},
		LocalMounts: map[string]fsutil.FS{"context": fs, "dockerfile": fs},
	}
}

// A progress is what a client has been told of a build.
type progress struct {
	vertices map[string]*client.Vertex // by name, as told last
	order    []string
	logs     map[string]string // by the vertex's name
	warnings []*client.VertexWarning
	statuses []*client.VertexStatus
	names    map[string]string // by digest
}

// take takes all that is told.
func take(ch chan *client.SolveStatus) *progress {
	p := &progress{vertices: map[string]*client.Vertex{}, logs: map[string]string{}, names: map[string]string{}}
	for s := range ch {
		for _, v := range s.Vertexes {
			if _, ok := p.names[v.Digest.String()]; !ok {
				p.order = append(p.order, v.Name)
			}
			p.names[v.Digest.String()] = v.Name
			p.vertices[v.Name] = v
		}
		for _, l := range s.Logs {
			p.logs[p.names[l.Vertex.String()]] += string(l.Data)
		}
		p.warnings = append(p.warnings, s.Warnings...)
		p.statuses = append(p.statuses, s.Statuses...)
	}
	return p
}

// has says whether a vertex whose name contains text was told of, and returns it.
func (p *progress) has(text string) *client.Vertex {
	for _, n := range p.order {
		if strings.Contains(n, text) {
			return p.vertices[n]
		}
	}
	return nil
}

// solve builds as opt says, and returns what came of it and what was told.
func (d *daemon) solve(ctx context.Context, opt client.SolveOpt) (*client.SolveResponse, *progress, error) {
	d.t.Helper()
	ch := make(chan *client.SolveStatus)
	var p *progress
	var wg sync.WaitGroup
	wg.Go(func() { p = take(ch) })
	resp, err := d.c.Solve(ctx, nil, opt, ch)
	wg.Wait()
	return resp, p, err
}

// must is solve for builds that have to succeed.
func (d *daemon) must(opt client.SolveOpt) (*client.SolveResponse, *progress) {
	d.t.Helper()
	resp, p, err := d.solve(d.t.Context(), opt)
	if err != nil {
		d.t.Fatalf("%v\nsteps: %s", err, strings.Join(p.order, "\n"))
	}
	return resp, p
}

// settled waits until the daemon runs no build's process: none below it but its own.
func (d *daemon) settled(marker string) error {
	if !comes(func() bool {
		return !slices.ContainsFunc(commands(), func(c string) bool { return strings.Contains(c, marker) })
	}) {
		return fmt.Errorf("%q still runs", marker)
	}
	return nil
}

// commands are the command lines of all processes.
func commands() []string {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			panic(err)
		}
		out = append(out, strings.ReplaceAll(string(text), "\x00", " "))
	}
	return out
}
