package buildkit

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A disk is a small file system, which can be filled up.
type disk struct {
	t    *testing.T
	path string
}

// newDisk mounts one until the test ends.
func newDisk(t *testing.T, mib int) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "bksmall")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		os.Remove(dir)
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting the small file system: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return &disk{t, dir}
}

// free is how many bytes there is room for.
func (d *disk) free() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// fill leaves room for so many bytes, at most.
func (d *disk) fill(left int64) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, "ballast"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for n := d.free() - left; n > 0; n -= int64(len(buf)) {
		if _, err := f.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return // full
		}
	}
}

// clear makes room again, if there is none.
func (d *disk) clear() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, "ballast")); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
}

// noise is so many bytes that nothing makes fewer.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // it has no error
	return b
}

// layer is a layer with one file.
func layer(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// putLayers makes an image of layers that are tars.
func putLayers(t *testing.T, reg *registrytest.Registry, repo string, layers ...[]byte) {
	t.Helper()
	var ids []string
	for _, l := range layers {
		ids = append(ids, registrytest.Digest(l))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		t.Fatal(err)
	}
	reg.PutImage(repo, "1", config, layers...)
}

// A faulty build is one that meets a fault.
type faulty struct {
	opt  func(t *testing.T) client.SolveOpt
	want []string // what its error has, or what its steps have said
}

// TestFullDisk fills the store's file system in every phase of a client's build. Each time the build fails and says what
// could not be stored, and why; the history has it; nothing half-written is left; what needs no room works; and when
// there is room again, the same build succeeds.
func TestFullDisk(t *testing.T) {
	const size = 10 << 20
	small := newDisk(t, 48)
	d := observedIn(t, small.path)
	d.load()
	reg := registrytest.New(registrytest.Behaviour{})
	addr := registrytest.Start(t, reg)
	putLayers(t, reg, "big", layer(t, "big", noise(1, size)))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(noise(2, size)) }))
	defer web.Close()
	dockerfile := func(text string, kind string, attrs map[string]string) func(t *testing.T) client.SolveOpt {
		return func(t *testing.T) client.SolveOpt {
			opt := opts(t, map[string]string{"Dockerfile": text, "big": string(noise(3, size))})
			if kind != "" {
				opt.Exports = []client.ExportEntry{{Type: kind, Attrs: attrs}}
			}
			if kind == client.ExporterOCI {
				opt.Exports[0] = new(sink).to(kind, attrs)
			}
			return opt
		}
	}
	const writes = "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=64k count=48\n" // 3 MiB
	for name, c := range map[string]faulty{
		"context": {dockerfile("FROM busybox\nCOPY big /\n", "", nil), []string{"context", "no space left on device"}},
		"RUN": {
			dockerfile("FROM busybox\nRUN dd if=/dev/zero of=/big bs=64k count=160\n", "", nil),
			[]string{"dd if=/dev/zero", "No space left on device"},
		},
		"pull":  {dockerfile("FROM "+addr+"/big:1\nCOPY --from=busybox /bin/true /\n", "", nil), []string{addr + "/big", "no space left on device"}},
		"fetch": {dockerfile("FROM busybox\nADD "+web.URL+"/f /\n", "", nil), []string{web.URL + "/f", "no space left on device"}},
		"layer": {
			dockerfile(writes, client.ExporterImage, map[string]string{"name": addr + "/out:1", "push": "true"}),
			[]string{"no space left on device"},
		},
		"export": {dockerfile(writes, client.ExporterOCI, nil), []string{"no space left on device"}},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			defer func() { d.t = t }()
			was := d.state()
			small.fill(4 << 20)
			for range 2 {
				d.fails(t, name, c)
			}
			small.fill(0)
			if _, err := d.c.Info(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := d.c.DiskUsage(t.Context()); err != nil {
				t.Error(err)
			}
			small.clear()
			d.restful(was)
			d.must(c.opt(t))
			if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
				t.Error(err)
			}
			d.load()
		})
	}
}

// fails builds what must fail, and say what the case wants.
func (d *daemon) fails(t *testing.T, name string, c faulty) {
	t.Helper()
	opt := c.opt(t)
	opt.Ref = fmt.Sprintf("fails%d", time.Now().UnixNano())
	_, p, err := d.solve(t.Context(), opt)
	if err == nil {
		t.Errorf("%s: the build succeeds", name)
		return
	}
	said := err.Error()
	for _, log := range p.logs {
		said += "\n" + log
	}
	for _, w := range c.want {
		if !strings.Contains(said, w) {
			t.Errorf("%s: want %q in %s", name, w, said)
		}
	}
	if why, _ := d.why(opt.Ref); why == "" || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: the history says %q, the client %v", name, why, err)
	}
}
