package snapshottest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

func chmodChown(path string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() == 0 {
		if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, info.Mode())
}

// measure returns what is allocated below root and how many files there are, each once.
func measure(root string) (size, inodes int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			size += st.Blocks * 512
			inodes++
		}
		return nil
	})
	return size, inodes, err
}

// copyTree copies from, which does not change meanwhile, to the path to, which does not exist.
func copyTree(from, to string) error {
	linked := map[uint64]string{} // by inode
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); !d.IsDir() && st.Nlink > 1 {
			if first := linked[st.Ino]; first != "" {
				return os.Link(first, dst)
			}
			linked[st.Ino] = dst
		}
		switch {
		case d.IsDir():
			if err := os.Mkdir(dst, 0o700); err != nil {
				return err
			}
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(dst, b, 0o600); err != nil {
				return err
			}
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dst)
		default:
			return fmt.Errorf("copying %s: a memory snapshotter keeps no %s", path, d.Type())
		}
		return chmodChown(dst, info)
	})
}
