package run

import (
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver/op"
)

// stubs are the files and directories that are made in a root only so that something can be mounted on them. They are
// removed after the process has ended, unless it has made something of them, and the times of the directories they
// stood in are put back, so that they leave no trace in the layer.
//
// Everything goes through descriptors of directories that were resolved inside the root after the process had ended:
// a process that replaces a parent by a symlink cannot have anything outside removed.
type stubs struct {
	root    *os.File
	missing []stub
}

type stub struct {
	path   string // of the topmost component that was missing is the first; deeper ones follow
	parent string // the directory that it appears in
	atime  unix.Timespec
	mtime  unix.Timespec
	keep   bool // the parent was missing too: its times are nobody's
}

// findStubs notes which mount points of spec do not exist in root yet.
func findStubs(root *os.File, e *op.Exec, spec *executor.Spec) *stubs {
	s := &stubs{root: root}
	var targets []string
	if spec.Hosts != nil {
		targets = append(targets, "/etc/hosts")
	}
	if spec.ResolvConf != nil {
		targets = append(targets, "/etc/resolv.conf")
	}
	for _, m := range e.Mounts {
		if t := path.Clean("/" + m.Dest); t != "/" {
			targets = append(targets, t)
		}
	}
	seen := make(map[string]bool)
	for _, t := range targets {
		s.find(t, seen, e.Meta.RemoveStubs)
	}
	return s
}

// find notes target and, if recursive, its missing parents.
func (s *stubs) find(target string, seen map[string]bool, recursive bool) {
	var chain []string
	for p := target; p != "/" && !seen[p]; p = path.Dir(p) {
		if s.exists(p) {
			break
		}
		seen[p] = true
		chain = append(chain, p)
	}
	if !recursive && len(chain) > 1 {
		chain = chain[:1]
	}
	for i, p := range slices.Backward(chain) {
		st := stub{path: p, parent: path.Dir(p), keep: true}
		if i == len(chain)-1 {
			if dir, err := mount.Resolve(s.root, st.parent, unix.O_PATH|unix.O_DIRECTORY); err == nil {
				var stat unix.Stat_t
				if unix.Fstat(int(dir.Fd()), &stat) == nil {
					st.atime, st.mtime, st.keep = stat.Atim, stat.Mtim, false
				}
				dir.Close()
			}
		}
		s.missing = append(s.missing, st)
	}
}

func (s *stubs) exists(p string) bool {
	dir, err := mount.Resolve(s.root, path.Dir(p), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer dir.Close()
	var stat unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), path.Base(p), &stat, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// remove removes the stubs that are still empty, deepest first.
func (s *stubs) remove() {
	for _, st := range slices.Backward(s.missing) {
		dir, err := mount.Resolve(s.root, st.parent, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		removeEmpty(int(dir.Fd()), path.Base(st.path))
		if !st.keep {
			_ = unix.UtimesNanoAt(int(dir.Fd()), ".", []unix.Timespec{st.atime, st.mtime}, 0)
		}
		dir.Close()
	}
}

// removeEmpty removes name from the directory if it is an empty file or an empty directory.
func removeEmpty(dir int, name string) {
	var stat unix.Stat_t
	if strings.Contains(name, "/") || unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		_ = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // fails where it is not empty
	case stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Size == 0:
		_ = unix.Unlinkat(dir, name, 0)
	}
}
