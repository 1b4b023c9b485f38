package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { unix.Umask(0o022) }

// A log remembers what was published.
type log struct {
	mu   sync.Mutex
	got  []string
	told []string // with their attributes
}

func (l *log) Publish(m events.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(m.Action))
	l.told = append(l.told, fmt.Sprint(m.Action, " ", m.Actor.Attributes))
}

func (l *log) Watch(context.Context, time.Time, time.Time, worker.Filters, func(events.Message) error) error {
	return nil
}

// open opens the volumes in dir, and closes them at the end of the test.
func open(t *testing.T, dir string, ev worker.Events) *Service {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := Open(db, filepath.Join(dir, "volumes"), ev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range s.names() {
			if err := s.unmount(name); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func create(t *testing.T, s *Service, req volume.CreateRequest) *volume.Volume {
	t.Helper()
	v, err := s.Create(t.Context(), &req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, s *Service, f worker.Filters) []string {
	t.Helper()
	list, err := s.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, v := range list.Volumes {
		out = append(out, v.Name)
	}
	return out
}

// A volume that is created twice is one volume, with the labels that it got first, and outlives the daemon.
func TestCreate(t *testing.T) {
	dir, ev := t.TempDir(), new(log)
	s := open(t, dir, ev)
	first := create(t, s, volume.CreateRequest{Name: "data", Labels: map[string]string{"a": "1"}})
	if first.Mountpoint != filepath.Join(dir, "volumes", "data", "_data") {
		t.Errorf("mountpoint = %s", first.Mountpoint)
	}
	if st, err := os.Stat(first.Mountpoint); err != nil || !st.IsDir() || st.Mode().Perm() != 0o755 {
		t.Errorf("directory: %v, %v", st, err)
	}
	again := create(t, s, volume.CreateRequest{Name: "data", Labels: map[string]string{"b": "2"}})
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("created again (-first +again):\n%s", diff)
	}
	anonymous := create(t, s, volume.CreateRequest{})
	if _, ok := anonymous.Labels[AnonymousLabel]; !ok || len(anonymous.Name) != 64 {
		t.Errorf("anonymous volume = %+v", anonymous)
	}
	_ = s.db.Close()
	reopened, err := open(t, dir, ev).Inspect(t.Context(), "data")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, reopened); diff != "" {
		t.Errorf("opened again (-first +reopened):\n%s", diff)
	}
	if want := []string{"create", "create"}; !slices.Equal(ev.got, want) {
		t.Errorf("events = %q, want %q", ev.got, want)
	}
}

// Names that could be paths, and options that mean nothing, are refused, and leave nothing.
func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	tests := []struct {
		name string
		req  volume.CreateRequest
		want string
	}{
		{"dots", volume.CreateRequest{Name: ".."}, "invalid characters"},
		{"slash", volume.CreateRequest{Name: "a/b"}, `create a/b: "a/b" includes`},
		{"short", volume.CreateRequest{Name: "a"}, "at least two"},
		{"long", volume.CreateRequest{Name: strings.Repeat("a", 256)}, "invalid characters"},
		{"newline", volume.CreateRequest{Name: "ab\n"}, "invalid characters"},
		{"driver", volume.CreateRequest{Name: "ab", Driver: "rexray"}, `create ab: error looking up volume plugin rexray: plugin "rexray" not found`},
		{"option", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"color": "red"}}, `"color"`},
		{"size", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"size": "1g"}}, "quota"},
		{"no device", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"type": "tmpfs"}}, `"device"`},
		{"flags alone", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"o": "bind"}}, `create ab: missing required option: "device"`},
		{"bad size", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"size": "big"}}, `invalid size: 'big'`},
		{"no type", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"device": "/x"}}, `"type"`},
		{"relative", volume.CreateRequest{Name: "ab", DriverOpts: map[string]string{"type": "none", "o": "bind", "device": "x"}}, "absolute"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Create(t.Context(), &tt.req)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one with %q", err, tt.want)
			}
		})
	}
	if left, err := os.ReadDir(filepath.Join(dir, "volumes")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A volume that a container names stays, whoever asks; without one it goes with its files.
func TestRemove(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	v := create(t, s, volume.CreateRequest{Name: "data"})
	if err := s.Hold("data", "c1"); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		err := s.Remove(t.Context(), "data", force)
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume is in use - [c1]") {
			t.Errorf("removing with force %v: %v", force, err)
		}
	}
	s.Drop("data", "c1")
	if err := s.Remove(t.Context(), "data", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(v.Mountpoint)); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	if err := s.Remove(t.Context(), "data", false); !errdefs.IsNotFound(err) || err.Error() != "get data: no such volume" {
		t.Errorf("removing what is not there: %v", err)
	}
	if err := s.Remove(t.Context(), "data", true); err != nil {
		t.Errorf("removing with force what is not there: %v", err)
	}
	if err := s.Hold("data", "c1"); !errdefs.IsNotFound(err) {
		t.Errorf("holding what is not there: %v", err)
	}
}

// Of volumes in use none is pruned; of others those that nobody has named, and with "all" the rest.
func TestPrune(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	for _, n := range []string{"used", "named", "labelled"} {
		req := volume.CreateRequest{Name: n}
		if n == "labelled" {
			req.Labels = map[string]string{"keep": "yes"}
		}
		v := create(t, s, req)
		if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	anonymous := create(t, s, volume.CreateRequest{}).Name
	if err := s.Hold("used", "c"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		filters worker.Filters
		want    []string
		freed   uint64
	}{
		{nil, []string{anonymous}, 0},
		{nil, []string{}, 0},
		{worker.Filters{"all": {"1"}, "label!": {"keep"}}, []string{"named"}, 1000},
		{worker.Filters{"all": {"true"}, "label": {"keep=no"}}, []string{}, 0},
		{worker.Filters{"all": {"true"}, "label": {"keep=yes"}}, []string{"labelled"}, 1000},
	}
	for _, tt := range tests {
		got, err := s.Prune(t.Context(), tt.filters)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&volume.PruneReport{VolumesDeleted: tt.want, SpaceReclaimed: tt.freed}, got); diff != "" {
			t.Errorf("pruning %v (-want +got):\n%s", tt.filters, diff)
		}
	}
	if got := names(t, s, nil); !slices.Equal(got, []string{"used"}) {
		t.Errorf("left %q", got)
	}
	if _, err := s.Prune(t.Context(), worker.Filters{"until": {"1h"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown filter: %v", err)
	}
}

func TestList(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	create(t, s, volume.CreateRequest{Name: "aa", Labels: map[string]string{"x": "1"}})
	create(t, s, volume.CreateRequest{Name: "ab"})
	if err := s.Hold("ab", "c"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		filters worker.Filters
		want    []string
	}{
		{nil, []string{"aa", "ab"}},
		{worker.Filters{"name": {"b"}}, []string{"ab"}},
		{worker.Filters{"dangling": {"true"}}, []string{"aa"}},
		{worker.Filters{"dangling": {"0"}}, []string{"ab"}},
		{worker.Filters{"label": {"x"}}, []string{"aa"}},
		{worker.Filters{"label": {"x=2"}}, []string{}},
		{worker.Filters{"driver": {"other"}}, []string{}},
	} {
		if got := names(t, s, tt.filters); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.filters, got, tt.want)
		}
	}
	for _, bad := range []worker.Filters{{"color": {"red"}}, {"dangling": {"maybe"}}, {"dangling": {"true", "false"}}} {
		if _, err := s.List(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// A volume that is mounted is mounted once for all its containers, is still so for a daemon that comes later, and is not
// any more when the last container has gone.
func TestMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	s := open(t, dir, nil)
	v := create(t, s, volume.CreateRequest{Name: "mem", DriverOpts: map[string]string{
		"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,nosuid",
	}})
	mount := func(s *Service, container string) *os.File {
		t.Helper()
		f, err := s.Mount(t.Context(), "mem", &worker.VolumeUse{Container: container})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	at := func(f *os.File) string { return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())), "x") }
	first := mount(s, "c1")
	if err := os.WriteFile(at(first), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(v.Mountpoint, &st); err != nil || st.Uid != 1000 {
		t.Errorf("owner = %d, %v", st.Uid, err)
	}
	if got, err := os.ReadFile(at(mount(s, "c2"))); err != nil || string(got) != "hello" {
		t.Errorf("the second container reads %q, %v", got, err)
	}
	if err := s.Unmount(t.Context(), "mem", "c1"); err != nil {
		t.Fatal(err)
	}

	_ = s.db.Close()
	s = open(t, dir, nil)
	if err := s.InUse(t.Context(), "mem", "c2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at(mount(s, "c3"))); err != nil || string(got) != "hello" {
		t.Errorf("after a restart a container reads %q, %v", got, err)
	}
	for _, c := range []string{"c2", "c3", "c3"} {
		if on, err := mounted(v.Mountpoint); !on || err != nil {
			if c != "c3" {
				t.Errorf("not mounted while %s runs: %v", c, err)
			}
		}
		if err := s.Unmount(t.Context(), "mem", c); err != nil {
			t.Fatal(err)
		}
	}
	if on, err := mounted(v.Mountpoint); on || err != nil {
		t.Errorf("mounted when all are gone: %v, %v", on, err)
	}
}

// The event of a mount says where the volume is, and how; of a look into it nobody is told.
func TestMountEvents(t *testing.T) {
	ev := new(log)
	s := open(t, t.TempDir(), ev)
	create(t, s, volume.CreateRequest{Name: "vol"})
	ev.told = nil
	for _, use := range []worker.VolumeUse{
		{Container: "c1"},
		{Container: "c1", Destination: "/data", ReadOnly: true, Propagation: "rslave"},
		{Container: "c2"},
		{Container: "c3", Destination: "/x"},
	} {
		f, err := s.Mount(t.Context(), "vol", &use)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	for _, c := range []string{"c1", "c2", "c3", "c3"} {
		if err := s.Unmount(t.Context(), "vol", c); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"mount map[container:c1 destination:/data driver:local propagation:rslave read/write:false]",
		"mount map[container:c3 destination:/x driver:local propagation: read/write:true]",
		"unmount map[container:c1 driver:local]", "unmount map[container:c3 driver:local]",
	}
	if !slices.Equal(ev.told, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(ev.told, "\n"), strings.Join(want, "\n"))
	}
}

// What nobody uses after a restart is unmounted, and what cannot be mounted says why.
func TestSettle(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, host := t.TempDir(), t.TempDir()
	s := open(t, dir, nil)
	v := create(t, s, volume.CreateRequest{Name: "bound", DriverOpts: map[string]string{"type": "none", "device": host, "o": "bind,ro"}})
	f, err := s.Mount(t.Context(), "bound", &worker.VolumeUse{Container: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "x"), nil, 0o600); err == nil {
		t.Error("a read-only bind can be written to")
	}
	_ = s.db.Close()
	s = open(t, dir, nil)
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if on, _ := mounted(v.Mountpoint); on {
		t.Error("still mounted")
	}
	create(t, s, volume.CreateRequest{Name: "lost", DriverOpts: map[string]string{"type": "none", "device": "/no/such", "o": "bind"}})
	if _, err := s.Mount(t.Context(), "lost", &worker.VolumeUse{Container: "c"}); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("mounting what is not there: %v", err)
	}
	if err := s.Remove(t.Context(), "bound", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(host); err != nil {
		t.Errorf("the directory that was bound is gone: %v", err)
	}
}

// A directory whose volume has no record, as a kill leaves it, is swept.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	create(t, s, volume.CreateRequest{Name: "whole"})
	half := filepath.Join(dir, "volumes", "half", "_data")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	_ = s.db.Close()
	s = open(t, dir, nil)
	if got := names(t, s, nil); !slices.Equal(got, []string{"whole"}) {
		t.Errorf("volumes = %q", got)
	}
	if _, err := os.Stat(filepath.Dir(half)); !os.IsNotExist(err) {
		t.Errorf("half a volume is still there: %v", err)
	}
}

// What has files in it is not swept, as where the database was lost: the volume that is made under its name has them. What was
// being removed is, unless its record is there still.
func TestSweepKeeps(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	for _, name := range []string{"kept", "going", "gone"} {
		create(t, s, volume.CreateRequest{Name: name})
		if err := os.WriteFile(filepath.Join(s.path(name), "file"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucket).Delete([]byte("kept")), tx.Bucket(bucket).Delete([]byte("gone")))
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"going", "gone"} {
		if err := os.Rename(filepath.Join(dir, "volumes", name), s.gone(name)); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.db.Close()
	s = open(t, dir, nil)
	if got := names(t, s, nil); !slices.Equal(got, []string{"going"}) {
		t.Errorf("volumes = %q", got)
	}
	create(t, s, volume.CreateRequest{Name: "kept"})
	for _, name := range []string{"kept", "going"} {
		if got, err := os.ReadFile(filepath.Join(s.path(name), "file")); err != nil || string(got) != name {
			t.Errorf("the file of %s is %q, %v", name, got, err)
		}
		if err := s.Remove(t.Context(), name, false); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "volumes")); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// A removal that cannot be written down leaves the volume as it was.
func TestRemoveUnwritten(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	create(t, s, volume.CreateRequest{Name: "one"})
	file := filepath.Join(s.path("one"), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_ = s.db.Close()
	if err := s.Remove(t.Context(), "one", false); err == nil {
		t.Error("it was removed, and nothing was written")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("its file: %v", err)
	}
	if _, err := s.Inspect(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

// Creating and removing at the same time ends with a volume that is there or not, and never with half a one.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	s.db.NoSync = true
	var wg sync.WaitGroup
	for i := range 8 {
		c := strconv.Itoa(i)
		wg.Go(func() {
			for range 20 {
				if _, _, err := s.Ensure(t.Context(), &volume.CreateRequest{Name: "one"}); err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
				if s.Hold("one", c) == nil {
					if _, err := os.Stat(s.path("one")); err != nil {
						t.Errorf("a volume that is held: %v", err)
					}
				}
				s.Drop("one", c)
				if err := s.Remove(t.Context(), "one", true); err != nil && !errdefs.IsConflict(err) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, there := os.Stat(s.path("one"))
	if known := len(names(t, s, nil)) == 1; known != (there == nil) {
		t.Errorf("known: %v, directory: %v", known, there)
	}
}
