package container

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// Whatever an image has at the places that every container has, and on the way there, they are made in the container's root
// and nowhere else.
func TestPlaces(t *testing.T) {
	outside := t.TempDir()
	for name, image := range map[string]map[string]string{ // a link to the value, a file for "", a directory for "/"
		"empty":       {},
		"whole":       {"etc/hosts": "", "etc/mtab": "", "dev/pts": "/", "proc": "/", "sys": "/", ".dockerenv": ""},
		"links":       {"etc": outside, "dev": outside, "proc": outside, "sys": "../../../../../.." + outside, ".dockerenv": outside + "/new"},
		"below":       {"etc/hosts": outside + "/new", "etc/mtab": outside, "dev/pts": outside, "dev/console": outside + "/new"},
		"files":       {"etc": "", "dev": "", "proc": "", "sys": ""},
		"dangling":    {"etc": outside + "/none", "dev": "none", "proc": "proc", "etc2": "etc"},
		"directories": {"etc/mtab": "/", ".dockerenv": "/"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, what := range image {
				at := filepath.Join(dir, file)
				err := os.MkdirAll(filepath.Dir(at), 0o755)
				switch {
				case err != nil:
				case what == "":
					err = os.WriteFile(at, []byte("of the image"), 0o644)
				case what == "/":
					err = os.Mkdir(at, 0o711)
				default:
					err = os.Symlink(what, at)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			m := &Manager{open: openDir}
			if err := m.putPlaces(t.Context(), []snapshot.Mount{{Type: "bind", Source: dir}}); err != nil {
				t.Fatal(err)
			}
			for _, p := range places {
				fi, err := os.Lstat(filepath.Join(dir, p.path))
				switch {
				case err != nil:
					t.Error(err)
				case image[strings.TrimPrefix(p.path, "/")] == "/":
					if !fi.IsDir() || fi.Mode().Perm() != 0o711 && p.dir {
						t.Errorf("%s is %v, and was a directory", p.path, fi.Mode())
					}
				case p.link != "":
					if to, err := os.Readlink(filepath.Join(dir, p.path)); to != p.link {
						t.Errorf("%s leads to %q, %v", p.path, to, err)
					}
				case fi.IsDir() != p.dir, !p.dir && (fi.Size() > 0 || !fi.Mode().IsRegular()):
					t.Errorf("%s is %v of %d bytes", p.path, fi.Mode(), fi.Size())
				}
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("outside there is %v, %v", left, err)
			}
		})
	}
}

// names are those of a tar, sorted.
func names(t *testing.T, b []byte) string {
	t.Helper()
	var out []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out)
			return strings.Join(out, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

// As with docker, a container has its places from the beginning, and they are no changes; what a run was given to mount on
// stays, and is one.
func TestRealPlaces(t *testing.T) {
	f := newReal(t)
	m := &maker{f: f}
	f.deps.Maker = m
	req := sh("rm /etc/mtab; echo ready; sleep 1000")
	req.HostConfig.Binds = []string{"/vol", "named:/n/x", "/usr/bin/busybox:/n/x/in/file:ro", "/usr/bin/busybox:/one"}
	req.HostConfig.Tmpfs = map[string]string{"/tm": ""}
	id := f.create(req)
	changed := func() string {
		t.Helper()
		list, err := f.Changes(t.Context(), id)
		f.must(err)
		var out []string
		for _, c := range list {
			out = append(out, string("CAD"[c.Kind])+c.Path)
		}
		return strings.Join(out, " ")
	}
	exported := func() string {
		t.Helper()
		var b bytes.Buffer
		f.must(f.Export(t.Context(), id, &b))
		return " " + names(t, b.Bytes()) + " "
	}
	if got := changed(); got != "" {
		t.Errorf("of one that was created: %s", got)
	}
	got := exported()
	for _, want := range []string{".dockerenv", "dev/console", "dev/pts/", "dev/shm/", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc/", "sys/"} {
		if !strings.Contains(got, " "+want+" ") {
			t.Errorf("the export has no %s: %s", want, got)
		}
	}
	f.must(f.Start(t.Context(), id))
	waitSaid(f, id, "ready\n")
	const want = "C/etc D/etc/mtab A/n A/n/x A/one A/tm A/vol"
	if got := changed(); got != want {
		t.Errorf("of one that runs: %s\nwant %s", got, want)
	}
	f.must(f.Kill(t.Context(), id, "KILL"))
	f.await(id)
	f.inPhase(id, Exited)
	if got := changed(); got != want {
		t.Errorf("of one that has ended: %s\nwant %s", got, want)
	}
	for name, want := range map[string]string{
		"/proc": "proc/", "/tm": "tm/", "/dev/console": "console", "/.dockerenv": ".dockerenv", "/dev": "dev/ dev/console dev/pts/ dev/shm/",
	} {
		var b bytes.Buffer
		f.must(f.CopyFrom(t.Context(), id, name, func(*container.PathStat) io.Writer { return &b }))
		if got := names(t, b.Bytes()); got != want {
			t.Errorf("the copy of %s has %s, want %s", name, got, want)
		}
	}
	_, err := f.Commit(t.Context(), id, worker.CommitOptions{Name: "made:1"})
	f.must(err)
	if got := m.tars[0]; got != "etc/ etc/.wh.mtab n/ n/x/ one tm/ vol/" {
		t.Errorf("the layer has %q", got)
	}
}

// The working directory is there from the beginning, in the container's own layer, as with docker, and never outside of it.
func TestRealWorkingDir(t *testing.T) {
	f := newReal(t)
	outside := t.TempDir()
	prepare := f.prepare
	f.prepare = func(dir string) {
		prepare(dir)
		f.must(os.Symlink(outside, filepath.Join(dir, "link")))
		f.must(os.Symlink("/data", filepath.Join(dir, "in")))
	}
	f.addImage("links:1", &frontend.ImageConfig{}, nil)
	for dir, want := range map[string]string{
		"": "[]", "/": "[]", "/data/sub": "[]", "/new/deep": "[{A /new} {A /new/deep}]", "/in/x": "[{C /data} {A /data/x}]",
		"/link/x": "[]", "/bin/sh/x": "[]",
	} {
		req := sh("true")
		req.Image, req.WorkingDir = "links:1", dir
		id := f.create(req)
		changes, err := f.Changes(t.Context(), id)
		f.must(err)
		if got := fmt.Sprint(changes); got != want {
			t.Errorf("%q: changes are %s, want %s", dir, got, want)
		}
	}
	req := sh("true")
	req.WorkingDir = "/etc/passwd"
	_, err := f.Create(t.Context(), req)
	f.want(err, "Cannot mkdir: /etc/passwd is not a directory")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}

// What containers of an image stand on is made once, is on the disk before a record says so, stays as long as there are
// containers, also for the next daemon, and goes with a collection after them.
func TestBase(t *testing.T) {
	f := newFixture(t)
	img, err := f.images.Get("busybox", nil)
	f.must(err)
	base := worker.BaseOf(img.Layers[0].Snapshot)
	there := func() bool {
		_, err := f.snaps.Stat(t.Context(), base)
		return err == nil
	}
	durable := func() bool {
		b, err := os.ReadFile(filepath.Join(f.snaps.Dir(), ".durable"))
		f.must(err)
		return strings.Contains(string(b), string(base))
	}
	req := request("exit", "0")
	req.HostConfig.AutoRemove = true
	gone := f.create(req)
	if !there() {
		t.Fatal("there is no base")
	}
	info, err := f.snaps.Stat(t.Context(), base)
	f.must(err)
	id := f.create(request("exit", "0"))
	if again, err := f.snaps.Stat(t.Context(), base); err != nil || !again.Created.Equal(info.Created) {
		t.Errorf("the base was made again: %v", err)
	}
	if !durable() {
		t.Error("the base of a container that is to stay is not on the disk")
	}
	f.must(f.Remove(t.Context(), gone, worker.RemoveContainerOptions{}))
	f.restart()
	_, err = f.deps.Leases.Collect(t.Context(), lease.Policy{})
	f.must(err)
	if !there() {
		t.Fatal("the base of a container was collected")
	}
	f.must(f.Start(t.Context(), id))
	f.await(id)
	f.inPhase(id, Exited)
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{}))
	_, err = f.deps.Leases.Collect(t.Context(), lease.Policy{})
	f.must(err)
	if there() {
		t.Error("the base of no container is left")
	}
	if !worker.IsBase(string(base)) || worker.IsBase(string(img.Layers[0].Snapshot)) {
		t.Error("bases are not told from other trees")
	}
}

// An image whose links lead out of it, in place of all that is mounted on or looked at, leads nobody out: not at the creation,
// not at a start, not when files are copied. Where docker replaces them the container runs.
func TestRealHostile(t *testing.T) {
	f := newReal(t)
	outside := t.TempDir()
	f.must(os.WriteFile(filepath.Join(outside, "file"), []byte("of the host"), 0o644))
	prepare := f.prepare
	f.prepare = func(dir string) {
		prepare(dir)
		for name, to := range map[string]string{
			"dev": outside, "proc": "../../../../../../../.." + outside, "sys": outside, ".dockerenv": outside + "/new",
			"etc/hosts": outside + "/file", "etc/hostname": outside + "/new", "etc/resolv.conf": "../../../../../../.." + outside + "/new",
			"etc/mtab": outside + "/file", "link": outside, "dangling": outside + "/none/deeper", "up": "../../../../../../../.." + outside,
		} {
			f.must(os.RemoveAll(filepath.Join(dir, name)))
			f.must(os.Symlink(to, filepath.Join(dir, name)))
		}
	}
	f.addImage("hostile:1", &frontend.ImageConfig{}, nil)
	f.deps.Maker = &maker{f: f}
	req := sh("cat /etc/hostname; echo x > /up/made; sleep 1000")
	req.Image = "hostile:1"
	req.HostConfig.Binds = []string{"one:/link/vol", "two:/up", "/usr/bin/busybox:/link/file:ro"}
	req.HostConfig.Tmpfs = map[string]string{"/dangling": "", "/up/tm": ""}
	id := f.create(req)
	looks := 0
	look := func() {
		t.Helper()
		looks++
		_, err := f.Changes(t.Context(), id)
		f.must(err)
		f.must(f.Export(t.Context(), id, io.Discard))
		for _, name := range []string{"/etc/hosts", "/proc", "/link/", "/up", "/.dockerenv"} {
			err := f.CopyFrom(t.Context(), id, name, func(*container.PathStat) io.Writer { return io.Discard })
			if err != nil && !strings.Contains(err.Error(), "Could not find") {
				t.Errorf("copying %s: %v", name, err)
			}
		}
		_, err = f.Commit(t.Context(), id, worker.CommitOptions{Name: fmt.Sprintf("made:%d", looks)})
		f.must(err)
		list, err := os.ReadDir(outside)
		f.must(err)
		if b, err := os.ReadFile(filepath.Join(outside, "file")); len(list) != 1 || err != nil || string(b) != "of the host" {
			t.Errorf("outside there is %v, with %q, %v", list, b, err)
		}
	}
	look()
	f.must(f.Start(t.Context(), id))
	waitSaid(f, id, id[:12]+"\n")
	look()
	f.must(f.Kill(t.Context(), id, "KILL"))
	f.await(id)
	f.inPhase(id, Exited)
	look()
}
