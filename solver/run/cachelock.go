package run

import (
	"context"
	"slices"
	"sync"

	"github.com/boxbuild/boxbuild/solver/op"
)

// cacheLocks say which steps are in which cache directories.
type cacheLocks struct {
	mu sync.Mutex // guards m and all that is in it
	m  map[string]*cacheLock
}

// A cacheLock is who uses a cache directory, and who waits for it.
type cacheLock struct {
	shared  int            // how many users share it
	sole    bool           // a locked or private user is in it
	private bool           // that one is a private one
	waiting []*cacheWaiter // in the order in which they came; nobody who comes later overtakes them
	gone    []string       // directories that were taken from under the users; to be removed when nobody is in any more
}

// A cacheWaiter is a locked or shared user at the door.
type cacheWaiter struct {
	sharing op.CacheSharing
	in      chan struct{} // closed when it is in
}

// acquire enters the directory called name, and reports false if the user is to take another one. A locked user waits
// until it is alone. A shared one waits for locked ones, but not for a private one, which is to be left alone for as long
// as it likes. A private one does not wait at all.
func (c *cacheLocks) acquire(ctx context.Context, name string, sharing op.CacheSharing) (bool, error) {
	c.mu.Lock()
	if c.m == nil {
		c.m = make(map[string]*cacheLock)
	}
	l := c.m[name]
	if l == nil {
		l = new(cacheLock)
		c.m[name] = l
	}
	switch {
	case sharing == op.SharingPrivate && (l.shared > 0 || l.sole || len(l.waiting) > 0), sharing == op.SharingShared && l.private:
		c.mu.Unlock()
		return false, nil
	case sharing == op.SharingPrivate:
		l.sole, l.private = true, true
		c.mu.Unlock()
		return true, nil
	}
	w := &cacheWaiter{sharing, make(chan struct{})}
	l.waiting = append(l.waiting, w)
	c.admitLocked(name, l) // with somebody in or waiting nothing is removed
	c.mu.Unlock()
	select {
	case <-w.in:
		return true, nil
	case <-ctx.Done():
	}
	var gone []string
	defer func() { discardAll(gone) }() // when the lock is no longer held
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		gone = c.admitLocked(name, l) // those behind may have waited for it only
	} else {
		gone = c.leaveLocked(name, l, sharing)
	}
	return false, context.Cause(ctx)
}

// retire has the directory gone, which was called name, removed when nobody is in any more. It reports false if nobody is.
func (c *cacheLocks) retire(name, gone string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.m[name]
	if l == nil {
		return false
	}
	l.gone = append(l.gone, gone)
	return true
}

func (c *cacheLocks) release(name string, sharing op.CacheSharing) {
	c.mu.Lock()
	gone := c.leaveLocked(name, c.m[name], sharing)
	c.mu.Unlock()
	discardAll(gone)
}

func discardAll(dirs []string) {
	for _, dir := range dirs {
		discardCache(dir)
	}
}

// leaveLocked returns the directories that are to be removed, as admitLocked does.
func (c *cacheLocks) leaveLocked(name string, l *cacheLock, sharing op.CacheSharing) (gone []string) {
	if sharing == op.SharingShared {
		l.shared--
	} else {
		l.sole, l.private = false, false
	}
	return c.admitLocked(name, l)
}

// admitLocked lets in who may come in now, and forgets a directory that nobody is in or wants. It returns the directories
// that are to be removed for that.
func (c *cacheLocks) admitLocked(name string, l *cacheLock) (gone []string) {
	for len(l.waiting) > 0 && !l.sole {
		w := l.waiting[0]
		if w.sharing == op.SharingShared {
			l.shared++
		} else if l.shared == 0 {
			l.sole = true
		} else {
			break
		}
		l.waiting = l.waiting[1:]
		close(w.in)
	}
	if l.shared == 0 && !l.sole && len(l.waiting) == 0 {
		delete(c.m, name)
		return l.gone
	}
	return nil
}
