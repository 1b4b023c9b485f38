package layer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A lowerDir is a directory as the lower directories that it merges have it, while its files are compared with theirs. The
// kernel copies a file up when it is opened for writing or when its metadata is set, and leaves it there even if nothing
// came of that; a step that copies the same files again makes such ones as well.
type lowerDir struct {
	d   *differ
	p   *place
	fds []int // of p.lower, once something was looked up; -1 where there is no such directory
}

// same says whether name, which st describes and which is no directory, is what it would be without the upper directory:
// in type, content and metadata, and in which names share its inode. The comparison costs a stat for each directory below
// that lacks the name; only files with equal metadata are read.
func (b *lowerDir) same(name string, st *unix.Stat_t) (bool, error) {
	if len(b.p.lower) == 0 {
		return false, nil
	}
	if err := b.open(); err != nil {
		return false, err
	}
	for i, fd := range b.fds {
		if fd < 0 {
			continue
		}
		var old unix.Stat_t
		err := statRetry(fd, name, &old)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil || !sameMeta(st, &old) {
			return false, err
		}
		if same, err := sameFile(b.p.fd, fd, name, st, &old, false); err != nil || !same {
			return false, err
		}
		// A name that has an inode to itself on one side and shares it on the other is a change. Snapshots share inodes with
		// one another, so a link count alone does not tell.
		if shared, err := b.d.shared(-1, st); err != nil || shared {
			return false, err
		}
		shared, err := b.d.shared(b.p.lower[i], &old)
		return !shared, err
	}
	return false, nil
}

// open opens the directory in all layers that it merges.
func (b *lowerDir) open() error {
	if b.fds != nil {
		return nil
	}
	for _, i := range b.p.lower {
		fd, err := b.d.lower.openDir(i, pathOf(b.p))
		if err != nil && !isGone(err) {
			return fmt.Errorf("opening %s in %s: %w", b.p.path, b.d.lower.dirs[i], err)
		}
		if err != nil {
			fd = -1
		}
		b.fds = append(b.fds, fd)
	}
	return nil
}

func (b *lowerDir) close() {
	for _, fd := range b.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	b.fds = nil
}

// shared says whether the file that st describes has more than one name in a lower directory, or with layer -1 in the
// upper one. The first file with more than one link makes it walk the directory; there are few that are equal otherwise.
func (d *differ) shared(layer int, st *unix.Stat_t) (bool, error) {
	if st.Nlink == 1 {
		return false, nil
	}
	names, ok := d.names[layer]
	if !ok {
		fd, err := d.top(layer)
		if err != nil {
			return false, err
		}
		defer unix.Close(fd)
		names = make(map[inode]int)
		if err := countNames(d, fd, names); err != nil {
			return false, fmt.Errorf("counting links: %w", err)
		}
		if d.names == nil {
			d.names = make(map[int]map[inode]int)
		}
		d.names[layer] = names
	}
	return names[inode{st.Dev, st.Ino}] > 1, nil
}

// top opens the root of a lower directory, or with -1 of the upper one.
func (d *differ) top(layer int) (int, error) {
	if layer >= 0 {
		return d.lower.openDir(layer, "")
	}
	return openRetry(d.root.fd, ".", dirFlags)
}

// countNames counts, for each inode with more than one link, its names in an open directory and below.
func countNames(d *differ, fd int, count map[inode]int) error {
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := statRetry(fd, name, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := openRetry(fd, name, dirFlags)
			if err != nil {
				return err
			}
			err = countNames(d, sub, count)
			unix.Close(sub)
			if err != nil {
				return err
			}
		} else if st.Nlink > 1 {
			count[inode{st.Dev, st.Ino}]++
		}
	}
	return nil
}
