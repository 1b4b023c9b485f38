package snapshottest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// After a kill every snapshot is there as it was, and no draft or view is: their names and parents are free.
func (e *env) crash() {
	ctx := e.Context()
	e.layer("base", "", file(e.T, "a", "1"))
	e.layer("child", "base", file(e.T, "b", "2"))
	mounts, err := e.s.Prepare(ctx, "draft", "child")
	e.must(err)
	e.root(mounts, file(e.T, "c", "3"))
	_, err = e.s.View(ctx, "view", "child")
	e.must(err)
	before := e.all()
	e.kill()
	after := e.all()
	if len(before) != len(after) {
		e.Fatalf("%d snapshots after the kill, %d before", len(after), len(before))
	}
	for i, b := range before {
		a := after[i]
		if a.ID != b.ID || a.Parent != b.Parent || !a.Created.Equal(b.Created) || a.Size != b.Size || a.Inodes != b.Inodes {
			e.Errorf("after the kill %+v, before %+v", a, b)
		}
	}
	if got, want := e.files("child"), map[string]string{"a": "1", "b": "2"}; !maps.Equal(got, want) {
		e.Errorf("child has %v, want %v", got, want)
	}
	e.want("committing a draft of before", e.s.Commit(ctx, "draft", "x"), snapshot.ErrNotFound)
	mounts, err = e.s.Prepare(ctx, "draft", "child")
	e.must(err)
	e.root(mounts, func(root string) {
		if got, want := tree(e.T, root), map[string]string{"a": "1", "b": "2"}; !maps.Equal(got, want) {
			e.Errorf("a draft of the same name has %v, want %v", got, want)
		}
	})
	e.must(e.s.Discard(ctx, "draft"))
	e.must(e.s.Remove(ctx, "child"))
	e.drain()
	e.kill()
	if got := e.all(); len(got) != 1 || got[0].ID != "base" {
		e.Errorf("got %v, want base only", got)
	}
}

// Of many commits to one name at once exactly one wins, its tree is the snapshot, and every draft is gone.
func (e *env) commitRace() {
	const racers = 8
	ctx := e.Context()
	e.layer("base", "", nil)
	for round := range 10 {
		id := snapshot.ID(fmt.Sprintf("r%d", round))
		var wg sync.WaitGroup
		var won atomic.Int64
		won.Store(-1)
		for i := range racers {
			d := snapshot.Draft(fmt.Sprintf("racer%d", i))
			mounts, err := e.s.Prepare(ctx, d, "base")
			e.must(err)
			e.root(mounts, file(e.T, "who", fmt.Sprint(i)))
			wg.Go(func() {
				err := e.s.Commit(ctx, d, id)
				switch {
				case err == nil:
					if !won.CompareAndSwap(-1, int64(i)) {
						e.Errorf("%d and %d have both committed %s", i, won.Load(), id)
					}
				case !errors.Is(err, snapshot.ErrExists):
					e.Errorf("the loser of a race got %v, want ErrExists", err)
				}
				if err := e.s.Commit(ctx, d, id+"x"); !errors.Is(err, snapshot.ErrNotFound) {
					e.Errorf("a draft after the race: %v, want ErrNotFound", err)
				}
			})
		}
		wg.Wait()
		if got, want := e.files(id)["who"], fmt.Sprint(won.Load()); got != want {
			e.Errorf("%s has the tree of %s, want that of %s, which won", id, got, want)
		}
	}
}

// A removal and a use of the same snapshot at once: either the one fails or the other.
func (e *env) removeRace() {
	ctx := e.Context()
	for range 100 {
		e.layer("x", "", nil)
		var wg sync.WaitGroup
		var removeErr, useErr error
		wg.Go(func() { removeErr = e.s.Remove(ctx, "x") })
		wg.Go(func() { _, useErr = e.s.Prepare(ctx, "d", "x") })
		wg.Wait()
		switch {
		case removeErr == nil && errors.Is(useErr, snapshot.ErrNotFound):
		case useErr == nil && errors.Is(removeErr, snapshot.ErrInUse):
			e.must(e.s.Discard(ctx, "d"))
			e.must(e.s.Remove(ctx, "x"))
		default:
			e.Fatalf("removing: %v; preparing: %v", removeErr, useErr)
		}
	}
}

// Many goroutines do anything at all with few names. Whatever comes of it, only the errors of the contract are
// returned and what is left is a set of whole chains, which a kill does not change.
func (e *env) random() {
	ctx := e.Context()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			id := func() snapshot.ID { return snapshot.ID(fmt.Sprintf("s%d", r.IntN(12))) }
			for range 300 {
				d := snapshot.Draft(fmt.Sprintf("d%d", r.IntN(6)))
				var err error
				switch r.IntN(8) {
				case 0:
					_, err = e.s.Prepare(ctx, d, "")
				case 1, 2:
					_, err = e.s.Prepare(ctx, d, id())
				case 3:
					_, err = e.s.View(ctx, d, id())
				case 4, 5:
					err = e.s.Commit(ctx, d, id())
				case 6:
					err = e.s.Discard(ctx, d)
				case 7:
					err = e.s.Remove(ctx, id())
				}
				if err != nil && !errors.Is(err, snapshot.ErrExists) && !errors.Is(err, snapshot.ErrNotFound) && !errors.Is(err, snapshot.ErrInUse) {
					e.Error(err)
				}
			}
		})
	}
	wg.Wait()
	before := e.all()
	e.kill()
	after := e.all()
	if len(before) != len(after) {
		e.Fatalf("%d snapshots after the kill, %d before", len(after), len(before))
	}
	// Nothing is in use any more, so that everything can be removed from the leaves down, and only so.
	for i := len(after) - 1; i >= 0; i-- {
		e.must(e.s.Remove(ctx, after[i].ID))
	}
	if left := e.all(); len(left) != 0 {
		e.Errorf("left: %v", left)
	}
}

// Chains as long as the longest image's, and longer ones as of a Dockerfile with four hundred steps, can be mounted
// whole, as a draft and as a view.
func (e *env) deep() {
	depth := 127
	if _, ok := e.s.(snapshot.Differ); ok {
		depth = 400
	}
	parent := snapshot.ID("")
	for i := range depth {
		// Names as long as they may be.
		id := snapshot.ID(fmt.Sprintf("%064d", i))
		e.write(id, parent, file(e.T, fmt.Sprintf("f%d", i), fmt.Sprint(i), "last", fmt.Sprint(i)))
		parent = id
		if i+1 != 127 && i+1 != depth {
			continue
		}
		got := e.files(id)
		if len(got) != i+2 || got["last"] != fmt.Sprint(i) || got["f0"] != "0" {
			e.Errorf("%d layers: %d files, last is %q", i+1, len(got), got["last"])
		}
	}
	e.kill()
	if got := len(e.files(parent)); got != depth+1 {
		e.Errorf("%d layers after a kill: %d files", depth, got)
	}
	e.layer("draft", parent, func(root string) {
		if got := len(tree(e.T, root)); got != depth+1 {
			e.Errorf("a draft on %d layers has %d files", depth, got)
		}
	})
	e.must(e.s.Remove(e.Context(), "draft"))
	for i := depth - 1; i >= 0; i-- {
		e.must(e.s.Remove(e.Context(), snapshot.ID(fmt.Sprintf("%064d", i))))
	}
}

// Where a snapshotter says what a difference is, it is what was written; and one that was written straight into the
// directory is mounted as such, with whiteouts and opaque directories, at the root too.
func (e *env) difference() {
	ctx := e.Context()
	differ, ok := e.s.(snapshot.Differ)
	writer, ok2 := e.s.(snapshot.DraftWriter)
	if !ok || !ok2 {
		e.Skip("has no differences")
	}
	if os.Getuid() != 0 {
		e.Skip("needs root")
	}
	e.layer("base", "", file(e.T, "a", "1", "b", "1", "d/x", "1", "d/y", "1"))
	e.layer("child", "base", func(root string) {
		file(e.T, "c", "2")(root)
		e.must(os.Remove(root + "/a"))
	})
	dir, ok, err := differ.Upper(ctx, "child")
	e.must(err)
	if got := tree(e.T, dir); !ok || len(got) != 2 || got["c"] != "2" || got["a"] == "" {
		e.Errorf("the difference is %v, want c and a whiteout of a", got)
	}
	_, _, err = differ.Upper(ctx, "missing")
	e.want("the difference of a missing snapshot", err, snapshot.ErrNotFound)
	_, _, err = writer.DraftUpper(ctx, "missing")
	e.want("the directory of a missing draft", err, snapshot.ErrNotFound)

	opaque := func(dir string) {
		err := unix.Lsetxattr(dir, "trusted.overlay.opaque", []byte("y"), 0)
		if errors.Is(err, unix.EPERM) { // in a user namespace
			err = unix.Lsetxattr(dir, "user.overlay.opaque", []byte("y"), 0)
		}
		e.must(err)
	}
	e.write("written", "base", func(dir string) {
		e.must(unix.Mknod(dir+"/b", unix.S_IFCHR, 0))
		file(e.T, "d/z", "3")(dir)
		opaque(dir + "/d")
	})
	if got, want := e.files("written"), map[string]string{"a": "1", "d": "/", "d/z": "3"}; !maps.Equal(got, want) {
		e.Errorf("written has %v, want %v", got, want)
	}
	e.write("root", "base", func(dir string) {
		file(e.T, "only", "4")(dir)
		opaque(dir)
	})
	e.layer("onroot", "root", file(e.T, "more", "5"))
	for id, want := range map[snapshot.ID]map[string]string{
		"root": {"only": "4"}, "onroot": {"only": "4", "more": "5"},
	} {
		if got := e.files(id); !maps.Equal(got, want) {
			e.Errorf("%s has %v, want %v", id, got, want)
		}
	}
	e.write("nothing", "base", opaque)
	if got := e.files("nothing"); len(got) != 0 {
		e.Errorf("below an opaque root: %v, want nothing", got)
	}
}

// Steps that change nothing do not count towards what can be stacked, wherever they are in the chain.
func (e *env) emptyLayers() {
	ctx := e.Context()
	if _, ok := e.s.(snapshot.Differ); !ok {
		e.Skip("is not stacked")
	}
	e.layer("base", "", file(e.T, "a", "1"))
	parent := snapshot.ID("base")
	for i := range 600 { // more than overlayfs stacks
		id := snapshot.ID(fmt.Sprintf("e%d", i))
		e.layer(id, parent, nil)
		parent = id
	}
	e.layer("top", parent, file(e.T, "b", "2"))
	want := map[string]string{"a": "1"}
	if got := e.files(parent); !maps.Equal(got, want) {
		e.Errorf("after empty layers: %v, want %v", got, want)
	}
	want["b"] = "2"
	if got := e.files("top"); !maps.Equal(got, want) {
		e.Errorf("on top: %v, want %v", got, want)
	}
	i, err := e.s.Stat(ctx, parent)
	e.must(err)
	if i.Size != 0 || i.Inodes != 0 {
		e.Errorf("an empty layer has %d bytes in %d files", i.Size, i.Inodes)
	}
}
