package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
	"github.com/boxbuild/boxbuild/executor/shim"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/native"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/volume"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// snaps is a snapshotter.
type snaps interface {
	snapshot.Snapshotter
	Close() error
	Crash()
	Dir() string
}

// platform is the machine's of all tests.
var platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// A fixture is a daemon's containers, whose processes are Go functions.
type fixture struct {
	late bool // the host tells of the end of an exec only after a while
	slow bool // the host takes two seconds to let an exec run
	deaf bool // the host cannot reach the keepers that it finds again
	*testing.T
	*Manager
	dir    string
	host   *executortest.FakeHost
	net    *fakeNetwork
	seen   *seen
	images *image.Store
	snaps  snaps
	// real is the boxshim of containers that are real, on overlayfs; empty for fakes.
	real   string
	cgroup string
	shim   *shim.Host
	// prepare puts into an image what all have.
	prepare func(dir string)
	vols    *volume.Service
	db      *bbolt.DB
}

// proc is the process of a container: a shell of few words.
func proc(ctx context.Context, p *executortest.Proc) int {
	args := p.Process.Args
	switch args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		return code
	case "say":
		fmt.Fprintln(p.Stdout, strings.Join(args[1:], " "))
		return 0
	case "both":
		fmt.Fprintln(p.Stdout, "out")
		fmt.Fprintln(p.Stderr, "err")
		return 0
	case "cat":
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 0
	case "env":
		fmt.Fprintln(p.Stdout, strings.Join(p.Process.Env, "\n"))
		return 0
	case "have": // succeeds if there is such a file
		if _, err := os.Stat(p.Root + args[1]); err != nil {
			fmt.Fprintln(p.Stdout, "no", args[1])
			return 1
		}
		return 0
	case "write":
		if err := os.WriteFile(p.Root+args[1], []byte(args[2]), 0o644); err != nil {
			return 1
		}
		return 0
	case "stubborn": // ends only when it is killed
		fmt.Fprintln(p.Stdout, "ready")
		<-ctx.Done()
		return 0
	case "run": // for so long, then exits
		d, _ := time.ParseDuration(args[1])
		code, _ := strconv.Atoi(args[2])
		select {
		case <-time.After(d):
			return code
		case <-ctx.Done():
			return 0
		}
	}
	fmt.Fprintln(p.Stdout, "ready") // "sleep" ends at a signal
	for {
		select {
		case sig := <-p.Signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				return 128 + int(sig)
			}
		case <-ctx.Done():
			return 0
		}
	}
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, dir: t.TempDir(), host: executortest.NewFakeHost(proc), net: newFakeNetwork(), seen: new(seen)}
	f.open()
	t.Cleanup(f.close)
	f.addImage("busybox:latest", &frontend.ImageConfig{}, map[string]string{"etc/motd": "hello"})
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// open starts a daemon in the directory.
func (f *fixture) open() {
	f.Helper()
	var err error
	f.db, err = bbolt.Open(filepath.Join(f.dir, "meta.db"), 0o600, &bbolt.Options{NoSync: true})
	f.must(err)
	keep, err := Drafts(f.db)
	f.must(err)
	log := slog.New(slog.NewTextHandler(testWriter{f.T}, nil))
	opts := store.Options{Keep: keep, Log: log, BootID: "boot"}
	dir := filepath.Join(f.dir, "snapshots")
	host := executor.Host(f.host)
	if f.real != "" {
		f.snaps, err = overlay.Open(context.Background(), dir, opts)
		f.must(err)
		f.shim, err = shim.NewHost(context.Background(), shim.Options{
			Binary: f.real, Dir: f.dir, CgroupParent: f.cgroup, Log: testWriter{f.T},
		})
		host = f.shim
	} else {
		f.snaps, err = native.Open(context.Background(), dir, opts)
	}
	f.must(err)
	if f.late {
		host = lateHost{host}
	}
	if f.slow {
		host = slowHost{host}
	}
	if f.deaf {
		host = deafHost{host}
	}
	f.images, err = image.Open(f.db)
	f.must(err)
	f.vols, err = volume.Open(f.db, filepath.Join(f.dir, "volumes"), f.seen)
	f.must(err)
	var m *Manager
	sources := []lease.Source{lease.Snapshots(f.snaps), {
		Kind: lease.Container, Class: lease.Pinned,
		List: func(ctx context.Context) iter.Seq2[lease.Info, error] { return m.Source().List(ctx) },
	}}
	m, err = New(Deps{
		Dir: filepath.Join(f.dir, "containers"), DB: f.db, Host: host, Snapshots: f.snaps, Driver: "native", Images: f.images,
		Leases: lease.New(sources...), Volumes: f.vols, Network: f.net, Events: f.seen, Platform: platform, Log: log,
	})
	f.must(err)
	if f.real == "" {
		m.open = openDir
	}
	f.Manager = m
}

func openDir(_ context.Context, mounts []snapshot.Mount) (*os.File, error) {
	return os.Open(mounts[0].Source)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (f *fixture) close() {
	f.must(f.Manager.Close())
	f.closeShim()
	f.must(f.snaps.Close())
	f.must(f.db.Close())
}

func (f *fixture) closeShim() {
	f.Helper()
	if f.shim != nil {
		f.must(f.shim.Close())
	}
}

// restart ends the daemon and starts another.
func (f *fixture) restart() {
	f.Helper()
	f.close()
	f.open()
	f.must(f.Restore(context.Background()))
}

// kill ends the daemon as kill -9 does, and starts another: what was not written down is not.
func (f *fixture) kill() {
	f.Helper()
	f.Manager.end(errClosing)
	r := f.Manager.records
	r.mu.Lock()
	r.next = newBatch()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	f.snaps.Crash()
	f.must(f.Manager.Close())
	f.closeShim()
	f.must(f.db.Close())
	f.open()
	f.must(f.Restore(context.Background()))
}

// imageSize is what the images of tests are said to have in their files.
const imageSize = 4711

// addImage stores an image of one layer.
func (f *fixture) addImage(name string, c *frontend.ImageConfig, files map[string]string) digest.Digest {
	f.Helper()
	ctx := context.Background()
	sum := digest.FromString(name).Encoded()
	d, id := snapshot.Draft("d"+sum[:20]), snapshot.ID(sum)
	mounts, err := f.snaps.Prepare(ctx, d, "")
	f.must(err)
	if f.prepare != nil {
		f.prepare(mounts[0].Source)
	}
	for file, content := range files {
		path := filepath.Join(mounts[0].Source, file)
		f.must(os.MkdirAll(filepath.Dir(path), 0o755))
		f.must(os.WriteFile(path, []byte(content), 0o644))
	}
	f.must(f.snaps.Commit(ctx, d, id))
	if c.OS == "" {
		c.Platform = platform
	}
	c.RootFS.DiffIDs = []digest.Digest{digest.FromString("diff " + name)}
	raw, err := json.Marshal(c)
	f.must(err)
	img := &image.Image{
		ID: digest.FromBytes(raw), Config: raw, Platform: c.Platform,
		Layers: []image.Layer{{DiffID: c.RootFS.DiffIDs[0], Snapshot: id, Files: imageSize}},
	}
	canonical, err := image.Normalize(name)
	f.must(err)
	f.must(f.images.Put(img, canonical))
	return img.ID
}

// request is a request for a container of busybox.
func request(cmd ...string) *worker.ContainerCreate {
	return &worker.ContainerCreate{CreateRequest: container.CreateRequest{
		Config: &container.Config{Image: "busybox", Cmd: cmd}, HostConfig: &container.HostConfig{},
	}}
}

func (f *fixture) create(req *worker.ContainerCreate) string {
	f.Helper()
	out, err := f.Create(context.Background(), req)
	f.must(err)
	return out.ID
}

// run creates and starts a container.
func (f *fixture) run(req *worker.ContainerCreate) string {
	f.Helper()
	id := f.create(req)
	f.must(f.Start(context.Background(), id))
	return id
}

// await waits until the container does not run.
func (f *fixture) await(id string) int {
	f.Helper()
	ch, err := f.Wait(context.Background(), id, container.WaitConditionNotRunning)
	f.must(err)
	return int((<-ch).StatusCode)
}

// state returns what the container's status is.
func (f *fixture) state(id string) string {
	f.Helper()
	in, err := f.Inspect(context.Background(), id, false)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %d", in.State.Status, in.State.ExitCode)
}

// until waits until a container's record is as ok wants it.
func (f *fixture) until(id string, ok func(rec *record) bool) {
	f.Helper()
	c, err := f.find(id)
	f.must(err)
	for {
		changed := c.changed()
		if ok(c.get()) {
			return
		}
		<-changed
	}
}

func (f *fixture) inPhase(id string, p Phase) {
	f.Helper()
	f.until(id, func(rec *record) bool { return rec.Status.Phase == p })
}

// want checks that err has a text.
func (f *fixture) want(err error, text string) {
	f.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		f.Errorf("error is %v, want %q", err, text)
	}
}

// logs returns what the container has said, on both streams.
func (f *fixture) logs(id string) string {
	f.Helper()
	var b strings.Builder
	err := f.Logs(context.Background(), id, worker.LogsOptions{Stdout: true, Stderr: true, Tail: -1}, &plain{w: &b})
	f.must(err)
	return b.String()
}

// plain takes the frames off; each write is one frame.
type plain struct{ w io.Writer }

func (p *plain) Write(b []byte) (int, error) {
	if _, err := p.w.Write(b[8:]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// seen is the events, as "action attribute=value".
type seen struct {
	mu   sync.Mutex
	all  []events.Message
	tell func(events.Message) // called with each, unless it is nil
}

func (s *seen) Publish(m events.Message) {
	if s.tell != nil {
		s.tell(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, m)
}

func (s *seen) Watch(context.Context, time.Time, time.Time, worker.Filters, func(events.Message) error) error {
	return errors.ErrUnsupported
}

// of returns the actions of a container, with the attributes asked for.
func (s *seen) of(id string, attrs ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.all {
		if m.Type != events.ContainerEventType || m.Actor.ID != id {
			continue
		}
		word := string(m.Action)
		for _, a := range attrs {
			if v, ok := m.Actor.Attributes[a]; ok {
				word += "=" + v
			}
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// A fakeNetwork gives out one address each, and counts.
type fakeNetwork struct {
	mu      sync.Mutex
	up      map[string]*container.NetworkSettings
	setups  int
	fail    error
	settled bool
	check   func(r *worker.NetworkRequest) error // nil for one that refuses only nowhere
}

func newFakeNetwork() *fakeNetwork {
	return &fakeNetwork{up: make(map[string]*container.NetworkSettings)}
}

func (n *fakeNetwork) Check(_ context.Context, r *worker.NetworkRequest) error {
	if _, ok := r.Endpoints["nowhere"]; ok {
		return worker.Invalidf("network nowhere not found")
	}
	if n.check != nil {
		return n.check(r)
	}
	return nil
}

func (n *fakeNetwork) Setup(_ context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return nil, n.fail
	}
	n.setups++
	s := &container.NetworkSettings{
		SandboxID: r.ID, Networks: map[string]*network.EndpointSettings{"bridge": {NetworkID: "bridgeid", EndpointID: "ep" + r.ID[:4]}},
		Ports: network.PortMap{},
	}
	for port, bindings := range r.HostConfig.PortBindings {
		s.Ports[port] = bindings
	}
	n.up[r.ID] = s
	return &worker.NetworkSetup{
		Network: executor.Network{Mode: executor.NetworkNone}, Hosts: []byte("127.0.0.1 localhost\n"), ResolvConf: []byte("nameserver 127.0.0.11\n"),
	}, nil
}

func (n *fakeNetwork) Restore(ctx context.Context, r *worker.NetworkRequest) (*worker.NetworkSetup, error) {
	return n.Setup(ctx, r)
}

func (n *fakeNetwork) Teardown(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.up, id)
	return nil
}

func (n *fakeNetwork) Settle(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.settled = true
	return nil
}

func (n *fakeNetwork) Settings(id string) *container.NetworkSettings {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up[id]
}

func (n *fakeNetwork) Stats(context.Context, string) (map[string]container.NetworkStats, error) {
	return map[string]container.NetworkStats{"eth0": {RxBytes: 1}}, nil
}

// has says how many containers have a network.
func (n *fakeNetwork) has() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.up)
}

// A lateHost is a Host whose containers take a while to tell of the end of an exec.
type lateHost struct{ executor.Host }

// Create implements executor.Host.
func (h lateHost) Create(ctx context.Context, dir string, spec *executor.Spec, opt executor.HostOptions) (executor.Container, error) {
	c, err := h.Host.Create(ctx, dir, spec, opt)
	return lateContainer{c}, err
}

// A slowHost is a Host whose containers take a while to let an exec run. Who does not wait is not told that it does.
type slowHost struct{ executor.Host }

// Create implements executor.Host.
func (h slowHost) Create(ctx context.Context, dir string, spec *executor.Spec, opt executor.HostOptions) (executor.Container, error) {
	c, err := h.Host.Create(ctx, dir, spec, opt)
	return slowContainer{c}, err
}

type slowContainer struct{ executor.Container }

// Run implements executor.Container.
func (c slowContainer) Run(ctx context.Context, id string) error {
	err := c.Container.Run(context.WithoutCancel(ctx), id)
	if id == "" || err != nil {
		return err
	}
	select {
	case <-time.After(2 * time.Second):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A deafHost is a Host that finds containers again, and cannot reach them.
type deafHost struct{ executor.Host }

// Open implements executor.Host.
func (h deafHost) Open(ctx context.Context, dir string) (executor.Container, error) {
	c, err := h.Host.Open(ctx, dir)
	return deafContainer{c}, err
}

type deafContainer struct{ executor.Container }

// Signal implements executor.Container.
func (deafContainer) Signal(context.Context, string, syscall.Signal) error {
	return errors.New("the keeper does not answer")
}

type lateContainer struct{ executor.Container }

// Wait implements executor.Container.
func (c lateContainer) Wait(ctx context.Context, id string) (executor.Exit, error) {
	exit, err := c.Container.Wait(ctx, id)
	if id != "" {
		time.Sleep(20 * time.Millisecond)
	}
	return exit, err
}
