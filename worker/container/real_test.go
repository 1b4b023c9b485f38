package container

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/executortest"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// boxshim is built once, by whichever test needs it first.
var boxshim = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("BOXSHIM"); b != "" {
		return b, nil
	}
	out := filepath.Join(os.TempDir(), fmt.Sprintf("boxshim-%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-ldflags", "-s -w -linkmode external -extldflags -static",
		"-o", out, "github.com/boxbuild/boxbuild/cmd/boxshim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building boxshim: %w\n%s", err, said)
	}
	return out, nil
})

// The first thread of the process is TestMain's: one that has entered a namespace ends with its goroutine, which the first
// cannot, and /proc/self would be in that namespace from then on.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.Remove(filepath.Join(os.TempDir(), fmt.Sprintf("boxshim-%d", os.Getpid())))
	os.Exit(code)
}

var number atomic.Int64

// newReal returns a fixture whose containers are real, of an image with busybox.
func newReal(t *testing.T) *fixture {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	f := &fixture{T: t, dir: t.TempDir(), host: executortest.NewFakeHost(proc), net: newFakeNetwork(), seen: new(seen)}
	f.real, err = boxshim()
	f.must(err)
	f.cgroup = fmt.Sprintf("/boxbuild-ctest-%d-%d", os.Getpid(), number.Add(1))
	f.prepare = func(dir string) {
		for _, d := range []string{"bin", "etc", "tmp", "root", "proc", "sys", "dev", "data/sub"} {
			f.must(os.MkdirAll(filepath.Join(dir, d), 0o755))
		}
		f.must(os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
		for name := range strings.FieldsSeq("sh cat echo sleep ls rm mkdir id env touch ln mv true chown mount hostname dd") {
			f.must(os.Symlink("busybox", filepath.Join(dir, "bin", name)))
		}
		f.must(os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/:/bin/sh\n"), 0o644))
		f.must(os.WriteFile(filepath.Join(dir, "data/sub/file"), []byte("of the image"), 0o640))
		f.must(os.Chown(filepath.Join(dir, "data"), 1000, 1001))
		f.must(os.Chmod(filepath.Join(dir, "data"), 0o711))
	}
	f.open()
	t.Cleanup(func() {
		for _, c := range f.all() {
			f.must(f.Remove(context.Background(), c.id, worker.RemoveContainerOptions{Force: true, Volumes: true}))
		}
		f.close()
		tree := cgroup.At(cgroup.Root)
		if left := tree.Processes(f.cgroup); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		if err := tree.Remove(f.cgroup); err != nil {
			t.Error(err)
		}
	})
	f.addImage("busybox:latest", &frontend.ImageConfig{}, nil)
	return f
}

func sh(script string) *worker.ContainerCreate { return request("/bin/sh", "-c", script) }

// A real container: its output, its files, its changes, its end; and again; and nothing is left.
func TestReal(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	id := f.run(sh(`echo out; echo err >&2; echo made > /made; rm -r /data; echo x >> /etc/passwd; hostname; exit 4`))
	if code := f.await(id); code != 4 {
		t.Errorf("code is %d", code)
	}
	f.inPhase(id, Exited)
	said := strings.Split(f.logs(id), "\n") // the order of two streams is nobody's promise
	want := []string{"", id[:12], "err", "out"}
	slices.Sort(said)
	slices.Sort(want)
	if !slices.Equal(said, want) {
		t.Errorf("it said %q, want %q", said, want)
	}
	changes, err := f.Changes(ctx, id)
	f.must(err)
	var got []string
	for _, c := range changes {
		got = append(got, string("CAD"[c.Kind])+c.Path)
	}
	if s := strings.Join(got, " "); s != "D/data C/etc C/etc/passwd A/made" {
		t.Errorf("changes are %s", s)
	}
	still := f.run(sh("chown 0:0 /etc/passwd; : >> /data/sub/file")) // which overlayfs copies up
	f.await(still)
	if changes, err := f.Changes(ctx, still); err != nil || len(changes) > 0 {
		t.Errorf("of one that has changed nothing: %v, %v", changes, err)
	}
	f.must(f.Remove(ctx, still, worker.RemoveContainerOptions{}))
	f.must(f.Start(ctx, id))
	if code := f.await(id); code != 4 {
		t.Errorf("code is %d", code)
	}
	in, err := f.Inspect(ctx, id, true)
	f.must(err)
	if *in.SizeRw == 0 || *in.SizeRootFs != *in.SizeRw+imageSize || in.State.Pid != 0 || in.GraphDriver.Data["UpperDir"] == "" {
		t.Errorf("inspect is %+v", in)
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	f.empty()
}

// Commands that cannot be executed are told apart as docker's clients expect, and leave nothing running.
func TestRealMissing(t *testing.T) {
	f := newReal(t)
	running := f.run(sh("sleep 1000"))
	for cmd, want := range map[string]struct {
		text string
		code int
	}{
		"":            {`exec: "": executable file not found in $PATH`, 127},
		"nosuch":      {`exec: "nosuch": executable file not found in $PATH`, 127},
		"/no/such":    {`exec: "/no/such": stat /no/such: no such file or directory`, 127},
		"/etc/passwd": {`permission denied`, 126},
	} {
		id := f.create(request(cmd))
		f.want(f.Start(t.Context(), id), want.text)
		in, err := f.Inspect(t.Context(), id, false)
		f.must(err)
		if in.State.ExitCode != want.code || in.State.Status != "created" || !strings.Contains(in.State.Error, want.text) {
			t.Errorf("%s: state is %+v", cmd, in.State)
		}
		if code := f.execFails(running, &container.ExecCreateRequest{Cmd: []string{cmd}}, want.text); code != want.code {
			t.Errorf("exec of %q ends with %d, want %d", cmd, code, want.code)
		}
	}
}

// execFails starts an exec that does not come to run, and returns the exit code that it is said to have.
func (f *fixture) execFails(id string, req *container.ExecCreateRequest, text string) int {
	f.Helper()
	exec, err := f.ExecCreate(f.Context(), id, req)
	f.must(err)
	f.want(second(f.ExecStart(f.Context(), exec, &container.ExecStartRequest{}, executor.Streams{})), text)
	in, err := f.ExecInspect(f.Context(), exec)
	f.must(err)
	if in.Running || in.ExitCode == nil {
		f.Fatalf("%q: exec is %+v", req.Cmd, in)
	}
	return *in.ExitCode
}

// An exec as a user or group that there is not ends with 126, as in docker; so does one that may not go where it is to run.
func TestRealExecNobody(t *testing.T) {
	f := newReal(t)
	id := f.run(sh("sleep 1000"))
	for text, req := range map[string]*container.ExecCreateRequest{
		"unable to find user nosuch: no matching entries in passwd file":    {User: "nosuch"},
		"unable to find group nosuch: no matching entries in group file":    {User: "0:nosuch"},
		"chdir to cwd (\"/etc/passwd\") set in config.json failed: not a d": {WorkingDir: "/etc/passwd"},
	} {
		req.Cmd = []string{"true"}
		if code := f.execFails(id, req, text); code != 126 {
			t.Errorf("%s: ends with %d, want 126", text, code)
		}
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
	f.empty()
}

// Files go in and out of containers that run and that do not, volumes and read-only places included.
func TestRealFiles(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	for _, running := range []bool{false, true} {
		req := sh("mkdir -p /run/mounted; sleep 1000")
		req.HostConfig.Binds = []string{"vol:/data", f.dir + ":/host:ro"}
		req.User = "user"
		id := f.create(req)
		if running {
			f.must(f.Start(ctx, id))
		}
		put := func(dir string, opt worker.CopyToOptions, h tar.Header, content string) error {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			h.Size, h.Mode = int64(len(content)), 0o600
			f.must(w.WriteHeader(&h))
			_, _ = io.WriteString(w, content)
			f.must(w.Close())
			return f.CopyTo(ctx, id, dir, &b, opt)
		}
		f.must(put("/tmp", worker.CopyToOptions{}, tar.Header{Name: "a", Typeflag: tar.TypeReg}, "one"))
		f.must(put("/data/sub", worker.CopyToOptions{CopyUIDGID: true}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, "two"))
		f.want(put("/host", worker.CopyToOptions{}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, "x"), "mounted volume is marked read-only")
		f.want(put("/none", worker.CopyToOptions{}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, "x"), "Could not find the file /none in container")
		if running { // nobody can make a file there, but the directory is not missing
			f.want(put("/proc", worker.CopyToOptions{}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, "x"), "writing to the path /proc in container "+id)
		}
		f.must(put("/tmp", worker.CopyToOptions{}, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/../../../../etc"}, ""))
		f.must(put("/tmp/out", worker.CopyToOptions{}, tar.Header{Name: "inside", Typeflag: tar.TypeReg}, "x"))
		if _, err := os.Lstat("/etc/inside"); err == nil {
			t.Fatal("a file was written outside of the container")
		}
		for path, want := range map[string]string{
			"/tmp/a": "a=one", "/data/sub/b": "b=two", "/data/sub/file": "file=of the image", "/etc/inside": "inside=x",
		} {
			if got := f.get(id, path); got != want {
				t.Errorf("running %v: %s has %q, want %q", running, path, got, want)
			}
		}
		st, err := f.StatPath(ctx, id, "/tmp/out")
		f.must(err)
		if st.LinkTarget != "/etc" || st.Name != "out" {
			t.Errorf("the link is %+v", st)
		}
		v, err := f.vols.Inspect(ctx, "vol")
		f.must(err)
		var file unix.Stat_t
		f.must(unix.Stat(v.Mountpoint+"/sub/b", &file))
		var top unix.Stat_t
		f.must(unix.Stat(v.Mountpoint, &top))
		if file.Uid != 1000 || file.Gid != 1001 || top.Uid != 1000 || top.Mode&0o777 != 0o711 {
			t.Errorf("owners are %d:%d and %d, mode %o", file.Uid, file.Gid, top.Uid, top.Mode)
		}
		f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Force: true}))
		f.must(f.vols.Remove(ctx, "vol", false))
	}
}

// get returns the one file at a path, "name=content".
func (f *fixture) get(id, path string) string {
	f.Helper()
	var b bytes.Buffer
	err := f.CopyFrom(f.Context(), id, path, func(*container.PathStat) io.Writer { return &b })
	if err != nil {
		return err.Error()
	}
	r := tar.NewReader(&b)
	h, err := r.Next()
	f.must(err)
	content, err := io.ReadAll(r)
	f.must(err)
	return h.Name + "=" + string(content)
}

// Export has the container's own files and nothing that is mounted in it, running or not.
func TestRealExport(t *testing.T) {
	f := newReal(t)
	for _, running := range []bool{false, true} {
		req := sh("echo made > /made; echo ready; sleep 1000")
		req.HostConfig.Binds = []string{"/usr/bin:/mounted"}
		id := f.create(req)
		if running {
			f.must(f.Start(t.Context(), id))
			waitSaid(f, id, "ready\n")
		}
		var b bytes.Buffer
		f.must(f.Export(t.Context(), id, &b))
		names := make(map[string]bool)
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			f.must(err)
			names[h.Name] = true
		}
		if !names["etc/passwd"] || !names["bin/"] || names["made"] != running || names["mounted/busybox"] || names["proc/1/"] {
			t.Errorf("running %v: the export is wrong: %d names", running, len(names))
		}
	}
}

// maker makes images only on paper.
type maker struct {
	f    *fixture
	tars []string
}

func (m *maker) Derive(ctx context.Context, d *worker.Derivation) (digest.Digest, error) {
	var b bytes.Buffer
	if err := d.Tar(ctx, &b); err != nil {
		return "", err
	}
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		names = append(names, h.Name)
	}
	m.tars = append(m.tars, strings.Join(names, " "))
	var c frontend.ImageConfig
	if err := d.Edit(&c); err != nil {
		return "", err
	}
	return m.f.addImage(d.Name, &c, nil), nil
}

func (m *maker) ApplyChanges(c *frontend.ImageConfig, changes []string) error {
	if slices.Contains(changes, "bad") {
		return errors.New("bad change")
	}
	c.Config.Env = append(c.Config.Env, changes...)
	return nil
}

// Commit takes what the container has changed, with the places to mount on that were made, pauses it meanwhile, and keeps its config.
func TestRealCommit(t *testing.T) {
	f := newReal(t)
	m := &maker{f: f}
	f.deps.Maker = m
	req := sh("echo made > /made; mkdir /kept; rm -r /data/sub; echo ready; sleep 1000")
	req.Env, req.HostConfig.Binds = []string{"A=b"}, []string{"/usr/bin:/deep/mounted"}
	id := f.run(req)
	waitSaid(f, id, "ready\n")
	changes, err := f.Changes(t.Context(), id)
	f.must(err)
	if got := fmt.Sprint(changes); got != "[{C /data} {D /data/sub} {A /deep} {A /deep/mounted} {A /kept} {A /made}]" {
		t.Errorf("changes are %s", got)
	}
	image, err := f.Commit(t.Context(), id, worker.CommitOptions{
		Name: "made:1", Changes: []string{"C=d"}, Config: &container.Config{User: "user"}, Author: "me", Message: "why",
	})
	f.must(err)
	if got := m.tars[0]; got != "data/ data/.wh.sub deep/ deep/mounted/ kept/ made" {
		t.Errorf("the layer has %q", got)
	}
	img, err := f.images.Get(image, nil)
	f.must(err)
	if s := string(img.Config); !strings.Contains(s, `"User":"user"`) || !strings.Contains(s, `"A=b","C=d"`) || !strings.Contains(s, `"author":"me"`) {
		t.Errorf("the config is %s", s)
	}
	if got := f.seen.of(id); got != "create start pause unpause commit" {
		t.Errorf("events are %s", got)
	}
	if got := f.state(id); got != "running 0" {
		t.Errorf("state is %s", got)
	}
	_, err = f.Commit(t.Context(), id, worker.CommitOptions{Name: "made:2", Changes: []string{"bad"}, NoPause: true})
	f.want(err, "bad change")
}

// A file that would remove another one as an entry of a layer is left out of the image, and the log says so.
func TestRealCommitWhiteout(t *testing.T) {
	f := newReal(t)
	m := &maker{f: f}
	f.deps.Maker = m
	var log bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	var last string
	for i, name := range []string{"x", ".wh.x"} {
		last = f.run(sh("mkdir /made && echo > /made/" + name))
		f.await(last)
		f.inPhase(last, Exited)
		_, err := f.Commit(t.Context(), last, worker.CommitOptions{Name: fmt.Sprintf("made:%d", i)})
		f.must(err)
	}
	if said := log.String(); strings.Count(said, "left out") != 1 || !strings.Contains(said, "container="+last+" file=/made/.wh.x") {
		t.Errorf("the log has not one warning, of the second: %s", said)
	}
	if got, want := fmt.Sprintf("%q", m.tars), `["made/ made/x" "made/"]`; got != want {
		t.Errorf("the layers are %s, want %s", got, want)
	}
}

// Mounts of all kinds are there, as they were asked for.
func TestRealMounts(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	f.addImage("other:1", &frontend.ImageConfig{}, map[string]string{"there/file": "other"})
	host := filepath.Join(f.dir, "host")
	req := sh(`cat /image/there/file; echo; cat /sub/file; echo; touch /image/x /ro/x; touch /tmpfs/x && echo tmpfs;
		echo w > /new/w; cat /etc/hosts; id`)
	req.HostConfig.Mounts = []mount.Mount{
		{Type: "image", Source: "other:1", Target: "/image"},
		{Type: "tmpfs", Target: "/tmpfs", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20}},
		{Type: "bind", Source: f.dir, Target: "/ro", ReadOnly: true},
	}
	req.HostConfig.Binds = []string{"vol:/data", host + ":/new"}
	req.User = "0:0"
	first := f.run(req)
	f.await(first)
	f.inPhase(first, Exited)
	said := f.logs(first)
	for _, want := range []string{"other\n", "/image/x: Read-only file system", "/ro/x: Read-only file system", "tmpfs\n", "localhost", "uid=0(root)"} {
		if !strings.Contains(said, want) {
			t.Errorf("it said %q, want %q in it", said, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(host, "w")); err != nil || string(b) != "w\n" {
		t.Errorf("the bind has %q, %v", b, err)
	}
	req = sh("cat /sub/file; ls /sub")
	req.HostConfig.Mounts = []mount.Mount{{Type: "volume", Source: "vol", Target: "/sub", VolumeOptions: &mount.VolumeOptions{Subpath: "sub"}}}
	id := f.run(req)
	f.await(id)
	f.inPhase(id, Exited)
	if got := f.logs(id); got != "of the imagefile\n" {
		t.Errorf("it said %q", got)
	}
	req.HostConfig.Mounts[0].VolumeOptions = &mount.VolumeOptions{Subpath: "none"}
	f.want(f.Start(ctx, f.create(req)), "cannot access path none")
}

// A daemon that is killed and its successor: the container runs on, its log is whole, and it is told of and obeys.
func TestRealKilled(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	req := sh(`i=0; trap 'echo bye; exit 7' TERM; while :; do echo $i; i=$((i+1)); sleep 0.01; done`)
	req.HostConfig.Binds = []string{"vol:/data"}
	id := f.run(req)
	before, err := f.Inspect(ctx, id, false)
	f.must(err)
	for range 3 {
		f.kill()
		in, err := f.Inspect(ctx, id, false)
		f.must(err)
		if in.State.Pid != before.State.Pid || in.State.Status != "running" {
			t.Fatalf("state is %+v, was %+v", in.State, before.State)
		}
	}
	exec, err := f.ExecCreate(ctx, id, &container.ExecCreateRequest{Cmd: []string{"/bin/echo", "hello"}, AttachStdout: true})
	f.must(err)
	conn, err := f.ExecStart(ctx, exec, &container.ExecStartRequest{}, executor.Streams{Stdout: true})
	f.must(err)
	if got := readAll(t, conn); got != "hello\n" {
		t.Errorf("exec said %q", got)
	}
	conn.Close()
	f.must(f.Pause(ctx, id))
	f.kill()
	if got := f.state(id); got != "paused 0" {
		t.Errorf("state is %s", got)
	}
	f.must(f.Unpause(ctx, id))
	f.must(f.Stop(ctx, id, worker.StopOptions{}))
	if got := f.state(id); got != "exited 7" {
		t.Errorf("state is %s", got)
	}
	lines := strings.Split(f.logs(id), "\n")
	for i, l := range lines[:len(lines)-2] {
		if l != fmt.Sprint(i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if got := lines[len(lines)-2]; got != "bye" {
		t.Errorf("the last line is %q", got)
	}
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	f.empty()
}

// Many containers at once, whose daemon is killed in the midst of it: none is lost, and none is left.
func TestRealMany(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req := sh("sleep 1000")
			if i%3 == 0 {
				req = sh("exit 3")
				req.HostConfig.AutoRemove = i%2 == 0
			}
			req.Name = fmt.Sprintf("many%d", i)
			out, err := f.Create(ctx, req)
			if err == nil {
				err = f.Start(ctx, out.ID)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.kill()
	for i := range n {
		name, want := fmt.Sprintf("many%d", i), Running
		switch {
		case i%6 == 0:
			for c, err := f.find(name); err == nil; c, err = f.find(name) {
				<-c.changed()
			}
			continue
		case i%3 == 0:
			want = Exited
		}
		f.inPhase(name, want)
	}
	for _, c := range f.all() {
		f.must(f.Remove(ctx, c.id, worker.RemoveContainerOptions{Force: true}))
	}
	f.empty()
}

// What a container has of its memory and processes is told.
func TestRealTopStats(t *testing.T) {
	f := newReal(t)
	ctx := t.Context()
	req := sh("echo ready; sleep 1000; true")
	req.HostConfig.Memory = 64 << 20
	id := f.run(req)
	waitSaid(f, id, "ready\n")
	top, err := f.Top(ctx, id, nil)
	f.must(err)
	if len(top.Processes) == 0 || !slices.Contains(top.Titles, "PID") || !strings.Contains(fmt.Sprint(top.Processes), "/bin/sh -c echo ready") {
		t.Errorf("top is %+v", top)
	}
	if _, err := f.Top(ctx, id, []string{"-o", "args"}); err == nil {
		t.Error("top without a PID")
	}
	st, err := f.Stats(ctx, id)
	f.must(err)
	if st.MemoryStats.Usage == 0 || st.MemoryStats.Limit != 64<<20 || st.PidsStats.Current == 0 || st.CPUStats.SystemUsage == 0 || st.Networks["eth0"].RxBytes != 1 {
		t.Errorf("stats are %+v", st)
	}
}
