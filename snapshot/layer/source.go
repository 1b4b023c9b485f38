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

// committed returns where the difference of a snapshot lies, and what ends the views that were made for that.
func committed(ctx context.Context, sn snapshot.Snapshotter, id snapshot.ID) (Target, func() error, error) {
	if d, ok := sn.(snapshot.Differ); ok {
		if dir, ok, err := d.Upper(ctx, id); err != nil {
			return Target{}, nil, err
		} else if ok {
			return Target{Dir: dir, Form: overlayForm()}, func() error { return nil }, nil
		}
	}
	info, err := sn.Stat(ctx, id)
	if err != nil {
		return Target{}, nil, err
	}
	var views []snapshot.Draft
	release := func() error {
		var first error
		for _, v := range views {
			if err := sn.Discard(context.WithoutCancel(ctx), v); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	view := func(id snapshot.ID) (string, error) {
		d := NewDraft("diff")
		m, err := sn.View(ctx, d, id)
		if err != nil {
			return "", err
		}
		views = append(views, d)
		if len(m) != 1 || m[0].Type != "bind" {
			return "", fmt.Errorf("comparing snapshot %s: it is no plain directory and has no difference", id)
		}
		return m[0].Source, nil
	}
	t := Target{Form: Plain}
	if t.Dir, err = view(id); err == nil && info.Parent != "" {
		var base string
		base, err = view(info.Parent)
		t.Lower = []string{base}
	}
	if err != nil {
		_ = release() // the error that matters is the first
		return Target{}, nil, err
	}
	return t, release, nil
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
