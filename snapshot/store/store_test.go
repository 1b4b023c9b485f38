package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// plain is a Driver whose drafts are one empty directory.
type plain struct {
	fillErr    error
	inspectErr error
}

func (p *plain) Fill(_ context.Context, dir string, _ []Layer) error {
	return errors.Join(os.Mkdir(dir+"/fs", 0o755), p.fillErr)
}

func (p *plain) Inspect(string, []Layer, bool) (Marks, error) { return Marks{}, p.inspectErr }

func (p *plain) Mounts(dir string, chain []Layer) []snapshot.Mount {
	m := []snapshot.Mount{{Type: "bind", Source: dir + "/fs"}}
	for _, l := range chain {
		m[0].Lower = append(m[0].Lower, l.FS())
	}
	return m
}

func (p *plain) Remount(dir string, chain []Layer, _ bool) ([]snapshot.Mount, error) {
	return p.Mounts(dir, chain), nil
}

func (p *plain) View(chain []Layer) []snapshot.Mount {
	return []snapshot.Mount{{Type: "bind", Source: chain[0].FS(), Options: []string{"ro"}}}
}

// A fixture is a store with a log that tests can read, and whose machine can reboot.
type fixture struct {
	*testing.T
	*Store
	dir  string
	opts Options
	log  bytes.Buffer
}

// newFixture opens a store that writes nothing out by itself.
func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, dir: filepath.Join(t.TempDir(), "snapshots")}
	f.opts = Options{BootID: "boot1", FlushAfter: time.Hour, Log: slog.New(slog.NewTextHandler(&f.log, nil))}
	f.reopen()
	t.Cleanup(func() { f.Store.Close() })
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) reopen() {
	f.Helper()
	s, err := Open(f.Context(), f.dir, new(plain), f.opts)
	f.must(err)
	f.Store = s
}

// kill is a kill -9 and a restart.
func (f *fixture) kill() { f.Crash(); f.reopen() }

// powerCut is the worst that a power cut can do to files, though not to names: every snapshot's file that was not
// synced is empty. Which those are the test must say.
func (f *fixture) powerCut(unsynced ...snapshot.ID) {
	f.Helper()
	f.Crash()
	for _, id := range unsynced {
		f.must(os.Truncate(filepath.Join(f.dir, string(id), "fs", "file"), 0))
	}
	f.opts.BootID += "x"
	f.reopen()
}

func (f *fixture) commit(id, parent snapshot.ID) {
	f.Helper()
	_, err := f.Prepare(f.Context(), "d", parent)
	f.must(err)
	f.must(os.WriteFile(f.draftPath("d", false)+"/fs/file", []byte(id), 0o600))
	f.must(f.Commit(f.Context(), "d", id))
}

// want checks which snapshots there are, and that each is whole.
func (f *fixture) want(ids ...snapshot.ID) {
	f.Helper()
	var got []snapshot.ID
	for i, err := range f.All(f.Context()) {
		f.must(err)
		got = append(got, i.ID)
		fs, err := f.FS(i.ID)
		f.must(err)
		if b, err := os.ReadFile(fs + "/file"); err != nil || string(b) != string(i.ID) {
			f.Errorf("%s has %q (%v)", i.ID, b, err)
		}
	}
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) {
		f.Errorf("got snapshots %v, want %v", got, ids)
	}
}

// names returns what is in the store's directory but for its own files.
func (f *fixture) names() []string {
	f.Helper()
	var names []string
	list, err := os.ReadDir(f.dir)
	f.must(err)
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

func (f *fixture) trashed() int {
	f.Helper()
	list, err := os.ReadDir(f.dir + "/.trash")
	f.must(err)
	return len(list)
}

// A kill leaves no draft behind, nor anything else but the snapshots.
func TestSweep(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	_, err := f.Prepare(t.Context(), "left", "a")
	f.must(err)
	f.kill()
	f.must(f.Drain(t.Context()))
	if got := f.names(); !slices.Equal(got, []string{"a"}) || f.trashed() != 0 {
		t.Errorf("left are %v and %d in the trash, want a only", got, f.trashed())
	}
	f.want("a")
}

// What a crash interrupted in the trash is taken up again.
func TestTrashIsTakenUp(t *testing.T) {
	f := newFixture(t)
	f.Crash()
	f.must(os.MkdirAll(f.dir+"/.trash/1/fs/a/b", 0o700))
	f.must(os.WriteFile(f.dir+"/.trash/1/fs/a/b/c", nil, 0o600))
	f.reopen()
	f.must(f.Drain(t.Context()))
	if n := f.trashed(); n != 0 {
		t.Errorf("%d things in the trash", n)
	}
}

// Trees deeper than there are descriptors or bytes in a path are counted and removed.
func TestDeepTree(t *testing.T) {
	var limit unix.Rlimit
	f := newFixture(t)
	f.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	few := unix.Rlimit{Cur: 256, Max: limit.Max}
	f.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer func() { f.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	_, err := f.Prepare(t.Context(), "d", "")
	f.must(err)
	dir, err := f.DraftFS("d")
	f.must(err)
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	f.must(err)
	const depth = 3000
	for range depth {
		f.must(unix.Mkdirat(fd, "d", 0o700))
		next, err := unix.Openat(fd, "d", unix.O_PATH, 0)
		f.must(err)
		f.must(unix.Close(fd))
		fd = next
	}
	f.must(unix.Close(fd))
	f.must(f.Commit(t.Context(), "d", "deep"))
	f.must(f.Drain(t.Context()))
	if i, err := f.Stat(t.Context(), "deep"); err != nil || i.Inodes < 2000 {
		t.Errorf("got %+v, %v", i, err)
	}
	f.must(f.Remove(t.Context(), "deep"))
	for f.trashed() > 0 { // pieces queue further pieces
		f.must(f.Drain(t.Context()))
	}
	if f.log.Len() > 0 {
		t.Error(f.log.String())
	}
}

// If a step of Prepare or Commit fails, nothing is left of the draft and its parent is free.
func TestDriverErrors(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	driver := f.driver.(*plain)
	boom := errors.New("boom")
	driver.fillErr = boom
	if _, err := f.Prepare(t.Context(), "d", "a"); !errors.Is(err, boom) {
		t.Errorf("preparing: %v", err)
	}
	driver.fillErr, driver.inspectErr = nil, boom
	_, err := f.Prepare(t.Context(), "d", "a")
	f.must(err)
	if err := f.Commit(t.Context(), "d", "b"); !errors.Is(err, boom) {
		t.Errorf("committing: %v", err)
	}
	driver.inspectErr = nil
	if got := f.names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("left are %v, want a only", got)
	}
	f.must(f.Remove(t.Context(), "a"))
	f.commit("b", "")
	f.want("b")
}

// A draft whose parent's chain is asked for gets it topmost first, with the bottom named as such.
func TestChain(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.commit("b", "a")
	f.commit("c", "b")
	m, err := f.Prepare(t.Context(), "d", "c")
	f.must(err)
	want := []string{f.dir + "/c/fs", f.dir + "/b/fs", f.dir + "/a/fs"}
	if !slices.Equal(m[0].Lower, want) {
		t.Errorf("got %v, want %v", m[0].Lower, want)
	}
	chain := f.chain(f.snaps["b"])
	if len(chain) != 2 || chain[0].Bottom || !chain[1].Bottom {
		t.Errorf("got %+v", chain)
	}
}

// Snapshots whose meta cannot be read, or is of another version, are dropped with what stands on them, and said to be;
// files that are not the store's are left alone.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"missing": os.Remove,
		"version": func(path string) error { return os.WriteFile(path, []byte(`{"version":99}`), 0o600) },
		"itself":  func(path string) error { return os.WriteFile(path, []byte(`{"version":1,"parent":"b"}`), 0o600) },
		"parent":  func(path string) error { return os.WriteFile(path, []byte(`{"version":1,"parent":"../a"}`), 0o600) },
		"link": func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.commit("a", "")
			f.commit("b", "a")
			f.commit("c", "b")
			f.must(os.WriteFile(f.dir+"/README.txt", nil, 0o600))
			f.Crash()
			f.must(damage(f.dir + "/b/meta"))
			f.reopen()
			f.want("a")
			if got := f.names(); !slices.Equal(got, []string{"README.txt", "a"}) {
				t.Errorf("left are %v", got)
			}
			if !strings.Contains(f.log.String(), "b/meta") {
				t.Errorf("the log does not name the snapshot: %s", f.log.String())
			}
		})
	}
}

// A ring of parents, which only damage can make, is dropped and does not hang anything.
func TestRing(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	f.commit("b", "a")
	f.Crash()
	f.must(os.WriteFile(f.dir+"/a/meta", []byte(`{"version":1,"parent":"b","created":1}`), 0o600))
	f.reopen()
	f.want()
}

// After Close everything fails with ErrClosed but Discard and Close, which clean up.
func TestClosed(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	_, err := f.Prepare(t.Context(), "d", "a")
	f.must(err)
	_, err = f.Prepare(t.Context(), "e", "a")
	f.must(err)
	f.must(f.Store.Close())
	f.must(f.Store.Close())
	f.must(f.Discard(t.Context(), "e"))
	_, prepareErr := f.Prepare(t.Context(), "x", "")
	_, viewErr := f.View(t.Context(), "x", "a")
	_, statErr := f.Stat(t.Context(), "a")
	_, fsErr := f.FS("a")
	var allErr error
	for _, allErr = range f.All(t.Context()) {
	}
	for name, err := range map[string]error{
		"prepare": prepareErr, "view": viewErr, "stat": statErr, "fs": fsErr, "all": allErr,
		"commit": f.Commit(t.Context(), "d", "b"), "remove": f.Remove(t.Context(), "a"), "drain": f.Drain(t.Context()),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
	f.reopen()
	f.want("a")
}

// The size of a snapshot with many files becomes known after the commit, is found again after a kill, and is counted
// anew if what was written down of it is damaged.
func TestUsageIsKept(t *testing.T) {
	f := newFixture(t)
	_, err := f.Prepare(t.Context(), "d", "")
	f.must(err)
	dir, err := f.DraftFS("d")
	f.must(err)
	for i := range 3 * countNow {
		f.must(os.WriteFile(fmt.Sprintf("%s/%d", dir, i), []byte("x"), 0o600))
	}
	f.must(f.Commit(t.Context(), "d", "many"))
	for _, damage := range []string{"", "1 1", "-5 1\n", "x\n", "1 2 3\n"} {
		f.must(f.Drain(t.Context()))
		i, err := f.Stat(t.Context(), "many")
		f.must(err)
		if i.Inodes != 3*countNow {
			t.Errorf("after %q: %d files, want %d", damage, i.Inodes, 3*countNow)
		}
		f.Crash()
		if damage != "" {
			f.must(os.WriteFile(f.dir+"/many/usage", []byte(damage), 0o600))
		}
		f.reopen()
	}
	// What is there is believed: it is not counted at each start.
	f.must(f.Drain(t.Context()))
	f.Crash()
	f.must(os.WriteFile(f.dir+"/many/usage", []byte("7 8\n"), 0o600))
	f.reopen()
	f.must(f.Drain(t.Context()))
	if i, _ := f.Stat(t.Context(), "many"); i.Size != 7 || i.Inodes != 8 {
		t.Errorf("got %+v, want what was written down", i)
	}
}

// The time of the last use is written down with the next flush.
func TestUsedIsKept(t *testing.T) {
	f := newFixture(t)
	f.commit("a", "")
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	f.now = func() time.Time { return later }
	_, err := f.View(t.Context(), "v", "a")
	f.must(err)
	f.must(f.Sync(t.Context()))
	f.kill()
	i, err := f.Stat(t.Context(), "a")
	f.must(err)
	if !i.Used.Equal(later) {
		t.Errorf("used %v, want %v", i.Used, later)
	}
}

// A commit is written out FlushAfter later, together with those that follow it, and not before.
func TestFlushAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlusher(t.TempDir(), Options{FlushAfter: 2 * time.Second, Log: slog.Default()})
		var synced []time.Time
		f.sync = func() error { synced = append(synced, time.Now()); return nil }
		f.must(t, f.open())
		f.start()
		start := time.Now()
		f.add(record{"a", 1})
		time.Sleep(time.Second)
		f.add(record{"b", 2})
		time.Sleep(10 * time.Second)
		f.add(record{"c", 3})
		time.Sleep(10 * time.Second)
		f.stop()
		f.must(t, f.close())
		want := []time.Time{start.Add(2 * time.Second), start.Add(13 * time.Second)}
		if !slices.EqualFunc(synced, want, time.Time.Equal) {
			t.Errorf("synced at %v, want %v", synced, want)
		}
		got, lines, err := readLog(f.dir)
		if _, ok := got[record{"c", 3}]; err != nil || lines != 3 || !ok {
			t.Errorf("log has %v in %d lines (%v)", got, lines, err)
		}
	})
}

func (f *flusher) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkOpen opens a store of 5,000 snapshots.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(b.Context(), dir, new(plain), Options{FlushAfter: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 5000 {
		parent := snapshot.ID("")
		if i%50 > 0 {
			parent = snapshot.ID(fmt.Sprintf("%064d", i-1))
		}
		if _, err := s.Prepare(b.Context(), "d", parent); err != nil {
			b.Fatal(err)
		}
		if err := s.Commit(b.Context(), "d", snapshot.ID(fmt.Sprintf("%064d", i))); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(b.Context(), dir, new(plain), Options{FlushAfter: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		s.Crash()
	}
}
