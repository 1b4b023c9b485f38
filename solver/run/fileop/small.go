package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/solver/treehash/dirfd"
)

// mkdir performs op.Mkdir. What is there is left as it is, even if it is no directory, unless parents are to be made as
// well: so it is with BuildKit.
func (t *target) mkdir(ctx context.Context, m *op.Mkdir) error {
	owner, err := t.owner(ctx, m.Owner)
	if err != nil {
		return err
	}
	s, err := t.resolve(m.Path)
	if err != nil {
		return err
	}
	if len(s.rest) > 1 && !m.Parents {
		return fmt.Errorf("making directory %q: %w", m.Path, fs.ErrNotExist)
	}
	if s.found && !m.Parents {
		return nil
	}
	_, err = t.mkdirs(s, attrs{mode: m.Mode & 0o777, owner: owner, time: m.Time})
	return err
}

// mkfile performs op.Mkfile. A file that is there is replaced by one with the same mode and owner, as if it had been
// written over.
func (t *target) mkfile(ctx context.Context, m *op.Mkfile) error {
	owner, err := t.owner(ctx, m.Owner)
	if err != nil {
		return err
	}
	s, err := t.resolve(m.Path)
	if err != nil {
		return err
	}
	mode := m.Mode & 0o777
	if s.found && s.st.Type() == unix.S_IFREG {
		mode = s.st.Mode & 0o7777
		if owner == nil {
			owner = &ids{int(s.st.UID), int(s.st.GID)}
		}
	}
	name, err := t.vacate(s, "writing file")
	if err != nil {
		return err
	}
	err = func() error {
		fd, err := create(s.dir.up, name, 0o600)
		if err != nil {
			return err
		}
		defer dirfd.Close(fd)
		if err := dirfd.Write(fd, m.Data); err != nil {
			return err
		}
		if owner != nil {
			if err := unix.Fchown(fd, owner.uid, owner.gid); err != nil {
				return err
			}
		}
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
		if !m.Time.IsZero() {
			return setTime(fd, m.Time.UnixNano())
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("writing file %q: %w", s.path(), err)
	}
	return nil
}

// symlink performs op.Symlink. It fails if something is there.
func (t *target) symlink(ctx context.Context, l *op.Symlink) error {
	owner, err := t.owner(ctx, l.Owner)
	if err != nil {
		return err
	}
	s, err := t.resolve(l.New)
	if err != nil {
		return err
	}
	if s.found || len(s.rest) == 0 {
		return fmt.Errorf("making symlink %q: %w", l.New, fs.ErrExist)
	}
	name, err := t.vacate(s, "making symlink")
	if err != nil {
		return err
	}
	err = func() error {
		if err := retry(func() error { return unix.Symlinkat(l.Old, s.dir.up, name) }); err != nil {
			return err
		}
		if owner != nil {
			if err := unix.Fchownat(s.dir.up, name, owner.uid, owner.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		return setTimeAt(s.dir.up, name, l.Time)
	}()
	if err != nil {
		return fmt.Errorf("making symlink %q: %w", s.path(), err)
	}
	return nil
}

// setTimeAt sets the modification time of a name, unless the time is zero.
func setTimeAt(dir int, name string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// vacate makes place for a file at s, whose directory has to be there, and returns its name. A directory is not
// replaced.
func (t *target) vacate(s *spot, doing string) (string, error) {
	switch {
	case len(s.rest) == 0:
		return "", fmt.Errorf("%s %q: %w", doing, s.path(), unix.EISDIR)
	case len(s.rest) > 1:
		return "", fmt.Errorf("%s %q: %w", doing, s.path(), fs.ErrNotExist)
	}
	if err := t.touch(s.dir); err != nil {
		return "", err
	}
	if s.found {
		// What is only below is covered by what is written above it.
		err := unix.Unlinkat(s.dir.up, s.rest[0], 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s %q: %w", doing, s.path(), err)
		}
		if err == nil && t.draft.record != nil {
			t.draft.record.add([]record{{path: s.path(), replaced: true}})
		}
	}
	return s.rest[0], nil
}

// rm performs op.Rm.
func (t *target) rm(ctx context.Context, r *op.Rm) error {
	paths := []string{path.Join("/", r.Path)}
	if r.Wildcard && treehash.HasWildcard(r.Path) {
		var err error
		if paths, err = t.glob(paths[0]); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if err := t.remove(ctx, p, r.AllowNotFound); err != nil {
			return err
		}
	}
	return nil
}

// remove removes what is at a clean, absolute path. The root is not removed: it is what an empty path or one of dots
// alone means. A symlink is removed itself; those on the way are followed inside the root.
func (t *target) remove(ctx context.Context, p string, allowNotFound bool) error {
	if p == "/" {
		return errors.New("removing a path: it names the root of the tree")
	}
	s, err := t.resolve(path.Dir(p))
	name := path.Base(p)
	var l lookup
	if err == nil && len(s.rest) == 0 {
		l, err = t.lookup(s.dir, name)
	}
	if err != nil && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	if err != nil || !l.there {
		if allowNotFound {
			return nil
		}
		return fmt.Errorf("removing %q: %w", p, fs.ErrNotExist)
	}
	if err := t.touch(s.dir); err != nil {
		return err
	}
	if err := removeAll(ctx, s.dir.up, name); err != nil {
		return fmt.Errorf("removing %q: %w", p, err)
	}
	return nil
}

// removeAll removes name from dir, with everything in it. It does not leave dir, whatever is in the tree.
func removeAll(ctx context.Context, dir int, name string) error {
	err := retry(func() error { return unix.Unlinkat(dir, name, 0) })
	if err == nil || !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := dirfd.OpenDir(dir, name)
	if err != nil {
		return bare(err)
	}
	var names []string
	err = dirfd.List(fd, func(n dirfd.Name) error {
		names = append(names, string(n.Bytes()))
		return nil
	})
	for i := 0; err == nil && i < len(names); i++ {
		err = removeAll(ctx, fd, names[i])
	}
	dirfd.Close(fd)
	if err != nil {
		return err
	}
	return retry(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// glob returns the paths in the target that a pattern matches, sorted. Symlinks before the first component with a
// wildcard are followed.
func (t *target) glob(pattern string) ([]string, error) {
	comps := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	n := 0
	for n < len(comps) && !treehash.HasWildcard(comps[n]) {
		n++
	}
	s, err := t.resolve(strings.Join(comps[:n], "/"))
	if errors.Is(err, unix.ENOTDIR) || err == nil && len(s.rest) > 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dirs := []*place{s.dir}
	for i, c := range comps[n:] {
		last := n+i == len(comps)-1
		var next []*place
		var found []string
		for _, d := range dirs {
			names, err := listNames(d.up)
			if err != nil {
				return nil, fmt.Errorf("reading directory %q: %w", d.path, err)
			}
			for _, name := range names {
				if ok, err := filepath.Match(c, name); err != nil || !ok {
					continue
				}
				found = append(found, path.Join(d.path, name))
				l, err := t.lookup(d, name)
				if err != nil {
					return nil, err
				}
				if last || !l.there || l.st.Type() != unix.S_IFDIR {
					continue
				}
				e, err := t.enter(d, name, &l)
				if err != nil {
					return nil, err
				}
				next = append(next, e)
			}
		}
		if last {
			slices.Sort(found)
			return found, nil
		}
		dirs = next
	}
	return nil, nil
}

// listNames lists a directory, sorted.
func listNames(dir int) ([]string, error) {
	fd, err := dirfd.Open(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, bare(err)
	}
	defer dirfd.Close(fd)
	var names []string
	err = dirfd.List(fd, func(n dirfd.Name) error {
		names = append(names, string(n.Bytes()))
		return nil
	})
	slices.Sort(names)
	return names, err
}
