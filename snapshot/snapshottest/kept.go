package snapshottest

import (
	"maps"
	"strings"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Keep is for store.Options.Keep: a draft that is to be kept is called "kepton" and what it stands on.
func Keep(d snapshot.Draft) (parent snapshot.ID, ok bool) {
	on, ok := strings.CutPrefix(string(d), "kepton")
	return snapshot.ID(on), ok
}

// keeper returns the snapshotter as a Keeper, or skips the test.
func (e *env) keeper() snapshot.Keeper {
	e.Helper()
	k, ok := e.s.(snapshot.Keeper)
	if !ok {
		e.Skip("keeps no drafts")
	}
	return k
}

// has checks what a kept draft has.
func (e *env) has(d snapshot.Draft, want map[string]string) {
	e.Helper()
	mounts, err := e.keeper().Mounts(e.Context(), d, false)
	e.must(err)
	e.root(mounts, func(root string) {
		if got := tree(e.T, root); !maps.Equal(got, want) {
			e.Errorf("%s has %v, want %v", d, got, want)
		}
	})
}

// A draft that is kept can be mounted again and again, lax or not, also after kills, and has what was written each time.
// Discard ends it. Others of the same kind that nobody wants any more are gone after a kill.
func (e *env) kept() {
	ctx := e.Context()
	e.layer("base", "", file(e.T, "a", "1"))
	want := map[string]string{"a": "1"}
	e.must(e.keeper().Keep(ctx, "keptonbase", "base"))
	e.must(e.keeper().Keep(ctx, "kepton", ""))
	e.must(e.keeper().Keep(ctx, "unwanted", "base"))
	e.want("keeping it again", e.keeper().Keep(ctx, "keptonbase", "base"), snapshot.ErrExists)
	e.want("keeping on nothing", e.keeper().Keep(ctx, "keptonnothing", "nothing"), snapshot.ErrNotFound)
	for i, lax := range []bool{false, true, true, false, true} {
		mounts, err := e.keeper().Mounts(ctx, "keptonbase", lax)
		e.must(err)
		name := string(rune('b' + i))
		e.root(mounts, file(e.T, name, "2"))
		want[name] = "2"
		if i%2 == 1 {
			e.kill()
		}
		e.has("keptonbase", want)
	}
	e.has("kepton", map[string]string{})
	_, err := e.keeper().Mounts(ctx, "unwanted", false)
	e.want("mounting what is not wanted", err, snapshot.ErrNotFound)
	e.must(e.keeper().Keep(ctx, "unwanted", ""))

	e.must(e.s.Discard(ctx, "keptonbase"))
	_, err = e.keeper().Mounts(ctx, "keptonbase", false)
	e.want("mounting what is discarded", err, snapshot.ErrNotFound)
	e.kill()
	_, err = e.keeper().Mounts(ctx, "keptonbase", false)
	e.want("mounting what is discarded, after a kill", err, snapshot.ErrNotFound)
	e.must(e.keeper().Keep(ctx, "keptonbase", "base"))
	e.has("keptonbase", map[string]string{"a": "1"})
}

// What a kept draft stands on cannot be removed, also after a kill, and an ordinary draft cannot be mounted like one.
func (e *env) keptInUse() {
	ctx := e.Context()
	e.layer("base", "", nil)
	e.must(e.keeper().Keep(ctx, "keptonbase", "base"))
	for range 2 {
		e.want("removing the parent", e.s.Remove(ctx, "base"), snapshot.ErrInUse)
		e.kill()
	}
	e.must(e.s.Discard(ctx, "keptonbase"))
	_, err := e.s.Prepare(ctx, "draft", "base")
	e.must(err)
	_, err = e.keeper().Mounts(ctx, "draft", false)
	e.want("mounting an ordinary draft again", err, snapshot.ErrNotFound)
	e.must(e.s.Discard(ctx, "draft"))
	e.must(e.s.Remove(ctx, "base"))
}

// A kept draft is committed like any other.
func (e *env) keptCommit() {
	ctx := e.Context()
	e.layer("base", "", file(e.T, "a", "1"))
	e.must(e.keeper().Keep(ctx, "keptonbase", "base"))
	e.kill()
	mounts, err := e.keeper().Mounts(ctx, "keptonbase", true)
	e.must(err)
	e.root(mounts, file(e.T, "b", "2"))
	e.must(e.s.Commit(ctx, "keptonbase", "id"))
	e.kill()
	if got, want := e.files("id"), map[string]string{"a": "1", "b": "2"}; !maps.Equal(got, want) {
		e.Errorf("id has %v, want %v", got, want)
	}
	_, err = e.keeper().Mounts(ctx, "keptonbase", false)
	e.want("mounting what is committed", err, snapshot.ErrNotFound)
}
