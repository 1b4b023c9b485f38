package run_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/run"
)

// A listing is a tree: by path, what lies there, without times.
type listing map[string]string

// list lists the tree of a snapshot; "" is empty. The caller does not change it.
func (r *rig) list(id snapshot.ID) listing {
	r.t.Helper()
	if _, ok := r.lists[id]; !ok {
		r.under(id, func(root string) { r.lists[id] = listDir(r.t, root) })
	}
	return r.lists[id]
}

// under calls f with a path of the tree of a snapshot.
func (r *rig) under(id snapshot.ID, f func(root string)) {
	r.t.Helper()
	d := layer.NewDraft("list")
	m, err := r.snaps.View(r.t.Context(), d, id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() {
		if err := r.snaps.Discard(r.t.Context(), d); err != nil {
			r.t.Error(err)
		}
	}()
	at, err := mount.Open(r.t.Context(), m, mount.ReadOnly())
	if err != nil {
		r.t.Fatal(err)
	}
	defer at.Close()
	f(mount.Path(at) + "/.")
}

func listDir(t testing.TB, root string) listing {
	t.Helper()
	out := listing{}
	linked := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if first := linked[st.Ino]; first != "" && st.Mode&unix.S_IFMT == unix.S_IFREG {
			out["/"+rel] = out[first] + " =" + first
			return nil
		}
		linked[st.Ino] = "/" + rel
		out["/"+rel] = entryOf(p, st)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// entryOf describes what lies at a path.
func entryOf(p string, st *syscall.Stat_t) string {
	perm := fmt.Sprintf("%04o", st.Mode&0o7777)
	if st.Uid != 0 || st.Gid != 0 {
		perm += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "dir " + perm
	case unix.S_IFLNK:
		to, _ := os.Readlink(p)
		return "link " + to
	case unix.S_IFIFO:
		return "fifo " + perm
	case unix.S_IFSOCK:
		return "socket " + perm
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf("device %s %d:%d", perm, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	data, _ := os.ReadFile(p)
	if len(data) > 256 {
		data = fmt.Appendf(nil, "%d bytes %x", len(data), sha256.Sum256(data))
	}
	return "file " + perm + " " + string(data)
}

// A content is a step towards the tree that is expected.
type content func(r *rig, tree listing)

func wantDir(p string, mode int) content {
	return func(_ *rig, l listing) { l[p] = fmt.Sprintf("dir %04o", mode) }
}

func wantFile(p string, mode int, data string) content {
	return func(_ *rig, l listing) { l[p] = fmt.Sprintf("file %04o %s", mode, data) }
}

func want(p, entry string) content { return func(_ *rig, l listing) { l[p] = entry } }

func wantGone(p string) content {
	return func(_ *rig, l listing) {
		maps.DeleteFunc(l, func(k, _ string) bool { return k == p || strings.HasPrefix(k, p+"/") })
	}
}

// wantOf is all that a vertex results in.
func wantOf(v *solver.Vertex) content {
	return func(r *rig, l listing) { maps.Copy(l, r.list(r.snapshotOf(v))) }
}

// snapshotOf solves v, which may be nil for an empty tree.
func (r *rig) snapshotOf(v *solver.Vertex) snapshot.ID {
	r.t.Helper()
	if v == nil {
		return ""
	}
	res, _ := r.run(v)
	id, ok := run.SnapshotOf(res)
	if !ok {
		r.t.Fatalf("%s results in %s", v.Name(), res)
	}
	return id
}

// chain returns the snapshots of a tree, lowest first.
func (r *rig) chain(id snapshot.ID) []snapshot.Info {
	r.t.Helper()
	var out []snapshot.Info
	for id != "" {
		info, err := r.snaps.Stat(r.t.Context(), id)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, info)
		id = info.Parent
	}
	slices.Reverse(out)
	return out
}

// layers returns the layer tars of a tree, lowest first.
func (r *rig) layers(id snapshot.ID) [][]byte {
	r.t.Helper()
	var out [][]byte
	for _, info := range r.chain(id) {
		if _, ok := r.tars[info.ID]; !ok {
			var b bytes.Buffer
			if err := layer.DiffSnapshot(r.t.Context(), r.snaps, info.ID, &b, layer.DiffOptions{}); err != nil {
				r.t.Fatal(err)
			}
			r.tars[info.ID] = b.Bytes()
		}
		out = append(out, r.tars[info.ID])
	}
	return out
}

// pulled applies the layers of a tree as who pulls an image of it does.
func (r *rig) pulled(id snapshot.ID) snapshot.ID {
	r.t.Helper()
	ctx := r.t.Context()
	var top snapshot.ID
	var chain string
	for _, tar := range r.layers(id) {
		sum := sha256.Sum256(tar)
		chain += string(sum[:])
		if had := r.pulls[chain]; had != "" {
			top = had
			continue
		}
		d := layer.NewDraft("pull")
		m, err := r.snaps.Prepare(ctx, d, top)
		if err != nil {
			r.t.Fatal(err)
		}
		to, _ := layer.TargetOf(m)
		if _, err := layer.Apply(ctx, to, bytes.NewReader(tar), layer.Options{}); err != nil {
			r.t.Fatal(err)
		}
		top = snapshot.ID(layer.NewDraft("pulled"))
		if err := r.lease.Reserve(ctx, lease.ID(top)); err != nil {
			r.t.Fatal(err)
		}
		if err := r.snaps.Commit(ctx, d, top); err != nil {
			r.t.Fatal(err)
		}
		r.pulls[chain] = top
	}
	return top
}

// compare says how a tree differs from the one that is wanted.
func compare(got, want listing) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[p]; !ok {
			fmt.Fprintf(&b, "\n%s is missing: %.80q", p, want[p])
		} else if g != want[p] {
			fmt.Fprintf(&b, "\n%s is %.80q, want %.80q", p, g, want[p])
		}
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[p]; !ok {
			fmt.Fprintf(&b, "\n%s is there: %.80q", p, got[p])
		}
	}
	return b.String()
}
