package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"

	"github.com/boxbuild/boxbuild/snapshot"
)

// What is written into a draft is in the snapshot, and can be looked at until it is removed.
func (e *env) life() {
	ctx := e.Context()
	mounts, err := e.s.Prepare(ctx, "draft", "")
	e.must(err)
	if len(mounts) != 1 || mounts[0].ReadOnly() {
		e.Errorf("a draft's mounts are %+v, want one for writing", mounts)
	}
	_, err = e.s.Stat(ctx, "one")
	e.want("before the commit", err, snapshot.ErrNotFound)
	e.root(mounts, file(e.T, "a/b", "text"))
	e.must(e.s.Commit(ctx, "draft", "one"))
	if got, want := e.files("one"), map[string]string{"a": "/", "a/b": "text"}; !maps.Equal(got, want) {
		e.Errorf("got files %v, want %v", got, want)
	}
	i, err := e.s.Stat(ctx, "one")
	e.must(err)
	if i.ID != "one" || i.Parent != "" || i.Created.IsZero() {
		e.Errorf("got %+v", i)
	}
	mounts, err = e.s.View(ctx, "view", "one")
	e.must(err)
	if len(mounts) != 1 || !mounts[0].ReadOnly() {
		e.Errorf("a view's mounts are %+v, want one for reading", mounts)
	}
	if os.Getuid() == 0 {
		e.root(mounts, func(root string) {
			if err := os.WriteFile(root+"/x", nil, 0o644); !errors.Is(err, syscall.EROFS) {
				e.Errorf("writing to a view: %v, want EROFS", err)
			}
		})
	}
	e.must(e.s.Discard(ctx, "view"))
	e.must(e.s.Remove(ctx, "one"))
	_, err = e.s.Stat(ctx, "one")
	e.want("after the removal", err, snapshot.ErrNotFound)
	e.drain()
}

// A child shows its parent's files but for what it changed, and changes nothing in its parent.
func (e *env) layers() {
	e.layer("base", "", file(e.T, "same", "1", "changed", "1", "removed", "1", "dir/x", "1", "gone/x", "1"))
	e.layer("child", "base", func(root string) {
		file(e.T, "changed", "2", "new", "2", "dir/y", "2")(root)
		e.must(os.Remove(root + "/removed"))
		e.must(os.RemoveAll(root + "/gone"))
		e.must(os.Symlink("/dir", root+"/link"))
	})
	e.layer("grandchild", "child", func(root string) {
		file(e.T, "removed", "3", "gone/y", "3")(root) // a directory made anew shows nothing of the one removed
	})
	base := map[string]string{
		"same": "1", "changed": "1", "removed": "1", "dir": "/", "dir/x": "1", "gone": "/", "gone/x": "1",
	}
	child := map[string]string{
		"same": "1", "changed": "2", "new": "2", "dir": "/", "dir/x": "1", "dir/y": "2", "link": "-> /dir",
	}
	grandchild := maps.Clone(child)
	grandchild["removed"], grandchild["gone"], grandchild["gone/y"] = "3", "/", "3"
	for id, want := range map[snapshot.ID]map[string]string{"base": base, "child": child, "grandchild": grandchild} {
		if got := e.files(id); !maps.Equal(got, want) {
			e.Errorf("%s has %v, want %v", id, got, want)
		}
	}
}

// Every operation on what is not there, or is there already, returns the error that the contract names, and does
// nothing.
func (e *env) errors() {
	ctx := e.Context()
	e.layer("one", "", nil)
	_, err := e.s.Prepare(ctx, "d", "missing")
	e.want("preparing on a missing parent", err, snapshot.ErrNotFound)
	_, err = e.s.View(ctx, "d", "missing")
	e.want("viewing a missing snapshot", err, snapshot.ErrNotFound)
	_, err = e.s.View(ctx, "d", "")
	e.want("viewing nothing", err, snapshot.ErrNotFound)
	e.want("committing a missing draft", e.s.Commit(ctx, "d", "two"), snapshot.ErrNotFound)
	e.want("discarding a missing draft", e.s.Discard(ctx, "d"), nil)
	e.want("removing a missing snapshot", e.s.Remove(ctx, "missing"), nil)

	_, err = e.s.Prepare(ctx, "d", "one")
	e.must(err)
	_, err = e.s.Prepare(ctx, "d", "one")
	e.want("preparing a draft twice", err, snapshot.ErrExists)
	_, err = e.s.View(ctx, "d", "one")
	e.want("viewing under a draft's name", err, snapshot.ErrExists)
	e.want("committing to a name that is taken", e.s.Commit(ctx, "d", "one"), snapshot.ErrExists)
	e.want("committing a draft that was refused", e.s.Commit(ctx, "d", "two"), snapshot.ErrNotFound)

	_, err = e.s.View(ctx, "d", "one")
	e.must(err)
	e.want("committing a view", e.s.Commit(ctx, "d", "two"), snapshot.ErrNotFound)
	e.want("removing what is viewed", e.s.Remove(ctx, "one"), snapshot.ErrInUse)
	e.must(e.s.Discard(ctx, "d"))

	_, err = e.s.Prepare(ctx, "d", "")
	e.must(err)
	e.must(e.s.Commit(ctx, "d", "d")) // drafts and IDs are different name spaces
	e.want("committing a draft twice", e.s.Commit(ctx, "d", "e"), snapshot.ErrNotFound)
	if got := len(e.all()); got != 2 {
		e.Errorf("%d snapshots, want 2", got)
	}
}

// Names that are none are refused, whatever they would be as paths.
func (e *env) names() {
	ctx := e.Context()
	for _, name := range []string{"", "A", "a-b", "a/b", "../x", ".", "a\x00", "ä", strings.Repeat("x", 65)} {
		if _, err := e.s.Prepare(ctx, snapshot.Draft(name), ""); err == nil {
			e.Errorf("draft %q is accepted", name)
		}
		_, err := e.s.Prepare(ctx, "d", "")
		e.must(err)
		if err := e.s.Commit(ctx, "d", snapshot.ID(name)); err == nil {
			e.Errorf("snapshot %q is accepted", name)
		}
		e.want("the draft of a refused commit", e.s.Commit(ctx, "d", "x"), snapshot.ErrNotFound)
	}
	long := strings.Repeat("0123456789abcdef", 4)
	_, err := e.s.Prepare(ctx, snapshot.Draft(long), "")
	e.must(err)
	e.must(e.s.Commit(ctx, snapshot.Draft(long), snapshot.ID(long)))
}

// A snapshot cannot be removed while a child, draft or view stands on it, and can be when the last one is gone.
func (e *env) inUse() {
	ctx := e.Context()
	e.layer("base", "", nil)
	e.layer("child", "base", nil)
	_, err := e.s.Prepare(ctx, "draft", "base")
	e.must(err)
	_, err = e.s.View(ctx, "view", "base")
	e.must(err)
	for _, end := range []func() error{
		func() error { return e.s.Remove(ctx, "child") },
		func() error { return e.s.Discard(ctx, "draft") },
		func() error { return e.s.Discard(ctx, "view") },
	} {
		e.want("removing what is in use", e.s.Remove(ctx, "base"), snapshot.ErrInUse)
		_, err := e.s.Stat(ctx, "base")
		e.must(err)
		e.must(end())
	}
	e.must(e.s.Remove(ctx, "base"))

	e.layer("base", "", nil)
	_, err = e.s.Prepare(ctx, "draft", "base")
	e.must(err)
	e.must(e.s.Commit(ctx, "draft", "child"))
	e.want("a draft that became a child", e.s.Remove(ctx, "base"), snapshot.ErrInUse)
	_, err = e.s.Prepare(ctx, "draft", "base")
	e.must(err)
	e.want("a refused commit", e.s.Commit(ctx, "draft", "child"), snapshot.ErrExists)
	e.must(e.s.Remove(ctx, "child"))
	e.must(e.s.Remove(ctx, "base"))
}

// A name can be used again after removal, and then names the new tree, also after a kill.
func (e *env) nameIsFreeAgain() {
	for i := range 5 {
		e.layer("x", "", file(e.T, fmt.Sprint(i), ""))
		e.kill()
		if got, want := e.files("x"), map[string]string{fmt.Sprint(i): ""}; !maps.Equal(got, want) {
			e.Errorf("x has %v, want %v", got, want)
		}
		e.must(e.s.Remove(e.Context(), "x"))
	}
}

// All yields each snapshot once, parents first, and can be left at any point.
func (e *env) allOrder() {
	parents := map[snapshot.ID]snapshot.ID{}
	// In an order of names that is not the order of generations.
	for _, p := range [][2]snapshot.ID{{"m", ""}, {"z", "m"}, {"a", "z"}, {"b", "m"}, {"k", ""}, {"c", "a"}, {"d", "a"}} {
		e.layer(p[0], p[1], nil)
		parents[p[0]] = p[1]
	}
	for range 2 {
		seen := map[snapshot.ID]bool{"": true}
		for _, i := range e.all() {
			if want, ok := parents[i.ID]; !ok || want != i.Parent || seen[i.ID] || !seen[i.Parent] {
				e.Errorf("%s on %q yielded out of turn, or wrong", i.ID, i.Parent)
			}
			seen[i.ID] = true
		}
		if len(seen) != len(parents)+1 {
			e.Errorf("%d snapshots, want %d", len(seen)-1, len(parents))
		}
		e.kill()
	}
	for range e.s.All(e.Context()) {
		break
	}
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	var err error
	for _, err = range e.s.All(ctx) {
	}
	e.want("a cancelled context", err, context.Canceled)
}

// Sizes are what was written, hard links once, and are known in the end also of a snapshot with many files; a kill
// does not change them.
func (e *env) usage() {
	ctx := e.Context()
	e.layer("small", "", func(root string) {
		file(e.T, "a", strings.Repeat("x", 100_000))(root)
		e.must(os.Link(root+"/a", root+"/b"))
	})
	e.layer("many", "small", func(root string) {
		for i := range 1000 {
			file(e.T, fmt.Sprintf("d%d/f%d", i%10, i), "x")(root)
		}
	})
	e.drain()
	_, differs := e.s.(snapshot.Differ)
	for range 2 {
		small, err := e.s.Stat(ctx, "small")
		e.must(err)
		if small.Size < 100_000 || small.Size > 150_000 || small.Inodes != 1 {
			e.Errorf("small has %d bytes in %d files, want about 100,000 in 1", small.Size, small.Inodes)
		}
		many, err := e.s.Stat(ctx, "many")
		e.must(err)
		want := int64(1010)
		if !differs {
			want++ // its parent's
		}
		if many.Size < 1000 || many.Inodes != want {
			e.Errorf("many has %d bytes in %d files, want %d files", many.Size, many.Inodes, want)
		}
		e.kill()
		e.drain()
	}
}

// Used moves when a snapshot becomes a parent or is viewed, and never back.
func (e *env) usedTime() {
	ctx := e.Context()
	e.layer("x", "", nil)
	last, err := e.s.Stat(ctx, "x")
	e.must(err)
	if last.Used.Before(last.Created) {
		e.Errorf("used %v, created %v", last.Used, last.Created)
	}
	for i := range 4 {
		var err error
		if i%2 == 0 {
			_, err = e.s.Prepare(ctx, "d", "x")
		} else {
			_, err = e.s.View(ctx, "d", "x")
		}
		e.must(err)
		e.must(e.s.Discard(ctx, "d"))
		now, err := e.s.Stat(ctx, "x")
		e.must(err)
		if !now.Used.After(last.Used) {
			e.Errorf("used %v, before %v", now.Used, last.Used)
		}
		last = now
	}
}

// The root directory's mode and owner are those of the tree, in drafts, views and after a step that changes nothing.
func (e *env) rootAttributes() {
	uid := 0
	if os.Getuid() == 0 {
		uid = 1234
	} else {
		uid = os.Getuid()
	}
	check := func(root string) {
		e.Helper()
		st, err := os.Stat(root + "/")
		e.must(err)
		if got := st.Mode().Perm(); got != 0o711 {
			e.Errorf("root has mode %o, want 711", got)
		}
		if got := int(st.Sys().(*syscall.Stat_t).Uid); got != uid {
			e.Errorf("root belongs to %d, want %d", got, uid)
		}
	}
	e.layer("base", "", nil)
	e.layer("set", "base", func(root string) {
		e.must(os.Chmod(root+"/", 0o711))
		e.must(os.Chown(root+"/", uid, -1))
	})
	e.layer("nothing", "set", check)
	e.layer("something", "nothing", func(root string) {
		check(root)
		file(e.T, "x", "")(root)
	})
	for _, id := range []snapshot.ID{"set", "nothing", "something"} {
		mounts, err := e.s.View(e.Context(), "v", id)
		e.must(err)
		e.root(mounts, check)
		e.must(e.s.Discard(e.Context(), "v"))
	}
}

// A delta is remembered with the snapshot, also after a kill. One that names what is not there is refused, and a snapshot
// whose delta is gone at the next start goes with what stands on it.
func (e *env) delta() {
	ctx := e.Context()
	dc, ok := e.s.(snapshot.DeltaCommitter)
	if !ok {
		e.Skip("it remembers no deltas")
	}
	e.layer("low", "", nil)
	e.layer("up", "low", file(e.T, "a", "1"))
	e.layer("other", "", file(e.T, "b", "2"))
	of := snapshot.Delta{Lower: "low", Upper: "up"}
	d := e.draft()
	_, err := e.s.Prepare(ctx, d, "other")
	e.must(err)
	e.must(dc.CommitDelta(ctx, d, "copy", of))
	e.layer("top", "copy", nil)

	d = e.draft()
	_, err = e.s.Prepare(ctx, d, "")
	e.must(err)
	err = dc.CommitDelta(ctx, d, "bad", snapshot.Delta{Lower: "low", Upper: "nothing"})
	e.want("a delta of nothing", err, snapshot.ErrNotFound)
	_, err = e.s.Stat(ctx, "bad")
	e.want("a refused commit", err, snapshot.ErrNotFound)

	for range 2 {
		for id, want := range map[snapshot.ID]snapshot.Delta{"copy": of, "up": {}, "top": {}} {
			info, err := e.s.Stat(ctx, id)
			e.must(err)
			if info.Delta != want {
				e.Errorf("the delta of %s is %v, want %v", id, info.Delta, want)
			}
		}
		e.kill()
	}
	if _, ok := e.s.(interface{ Crash() }); !ok {
		return // it has no starts
	}
	e.must(e.s.Remove(ctx, "up")) // which is up to those who keep things
	e.kill()
	for _, id := range []snapshot.ID{"copy", "top"} {
		_, err := e.s.Stat(ctx, id)
		e.want("a snapshot without its delta", err, snapshot.ErrNotFound)
	}
	_, err = e.s.Stat(ctx, "other")
	e.must(err)
}
