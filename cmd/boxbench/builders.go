package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A builder builds the Dockerfile of a directory.
type builder interface {
	name() string
	start(ctx context.Context) error
	stop()
	// build builds dir. dest is where the files of the result go, or empty for an image that stays in the store.
	build(ctx context.Context, dir, dest string) error
}

// newBuilder returns the builder called name, with its state below dir, or nil if it is not on PATH.
func newBuilder(name, dir string) builder {
	need := map[string][]string{
		"boxbuild": {"boxbuild", "boxbuildd", "boxshim"},
		"buildctl": {"buildctl", "buildkitd"},
		"buildah":  {"buildah"},
		"podman":   {"podman"},
	}[name]
	if need == nil {
		return nil
	}
	for _, p := range need {
		if _, err := exec.LookPath(p); err != nil {
			return nil
		}
	}
	switch name {
	case "boxbuild":
		return &boxbuild{daemon: daemon{dir: dir}}
	case "buildctl":
		return &buildctl{daemon: daemon{dir: dir}}
	}
	return &podman{program: name, dir: dir}
}

// run runs a command and, if it fails, says what it printed.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // a grandchild may keep the output open after a kill
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, tail(out.String()))
	}
	return nil
}

// tail returns the end of what a program printed, for an error.
func tail(s string) string {
	const keep = 600
	if len(s) > keep {
		s = s[len(s)-keep:]
	}
	return strings.TrimSpace(s)
}

// A daemon is a background process of a builder's.
type daemon struct {
	dir   string
	cmd   *exec.Cmd
	ended chan struct{} // nil until it was started; closed when it has ended
}

func (d *daemon) spawn(ctx context.Context, socket string, args ...string) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(args[0], args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.ended = make(chan struct{})
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	limit := time.After(startLimit)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.ended:
			return fmt.Errorf("it ended at once: %s", d.log())
		case <-limit:
			return fmt.Errorf("nothing listens at %s: %s", socket, d.log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// log returns the end of what the daemon printed.
func (d *daemon) log() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return tail(string(text))
}

// How long a daemon may take to listen, and to end, before it is killed.
const (
	startLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
)

// stop ends the daemon, if it runs, and returns when it has ended.
func (d *daemon) stop() {
	if d.ended == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(stopLimit):
		fmt.Fprintf(os.Stderr, "%s did not end within %s of SIGTERM: killing it\n", d.cmd.Path, stopLimit)
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
}

// memory returns the resident bytes of the daemon.
func (d *daemon) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS")
}

type boxbuild struct{ daemon }

func (*boxbuild) name() string     { return "boxbuild" }
func (b *boxbuild) socket() string { return filepath.Join(b.dir, "boxbuild.sock") }

func (b *boxbuild) start(ctx context.Context) error {
	return b.spawn(ctx, b.socket(), "boxbuildd", "--root", filepath.Join(b.dir, "root"), "--addr", "unix://"+b.socket())
}

func (b *boxbuild) build(ctx context.Context, dir, dest string) error {
	args := []string{"--addr", "unix://" + b.socket(), "build", "-q", "-t", "bench:1"}
	if dest != "" {
		args = append(args, "-o", dest)
	}
	return run(ctx, "boxbuild", append(args, dir)...)
}

type buildctl struct{ daemon }

func (*buildctl) name() string     { return "buildctl" }
func (b *buildctl) socket() string { return filepath.Join(b.dir, "buildkitd.sock") }

func (b *buildctl) start(ctx context.Context) error {
	return b.spawn(ctx, b.socket(), "buildkitd", "--root", filepath.Join(b.dir, "root"), "--addr", "unix://"+b.socket(),
		"--oci-worker-net", "host", "--oci-worker-gc=false", "--containerd-worker=false")
}

// build keeps the result in BuildKit's cache when no files are asked for, which spares it the export of an image. Files
// come as a tar: at tens of thousands of them its exporter to a directory stops for ever now and then.
func (b *buildctl) build(ctx context.Context, dir, dest string) error {
	args := []string{
		"--addr", "unix://" + b.socket(), "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir, "--local", "dockerfile=" + dir,
	}
	if dest == "" {
		return run(ctx, "buildctl", args...)
	}
	tar := dest + ".tar"
	defer func() { _ = os.Remove(tar) }()
	if err := run(ctx, "buildctl", append(args, "--output", "type=tar,dest="+tar)...); err != nil {
		return err
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	return run(ctx, "tar", "-xf", tar, "-C", dest)
}

// A podman is podman or buildah: both build in their own process, on the same library.
type podman struct{ program, dir string }

func (p *podman) name() string                  { return p.program }
func (p *podman) start(_ context.Context) error { return os.MkdirAll(p.dir, 0o700) }
func (p *podman) global() []string {
	return []string{"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--storage-driver", "overlay"}
}

func (p *podman) stop() {
	_ = run(context.Background(), p.program, append(p.global(), "rmi", "-a", "-f")...)
	_ = run(context.Background(), "umount", filepath.Join(p.dir, "root", "overlay"))
}

func (p *podman) build(ctx context.Context, dir, dest string) error {
	args := append(p.global(), "build", "--layers", "--runtime", "runc", "--network", "host", "-q", "-t", "bench:1")
	if dest != "" {
		args = append(args, "-o", dest)
	}
	return run(ctx, p.program, append(args, dir)...)
}
