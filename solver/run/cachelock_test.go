package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

const (
	shared  = op.SharingShared
	private = op.SharingPrivate
	locked  = op.SharingLocked
)

// TestCacheLocks checks what a user of a cache directory meets that finds another one there.
func TestCacheLocks(t *testing.T) {
	type outcome string
	const in, elsewhere, waits outcome = "in", "elsewhere", "waits"
	for _, tc := range []struct {
		there, comes op.CacheSharing
		want         outcome
	}{
		{shared, shared, in},
		{shared, private, elsewhere},
		{shared, locked, waits},
		{private, shared, elsewhere},
		{private, private, elsewhere},
		{private, locked, waits},
		{locked, shared, waits},
		{locked, private, elsewhere},
		{locked, locked, waits},
	} {
		synctest.Test(t, func(t *testing.T) {
			var c cacheLocks
			if ok, err := c.acquire(t.Context(), "x", tc.there); !ok || err != nil {
				t.Fatalf("an empty directory: %v, %v", ok, err)
			}
			got := waits
			done := make(chan struct{})
			go func() {
				defer close(done)
				ok, err := c.acquire(t.Context(), "x", tc.comes)
				if err != nil {
					t.Error(err)
				}
				if got == waits && !ok {
					got = elsewhere
				} else if ok {
					if got = in; tc.want != waits {
						return
					}
					c.release("x", tc.comes)
				}
			}()
			synctest.Wait()
			if got != tc.want {
				t.Errorf("%d is there and %d comes: it is %q, want %q", tc.there, tc.comes, got, tc.want)
			}
			c.release("x", tc.there)
			<-done
			if tc.want == in {
				c.release("x", tc.comes)
			}
			if len(c.m) != 0 {
				t.Error("a directory that nobody uses is remembered")
			}
		})
	}
}

// TestCacheLocksInOrder checks that whoever waits comes in before those who came later, so that a locked user comes in
// however many shared ones there are.
func TestCacheLocksInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cacheLocks
		if ok, err := c.acquire(t.Context(), "x", shared); !ok || err != nil {
			t.Fatal(ok, err)
		}
		var mu sync.Mutex
		var order []int
		leave := make(chan struct{})
		var wg sync.WaitGroup
		for i, s := range []op.CacheSharing{locked, shared, shared, locked} {
			wg.Go(func() {
				if _, err := c.acquire(t.Context(), "x", s); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				<-leave
				c.release("x", s)
			})
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Fatalf("%v came in before the first had left", order)
		}
		c.release("x", shared)
		for _, want := range [][]int{{0}, {1, 2}, {3}} {
			synctest.Wait()
			if slices.Sort(order); !slices.Equal(order, want) {
				t.Fatalf("in are %v, want %v", order, want)
			}
			order = nil
			for range want {
				leave <- struct{}{}
			}
		}
		wg.Wait()
	})
}

// TestCacheLocksCancel checks that whoever gives up waiting leaves no trace, and those behind come in.
func TestCacheLocksCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cacheLocks
		if ok, err := c.acquire(t.Context(), "x", shared); !ok || err != nil {
			t.Fatal(ok, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		gaveUp, came := make(chan error, 1), make(chan bool, 1)
		go func() {
			_, err := c.acquire(ctx, "x", locked)
			gaveUp <- err
		}()
		synctest.Wait()
		go func() {
			ok, _ := c.acquire(t.Context(), "x", shared)
			came <- ok
		}()
		synctest.Wait()
		if len(came) != 0 {
			t.Fatal("a shared user has overtaken a locked one")
		}
		cancel(cause)
		if err := <-gaveUp; !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
		if !<-came {
			t.Error("the shared user was sent elsewhere")
		}
		c.release("x", shared)
		c.release("x", shared)
		if len(c.m) != 0 {
			t.Error("a directory that nobody uses is remembered")
		}
	})
}

// TestEnterCaches checks that a step enters a directory once however many of its mounts show it, that it does not wait
// for itself, and that steps which name their caches in different orders do not wait for each other for ever.
func TestEnterCaches(t *testing.T) {
	mount := func(id string, sharing op.CacheSharing) op.ExecMount {
		return op.ExecMount{Type: op.MountCache, Input: op.NoInput, Cache: op.CacheMount{ID: id, Sharing: sharing}}
	}
	synctest.Test(t, func(t *testing.T) {
		r := New(Deps{})
		step := new(solver.Step)
		twice := &op.Exec{Mounts: []op.ExecMount{mount("a", shared), mount("a", locked), mount("a", private)}}
		uses, leave, err := r.enterCaches(t.Context(), step, twice)
		if err != nil || len(uses) != 1 {
			t.Fatalf("got %v, %v", uses, err)
		}
		for _, u := range uses {
			if u.sharing != locked {
				t.Errorf("entered as %d, want locked", u.sharing)
			}
		}
		leave()
		var wg sync.WaitGroup
		for i := range 20 {
			e := &op.Exec{Mounts: []op.ExecMount{mount("a", locked), mount("b", locked)}}
			if i%2 == 1 {
				slices.Reverse(e.Mounts)
			}
			wg.Go(func() {
				_, leave, err := r.enterCaches(t.Context(), step, e)
				if err != nil {
					t.Error(err)
				}
				leave()
			})
		}
		wg.Wait() // synctest fails the test if all of them wait
		if len(r.caches.m) != 0 {
			t.Error("a directory is still in use")
		}
	})
}

// TestEnterCachesCancelled checks that a step which gives up leaves the directories that it is in.
func TestEnterCachesCancelled(t *testing.T) {
	r := New(Deps{})
	step := new(solver.Step)
	e := &op.Exec{}
	for _, id := range []string{"a", "b", "c"} {
		e.Mounts = append(e.Mounts, op.ExecMount{
			Type: op.MountCache, Input: op.NoInput, Cache: op.CacheMount{ID: id, Sharing: locked},
		})
	}
	_, leaveFirst, err := r.enterCaches(t.Context(), step, &op.Exec{Mounts: e.Mounts[1:2]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m, err := r.mountExec(ctx, step, e)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	m.close(ctx)
	leaveFirst()
	if len(r.caches.m) != 0 {
		t.Error("a directory is still in use")
	}
}

// TestCacheNames checks that no ID leads out of the directory of caches, and that different mounts have different ones.
func TestCacheNames(t *testing.T) {
	seen := make(map[string]op.ExecMount)
	step := &solver.Step{Inputs: []solver.Result{"snapshot:a", "snapshot:b"}}
	for _, x := range []op.ExecMount{
		{Input: op.NoInput, Cache: op.CacheMount{ID: ""}},
		{Input: op.NoInput, Cache: op.CacheMount{ID: "../../../etc"}},
		{Input: op.NoInput, Cache: op.CacheMount{ID: "/etc"}},
		{Input: op.NoInput, Cache: op.CacheMount{ID: "a"}},
		{Input: 0, Cache: op.CacheMount{ID: "a"}},
		{Input: 1, Cache: op.CacheMount{ID: "a"}},
		{Input: op.NoInput, Cache: op.CacheMount{ID: "a\x00scratch"}},
		{Input: op.NoInput, Cache: op.CacheMount{ID: string(make([]byte, 5000)) + "\n"}},
	} {
		name := cacheName(step, &x)
		if !filepath.IsLocal(name) || filepath.Base(name) != name || strings.Trim(name, "0123456789abcdef.") != "" {
			t.Errorf("%.40q has the directory %q", x.Cache.ID, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%+v and %+v have the same directory", x, other)
		}
		seen[name] = x
		part := x
		part.Selector = "/../part"
		if got := cacheName(step, &part); got != name {
			t.Errorf("a part of %+v has another directory", x)
		}
	}
}

// TestInstall checks that a cache directory which another step has made and opened stays, also if it is still empty.
func TestInstall(t *testing.T) {
	dir, tmp := filepath.Join(t.TempDir(), "cache"), t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	opened, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := install(tmp, dir); err != nil {
		t.Error(err)
	}
	was, _ := opened.Stat()
	is, err := os.Stat(dir)
	if err != nil || !os.SameFile(was, is) {
		t.Errorf("the directory was replaced (%v)", err)
	}
}

// TestSweepCaches checks that what a killed daemon has left half filled or half removed goes, whatever its directory is
// called, and caches stay.
func TestSweepCaches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b")
	for _, d := range []string{"new-1/a", "gone-1/a", "0123/a"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	New(Deps{CacheDir: dir})
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "0123" {
		t.Errorf("left are %v (%v), want 0123", left, err)
	}
}

// TestPruneCaches checks that a step without the cache empties the mounts of its ID, private copies too, and no others: a
// mount that starts from something is another one than a mount that does not. Who is in a directory keeps it until leaving.
func TestPruneCaches(t *testing.T) {
	r := New(Deps{CacheDir: t.TempDir()})
	step := &solver.Step{Inputs: []solver.Result{"snapshot:a", "snapshot:b"}}
	mount := func(id string, input int) op.ExecMount {
		return op.ExecMount{Type: op.MountCache, Input: input, Cache: op.CacheMount{ID: id}}
	}
	plain, based, based2, other := mount("a", op.NoInput), mount("a", 0), mount("a", 1), mount("b", op.NoInput)
	names := map[string]string{
		"plain": cacheName(step, &plain), "private": cacheName(step, &plain) + "-1", "other": cacheName(step, &other),
		"based": cacheName(step, &based), "based2": cacheName(step, &based2),
	}
	fill := func() {
		for _, name := range names {
			if err := os.MkdirAll(filepath.Join(r.deps.CacheDir, name, "content"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	left := func() (out []string) {
		for what, name := range names {
			if _, err := os.Stat(filepath.Join(r.deps.CacheDir, name)); err == nil {
				out = append(out, what)
			}
		}
		slices.Sort(out)
		return out
	}
	for _, tc := range []struct {
		mounts []op.ExecMount
		want   string
	}{
		{nil, "based based2 other plain private"},
		{[]op.ExecMount{plain, {Type: op.MountTmpfs}}, "based based2 other"},
		{[]op.ExecMount{based}, "other plain private"},
		{[]op.ExecMount{other, based}, "plain private"},
		{[]op.ExecMount{mount("", op.NoInput)}, "based based2 other plain private"},
	} {
		fill()
		if err := r.PruneCaches([]*op.Exec{{Mounts: tc.mounts}}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(left(), " "); got != tc.want {
			t.Errorf("after %+v left are %q, want %q", tc.mounts, got, tc.want)
		}
	}

	fill()
	e := &op.Exec{Mounts: []op.ExecMount{plain}}
	_, leave, err := r.enterCaches(t.Context(), step, e)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := openDir(filepath.Join(r.deps.CacheDir, names["plain"]))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := r.PruneCaches([]*op.Exec{e}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(left(), "plain") {
		t.Error("who enters now finds the old directory")
	}
	if content, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())); err != nil || len(content) != 1 {
		t.Errorf("who is in the old directory finds %v, %v", content, err)
	}
	leave()
	if gone, err := filepath.Glob(filepath.Join(r.deps.CacheDir, goneCache+"*")); err != nil || len(gone) > 0 {
		t.Errorf("left are %v, %v", gone, err)
	}
}

// TestPruneNothing checks that a runner whose directory of caches does not exist yet has nothing to empty.
func TestPruneNothing(t *testing.T) {
	r := New(Deps{CacheDir: filepath.Join(t.TempDir(), "nosuch")})
	if err := r.PruneCaches([]*op.Exec{{Mounts: []op.ExecMount{{Type: op.MountCache, Input: op.NoInput}}}}); err != nil {
		t.Error(err)
	}
}
