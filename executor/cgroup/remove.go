package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Remove ends every process in the cgroup and below it, in every hierarchy, and removes them all. That there is none is
// no error.
func (t Tree) Remove(cgroup string) error {
	dirs := []string{filepath.Join(t.root, cgroup)}
	// What is at the root of version 2 are cgroups, such as those of containers, in which there may be daemons that call
	// their cgroups the same. What is at the root of version 1 are hierarchies, also one of version 2.
	if !t.unified {
		entries, err := os.ReadDir(t.root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("looking for cgroups: %w", err)
		}
		for _, e := range entries {
			dirs = append(dirs, filepath.Join(t.root, e.Name(), cgroup))
		}
	}
	for _, d := range dirs {
		if _, err := os.Lstat(d); err != nil {
			continue
		}
		if err := remove(d); err != nil {
			return fmt.Errorf("removing cgroup %s: %w", d, err)
		}
	}
	return nil
}

// Sweep removes those cgroups right below parent that have no processes and no cgroups, and then parent if it has none.
func (t Tree) Sweep(parent string) {
	roots := []string{filepath.Join(t.root, parent)}
	if !t.unified {
		found, err := filepath.Glob(filepath.Join(t.root, "*", parent))
		if err != nil {
			return
		}
		roots = found
	}
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				_ = unix.Rmdir(filepath.Join(root, e.Name())) // fails with EBUSY where something is
			}
		}
		_ = unix.Rmdir(root)
	}
}

// remove removes the cgroup dir with those below it. A process that was killed leaves its cgroup only when it has ended,
// so it is tried for a while.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err = unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > 2*time.Second {
			return err
		}
		killAll(dir)
		time.Sleep(wait)
	}
}
