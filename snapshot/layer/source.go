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
)

// DiffSnapshot writes the layer tar of a committed snapshot: what id adds to its parent. That the snapshot is still there when
// the walk is over is part of success, so that one that was being removed does not pass for a smaller one.
func DiffSnapshot(ctx context.Context, sn snapshot.Snapshotter, id snapshot.ID, w io.Writer, opt DiffOptions) error {
	t, release, err := committed(ctx, sn, id)
	if err != nil {
		return err
	}
	err = Diff(ctx, t, w, opt)
	if rerr := release(); err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	_, err = sn.Stat(ctx, id)
	return err
}

// committed returns where the difference of a snapshot lies and what is below it, and what ends the views that were made
// for that.
func committed(ctx context.Context, sn snapshot.Snapshotter, id snapshot.ID) (Target, func() error, error) {
	v := &views{sn: sn}
	t, err := v.target(ctx, id)
	if err != nil {
		_ = v.end(ctx) // the error that matters is the first
		return Target{}, nil, err
	}
	return t, func() error { return v.end(ctx) }, nil
}

// views are what was made to look at snapshots.
type views struct {
	sn     snapshot.Snapshotter
	drafts []snapshot.Draft
}

func (v *views) target(ctx context.Context, id snapshot.ID) (Target, error) {
	t := Target{Form: Plain}
	if d, ok := v.sn.(snapshot.Differ); ok {
		dir, ok, err := d.Upper(ctx, id)
		if err != nil {
			return t, err
		}
		if ok {
			t.Dir, t.Form = dir, overlayForm()
		}
	}
	info, err := v.sn.Stat(ctx, id)
	if err != nil {
		return t, err
	}
	if t.Form == Plain {
		dirs, err := v.open(ctx, id)
		if err != nil {
			return t, err
		}
		if len(dirs) != 1 {
			return t, fmt.Errorf("comparing snapshot %s: it is no plain directory and has no difference", id)
		}
		t.Dir = dirs[0]
	}
	if info.Parent == "" {
		return t, nil
	}
	if t.Lower, err = v.open(ctx, info.Parent); err == nil && t.Form == Plain && len(t.Lower) != 1 {
		err = fmt.Errorf("comparing snapshot %s: its parent is no plain directory", id)
	}
	return t, err
}

// open returns the directories that a snapshot merges, topmost first.
func (v *views) open(ctx context.Context, id snapshot.ID) ([]string, error) {
	d := NewDraft("diff")
	m, err := v.sn.View(ctx, d, id)
	if err != nil {
		return nil, err
	}
	v.drafts = append(v.drafts, d)
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
