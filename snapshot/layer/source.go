package layer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// DiffSnapshot writes the layer tar of a committed snapshot: what id adds to its parent, or the delta that it is a copy of.
// That the snapshot is still there when the walk is over is part of success, so that one that was being removed does not
// pass for a smaller one.
func DiffSnapshot(ctx context.Context, sn snapshot.Snapshotter, id snapshot.ID, w io.Writer, opt DiffOptions) error {
	info, err := sn.Stat(ctx, id)
	if err != nil {
		return err
	}
	if opt.Windows, err = IsWindows(ctx, sn, id); err != nil {
		return err
	}
	return DiffDelta(ctx, sn, DeltaOf(info), w, opt)
}

// DeltaOf returns the delta that is the layer of a snapshot.
func DeltaOf(info snapshot.Info) snapshot.Delta {
	if info.Delta != (snapshot.Delta{}) {
		return info.Delta
	}
	return snapshot.Delta{Lower: info.Parent, Upper: info.ID}
}

// DiffDelta writes the layer tar of a delta.
func DiffDelta(ctx context.Context, sn snapshot.Snapshotter, delta snapshot.Delta, w io.Writer, opt DiffOptions) error {
	return withDelta(ctx, sn, delta, func(t Target) error { return Diff(ctx, t, w, opt) })
}

// withDelta calls f with where a delta lies and what is below it.
func withDelta(ctx context.Context, sn snapshot.Snapshotter, delta snapshot.Delta, f func(Target) error) error {
	v := &views{sn: sn}
	t, err := v.target(ctx, delta)
	t.loose = delta.Loose
	if err == nil {
		err = f(t)
	}
	if verr := v.end(ctx); err == nil {
		err = verr
	}
	for _, id := range []snapshot.ID{delta.Lower, delta.Upper} {
		if err == nil && id != "" {
			_, err = sn.Stat(ctx, id)
		}
	}
	return err
}

// views are what was made to look at snapshots.
type views struct {
	sn     snapshot.Snapshotter
	drafts []snapshot.Draft
	mounts []*os.File
	empty  string // a directory with nothing in it
}

func (v *views) target(ctx context.Context, delta snapshot.Delta) (Target, error) {
	if delta.Upper == "" {
		return v.compared(ctx, delta)
	}
	info, err := v.sn.Stat(ctx, delta.Upper)
	if err != nil {
		return Target{}, err
	}
	if info.Parent != delta.Lower {
		return v.compared(ctx, delta)
	}
	d, ok := v.sn.(snapshot.Differ)
	if !ok {
		return v.compared(ctx, delta)
	}
	dir, ok, err := d.Upper(ctx, delta.Upper)
	if err != nil {
		return Target{}, err
	}
	if !ok {
		return v.compared(ctx, delta)
	}
	t := Target{Dir: dir, Form: overlayForm()}
	if delta.Lower != "" {
		t.Lower, err = v.open(ctx, delta.Lower)
	}
	return t, err
}

// compared returns the two trees of a delta whole.
func (v *views) compared(ctx context.Context, delta snapshot.Delta) (t Target, err error) {
	if t.Dir, err = v.tree(ctx, delta.Upper); err != nil || delta.Lower == "" {
		return t, err
	}
	lower, err := v.tree(ctx, delta.Lower)
	t.Lower, t.views, t.merged = []string{lower}, true, len(v.mounts) > 0
	return t, err
}

// tree returns a path of the whole tree of a snapshot.
func (v *views) tree(ctx context.Context, id snapshot.ID) (dir string, err error) {
	if id == "" {
		if v.empty == "" {
			v.empty, err = os.MkdirTemp("", "empty")
		}
		return v.empty, err
	}
	m, err := v.view(ctx, id)
	if err != nil {
		return "", err
	}
	if len(m) == 1 && m[0].Type == "bind" {
		return m[0].Source, nil
	}
	f, err := mount.Open(ctx, m, mount.ReadOnly())
	if err != nil {
		return "", err
	}
	v.mounts = append(v.mounts, f)
	return mount.Path(f) + "/.", nil
}

func (v *views) view(ctx context.Context, id snapshot.ID) ([]snapshot.Mount, error) {
	d := NewDraft("diff")
	m, err := v.sn.View(ctx, d, id)
	if err == nil {
		v.drafts = append(v.drafts, d)
	}
	return m, err
}

// open returns the directories that a snapshot merges, topmost first.
func (v *views) open(ctx context.Context, id snapshot.ID) ([]string, error) {
	m, err := v.view(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case len(m) == 1 && m[0].Type == "bind":
		return []string{m[0].Source}, nil
	case len(m) == 1 && m[0].Type == "overlay" && m[0].Upper == "":
		return m[0].Lower, nil
	}
	return nil, fmt.Errorf("comparing snapshot %s: it is mounted in a way unknown here", id)
}

func (v *views) end(ctx context.Context) error {
	var first error
	for _, f := range v.mounts {
		f.Close()
	}
	if v.empty != "" {
		first = os.Remove(v.empty)
	}
	for _, d := range v.drafts {
		if err := v.sn.Discard(context.WithoutCancel(ctx), d); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// overlayForm says which xattr overlayfs marks opaque directories with here: in a user namespace, where it cannot
// write trusted ones, it is mounted with userxattr.
func overlayForm() Form {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295" {
		return UserOverlay
	}
	return Overlay
}

// NewDraft returns a name for a draft that nobody else has, beginning with prefix ([a-z0-9], at most 20 characters).
func NewDraft(prefix string) snapshot.Draft {
	var b [16]byte
	rand.Read(b[:])
	return snapshot.Draft(prefix + hex.EncodeToString(b[:]))
}
