package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	snapmount "github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/container/tree"
)

// fill copies what the image has at the targets of volumes that are empty into these.
func (cr *creation) fill(ctx context.Context) error {
	var view *os.File
	for i := range cr.rec.Mounts {
		p := &cr.rec.Mounts[i]
		if p.Type != mount.TypeVolume || !p.Copy {
			continue
		}
		if view == nil {
			var err error
			if view, err = cr.m.viewOf(ctx, cr.rec.Base); err != nil {
				return err
			}
			defer view.Close()
		}
		if err := cr.fillVolume(ctx, view, p); err != nil {
			return err
		}
	}
	return nil
}

func (cr *creation) fillVolume(ctx context.Context, view *os.File, p *mountPoint) (err error) {
	if err := hasDirectory(view, p.Target); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	// Two containers that are made at once must not both find the volume empty.
	release, err := cr.m.filling.acquire(ctx, p.Name)
	if err != nil {
		return err
	}
	defer release()
	vols, id := cr.m.deps.Volumes, cr.rec.ID
	f, err := vols.Mount(ctx, p.Name, &worker.VolumeUse{Container: id})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vols.Unmount(context.WithoutCancel(ctx), p.Name, id)) }()
	defer f.Close()
	if empty, err := tree.Empty(f, "/"); err != nil || !empty {
		return err
	}
	if err := tree.Copy(ctx, view, p.Target, f); err != nil {
		return fmt.Errorf("filling volume %s: %w", p.Name, err)
	}
	return nil
}

// hasDirectory returns an error unless there is a directory at a path.
func hasDirectory(root *os.File, name string) error {
	f, err := snapmount.Resolve(root, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return worker.Invalidf("cannot mount volume over existing file, file exists %s", name)
	}
	return nil
}

// keyed is a lock for each of many names, which can be waited for with a context.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock // guarded by mu
}

type keyedLock struct {
	turn  chan struct{}
	users int // guarded by keyed.mu
}

func (k *keyed) acquire(ctx context.Context, name string) (release func(), err error) {
	k.mu.Lock()
	l := k.locks[name]
	if l == nil {
		if k.locks == nil {
			k.locks = make(map[string]*keyedLock)
		}
		l = &keyedLock{turn: make(chan struct{}, 1)}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
