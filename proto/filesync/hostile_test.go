package filesync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// bothWays runs a test with a directory that the daemon reads and with one that a client sends. open returns a new
// source each time, and what is to be called when it is done with.
func bothWays(t *testing.T, fn func(t *testing.T, open func(dir string) (Source, func()))) {
	t.Run("local", func(t *testing.T) {
		fn(t, func(dir string) (Source, func()) {
			s, err := Dir(dir, Options{Cache: NewCache("", 0)})
			if err != nil {
				t.Fatal(err)
			}
			return s, func() { _ = s.Close() }
		})
	})
	t.Run("remote", func(t *testing.T) {
		store := newStore(t)
		fn(t, func(dir string) (Source, func()) {
			daemon, client := newPipe()
			local, err := Dir(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { _ = Serve(context.Background(), local, client) }) // the daemon's side reports the same
			src := Remote(daemon, store, RemoteOptions{})
			return src, func() {
				_ = src.Close()
				daemon.close()
				wg.Wait()
				_ = local.Close()
			}
		})
	})
}

// meanwhile calls change again and again while fn runs, at least once before it.
func meanwhile(change func(i int), fn func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	began := make(chan struct{})
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			change(i)
			if i == 0 {
				close(began)
			}
		}
	})
	<-began
	fn()
	stop.Store(true)
	wg.Wait()
}

// contents reads all files of a source's tree. The errors that a directory which changes meanwhile may give are none.
func contents(t *testing.T, s Source) map[string]string {
	t.Helper()
	fine := func(err error) bool {
		var changed *treehash.ChangedError
		return errors.As(err, &changed) || strings.Contains(err.Error(), "changed while the build was reading it") // over the wire it is text
	}
	tr, err := s.Tree(t.Context(), Selection{Follow: []string{"/d", "/f"}})
	if err != nil {
		if !fine(err) {
			t.Errorf("reading the tree: %v", err)
		}
		return nil
	}
	items, err := treehash.Match(t.Context(), tr, nil)
	if err != nil {
		t.Error(err)
		return nil
	}
	out := map[string]string{}
	for _, it := range items {
		if !it.Entry.IsRegular() {
			continue
		}
		r, err := tr.Open(t.Context(), it.Entry.Path)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(r)
			_ = r.Close()
			if err == nil {
				out[it.Entry.Path] = string(b)
			}
		}
		if err != nil && !fine(err) {
			t.Errorf("reading %s: %v", it.Entry.Path, err)
		}
	}
	return out
}

// A directory that changes places with a symlink to somewhere else, over and over, between and during walk and read:
// what is read comes from the context, or nothing is.
func TestSwappedForSymlink(t *testing.T) {
	const rounds = 60
	for _, what := range []string{"directory", "file"} {
		t.Run(what, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(string) (Source, func())) {
				outside, dir := t.TempDir(), t.TempDir()
				write(t, outside, "d/f=secret", "d/sub/f=secret", "f=secret")
				write(t, dir, "d/f=inside", "d/sub/f=inside", "f=inside")
				name := map[string]string{"directory": "d", "file": "f"}[what]
				spare := filepath.Join(t.TempDir(), "spare") // not in the context, so that no walk sees it
				if err := os.Symlink(filepath.Join(outside, name), spare); err != nil {
					t.Fatal(err)
				}
				swap := func(int) {
					if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, name), unix.AT_FDCWD, spare, unix.RENAME_EXCHANGE); err != nil {
						t.Errorf("swapping: %v", err)
					}
				}
				meanwhile(swap, func() {
					for range rounds {
						s, done := open(dir)
						for p, text := range contents(t, s) {
							if text != "inside" {
								t.Errorf("%s has %q", p, text)
							}
						}
						done()
					}
				})
			})
		})
	}
}

// A file that is written to while it is read gives one of its states or an error, never a mixture that its digest does
// not cover.
func TestWrittenMeanwhile(t *testing.T) {
	const rounds = 30
	bothWays(t, func(t *testing.T, open func(string) (Source, func())) {
		dir := t.TempDir()
		write(t, dir, "f=", "d/same=inside")
		f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		state := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 300_000) }
		meanwhile(func(i int) { _, _ = f.WriteAt([]byte(state(i)), 0) }, func() {
			for range rounds {
				s, done := open(dir)
				got := contents(t, s)
				if len(got) > 0 && got["/d/same"] != "inside" {
					t.Errorf("the file that does not change has %q", got["/d/same"])
				}
				done()
			}
		})
		// When it is at rest it is what it was last.
		s, done := open(dir)
		defer done()
		want, _ := os.ReadFile(dir + "/f")
		if got := contents(t, s)["/f"]; got != string(want) || got == "" {
			t.Errorf("got %.20q…, want %.20q…", got, want)
		}
	})
}

// Symlinks that lead in circles, or out of the directory, are entries like others; following them ends inside.
func TestLoops(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) (Source, func())) {
		outside, dir := t.TempDir(), t.TempDir()
		write(t, outside, "f=secret")
		write(t, dir, "a -> b", "b -> a", "self -> self", "d/up -> ..", "d/deep/up -> ../../d", "out -> "+outside, "out2 -> ../../../../../../../.."+outside,
			"x -> x/y", "f=inside", "dot -> .")
		for _, follow := range [][]string{
			{"/"},
			{"/a"},
			{"/self/x"},
			{"/d/up/d/up/d/up/f"},
			{"/d/deep/up/deep/up/up/f"},
			{"/out/f"},
			{"/out2/f"},
			{"/x"},
			{"/dot/dot/dot/f"},
			{"/*/*/*"},
			{strings.Repeat("/dot", 300) + "/f"},
			{strings.Repeat("/d/up", 300) + "/f"},
		} {
			s, done := open(dir)
			tr, err := s.Tree(t.Context(), Selection{Follow: follow})
			if err != nil { // whoever reads what leads nowhere says so; others may not be concerned
				t.Errorf("%.50q: %.300v", follow, err)
				done()
				continue
			}
			items, err := treehash.Match(t.Context(), tr, nil)
			if err != nil {
				t.Errorf("%.50q: %v", follow, err)
			}
			for _, it := range items {
				if it.Entry.IsRegular() && it.Entry.Path != "/f" {
					t.Errorf("%.50q: there is a file %q", follow, it.Entry.Path)
				}
			}
			done()
		}
	})
}

// Directories with many entries, many directories, deep ones and odd names are read and sent as they are; and what takes
// more than there is room for is refused by a number that the user can make something of.
func TestManyEntries(t *testing.T) {
	const wide, deep = 3000, 400
	dir := t.TempDir()
	for i := range wide {
		write(t, dir, fmt.Sprintf("wide/%05d\n%s=", i, strings.Repeat("é", 20)), fmt.Sprintf("dirs/%05d/", i))
	}
	at := dir
	for range deep { // paths longer than the kernel takes at once
		next := filepath.Join(at, "deep\tdir")
		if len(next) > 4000 {
			break
		}
		if err := os.Mkdir(next, 0o755); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	bothWays(t, func(t *testing.T, open func(string) (Source, func())) {
		s, done := open(dir)
		defer done()
		items, err := treehash.Match(t.Context(), tree(t, s, Selection{}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(items); n < 2*wide+300 {
			t.Errorf("got %d entries", n)
		}
	})
	daemon, client := newPipe()
	local := source(t, dir, nil)
	var wg sync.WaitGroup
	wg.Go(func() { _ = Serve(context.Background(), local, client) })
	src := Remote(daemon, newStore(t), RemoteOptions{MaxEntries: 2 * wide})
	_, err := src.Tree(t.Context(), Selection{})
	if !protocolError(err) || !strings.Contains(err.Error(), "more than 6000 files") {
		t.Errorf("got %v", err)
	}
	_ = src.Close()
	daemon.close()
	wg.Wait()
}

// Trees that have more entries than there is room for in memory are taken all the same, and sent only once.
func TestStoreRoom(t *testing.T) {
	store := newStore(t)
	store.room = 10
	for i, c := range []struct {
		files, kept int // how many files a tree has, and how many trees are remembered then
	}{{4, 1}, {20, 1}, {3, 2}, {9, 1}} {
		dir := t.TempDir()
		for k := range c.files {
			write(t, dir, fmt.Sprintf("f%d=%d %d %s", k, i, k, strings.Repeat("x", 2000)))
		}
		for again := range 2 {
			src, _, client := connect(t, dir, store)
			sameContents(t, tree(t, src, Selection{}), tree(t, source(t, dir, nil), Selection{}))
			if again == 1 && *client.size > 500 {
				t.Errorf("tree %d: %d bytes were sent again", i, *client.size)
			}
			_ = src.Close()
		}
		if n := store.order.Len(); n != c.kept || len(store.nodes) != n || store.total > store.room || store.total <= 0 {
			t.Errorf("tree %d: %d trees of %d entries are remembered, want %d", i, n, store.total, c.kept)
		}
	}
	if len(store.live) > 0 {
		t.Errorf("%d trees are in use", len(store.live))
	}
}
