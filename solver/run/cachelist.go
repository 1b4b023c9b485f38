package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A CacheMount is the directory of cache mounts of one ID.
type CacheMount struct {
	Name  string
	Size  int64     // bytes that it takes on the disk
	Used  time.Time // when something in it changed last
	InUse bool      // by a step
	// Description is of the step that used it first, and of what it mounted where; empty if nobody knows. Uses counts mounts.
	Description string
	Uses        int
}

// CacheMounts returns the directories of cache mounts. It walks through them all.
func (r *Runner) CacheMounts(ctx context.Context) ([]CacheMount, error) {
	entries, err := os.ReadDir(r.deps.CacheDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for cache mounts: %w", err)
	}
	var out []CacheMount
	for _, e := range entries {
		if unnamedCache(e.Name()) {
			continue
		}
		m := CacheMount{Name: e.Name()}
		err := filepath.WalkDir(filepath.Join(r.deps.CacheDir, e.Name()), func(_ string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return nil // a step is at work in it
			}
			if info, err := d.Info(); err == nil {
				m.add(info)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		r.readNote(&m)
		r.caches.mu.Lock()
		m.InUse = r.caches.m[m.Name] != nil
		r.caches.mu.Unlock()
		out = append(out, m)
	}
	return out, nil
}

// add counts a file. One with several names counts for each by its part.
func (m *CacheMount) add(info fs.FileInfo) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	n := st.Blocks * 512
	if !info.IsDir() && st.Nlink > 1 {
		n /= int64(st.Nlink)
	}
	m.Size += n
	if t := time.Unix(st.Ctim.Unix()); t.After(m.Used) {
		m.Used = t
	}
}

// unnamedCache says whether a directory is being filled or removed, or is a note, and so is none that a step can enter.
func unnamedCache(name string) bool {
	return strings.HasPrefix(name, freshCache) || strings.HasPrefix(name, goneCache) || strings.HasPrefix(name, noteCache)
}

// RemoveCacheMount removes the directory of that name, and says whether it has: not if a step is in it or waits for it.
// A step that comes meanwhile gets another directory, or waits.
func (r *Runner) RemoveCacheMount(ctx context.Context, name string) (bool, error) {
	if filepath.Base(name) != name || name == "." || name == ".." || unnamedCache(name) {
		return false, fmt.Errorf("removing cache mount %.100q: there is no such name", name)
	}
	ok, err := r.caches.acquire(ctx, name, op.SharingPrivate)
	if err != nil || !ok {
		return false, err
	}
	gone := filepath.Join(r.deps.CacheDir, goneCache+newName())
	r.removeNote(name)
	err = os.Rename(filepath.Join(r.deps.CacheDir, name), gone)
	r.caches.release(name, op.SharingPrivate)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("removing cache mount: %w", err)
	}
	discardCache(gone)
	return true, nil
}
