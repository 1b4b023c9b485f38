package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the hierarchies are; tests have another.
var cgroupRoot = "/sys/fs/cgroup"

// removeCgroups ends every process in the cgroup parent and below it, in every hierarchy, and removes them all. That
// there is none is no error.
func removeCgroups(parent string) error {
	dirs := []string{filepath.Join(cgroupRoot, parent)} // of cgroup v2
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for cgroups: %w", err)
	}
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(cgroupRoot, e.Name(), parent))
	}
	for _, d := range dirs {
		if _, err := os.Lstat(d); err != nil {
			continue
		}
		if err := removeCgroup(d); err != nil {
			return fmt.Errorf("removing cgroup %s: %w", d, err)
		}
	}
	return nil
}

// removeCgroup removes the cgroup dir with those below it. A process that was killed leaves its cgroup only when it has
// ended, so it is tried for a while.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
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

func killAll(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for f := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
