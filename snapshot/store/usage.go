package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A usage is what a tree takes on the disk.
type usage struct {
	bytes  int64 // allocated, not apparent: a sparse file counts with its data, a directory with its entries
	inodes int64
}

// errTooMany says that a tree has more files than were to be counted.
var errTooMany = errors.New("too many files")

// measure counts what is below root, without root itself. A file with several names counts once. limit is how many
// files to look at before giving up with errTooMany; 0 means no limit. What lies deeper than a path can name is
// not counted.
//
// It holds one directory open at a time and does not recurse: how deep a tree is, is up to what ran in it.
func measure(root string, limit int) (u usage, err error) {
	top, err := os.Open(root)
	if err != nil {
		return u, err
	}
	defer top.Close()
	linked := make(map[uint64]struct{}) // inodes with several names
	for dirs := []string{"."}; len(dirs) > 0; {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		below, err := u.addDir(top, dir, limit, linked)
		if errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return u, err
		}
		dirs = append(dirs, below...)
	}
	return u, nil
}

// addDir adds what is in the directory dir below top, and returns its directories.
func (u *usage) addDir(top *os.File, dir string, limit int, linked map[uint64]struct{}) (below []string, err error) {
	fd, err := unix.Openat(int(top.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	for {
		// In pieces, so that a limit is noticed before a huge directory has been read.
		names, err := f.Readdirnames(256)
		if len(names) == 0 {
			return below, notEOF(err)
		}
		if limit > 0 && u.inodes+int64(len(names)) > int64(limit) {
			return nil, errTooMany
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return nil, fmt.Errorf("stat %s in %s: %w", name, dir, err)
			}
			isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
			if isDir {
				below = append(below, dir+"/"+name)
			} else if st.Nlink > 1 {
				if _, seen := linked[st.Ino]; seen {
					continue
				}
				linked[st.Ino] = struct{}{}
			}
			u.bytes += st.Blocks * 512
			u.inodes++
		}
	}
}

// count counts the files of n, which were too many for Commit, and keeps the result. n may be removed meanwhile.
func (s *Store) count(n *node) {
	dir := s.path(n.id)
	u, err := measure(dir+"/fs", 0)
	if err == nil {
		err = s.record(n, u)
	}
	if err == nil {
		return
	}
	s.mu.Lock()
	exists := s.snaps[n.id] == n && n.phase == present
	s.mu.Unlock()
	if exists {
		s.flusher.log.Warn("counting the files of a snapshot", "id", n.id, "error", err)
	}
}

func (s *Store) record(n *node, u usage) error {
	s.mu.Lock()
	if s.snaps[n.id] != n || n.phase != present {
		s.mu.Unlock()
		return nil // another snapshot may have the name by now
	}
	n.size, n.inodes = u.bytes, u.inodes
	s.mu.Unlock()
	// If n is removed and its name taken just here, a later snapshot gets this usage; it counts at its commit, and does
	// not look at the file before the next Open, at which a wrong figure is no more than that.
	return writeUsage(s.path(n.id), u)
}
