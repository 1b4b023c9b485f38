package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

var _ executor.Limiter = (*Host)(nil)

// Limitable implements executor.Limiter.
func (h *Host) Limitable() executor.Limitable {
	return executor.Limitable(h.cgroups.Features(h.opts.CgroupParent))
}

// parentOf returns the parent of the cgroup of the container of dir. One that is not the host's is shared with whoever else
// uses it: what is the container's there is told from the rest by its name alone, which nobody else has.
func (h *Host) parentOf(dir string, spec *executor.Spec) (string, error) {
	asked := spec.CgroupPath
	if asked == "" {
		return h.opts.CgroupParent, nil
	}
	if strings.Contains(asked, "\x00") || slices.Contains(strings.Split(asked, "/"), "..") {
		return "", fmt.Errorf("parent cgroup %q: want a path without \"..\"", asked)
	}
	if !isFullID(spec.ID) || filepath.Base(dir) != spec.ID {
		return "", fmt.Errorf("parent cgroup %q: only for a container with an ID of 64 hexadecimal digits, which its directory is called by", asked)
	}
	if path.IsAbs(asked) {
		return path.Clean(asked), nil
	}
	return path.Join(h.cgroups.Own(), asked), nil
}

// isFullID says whether id is a container's ID in full: 64 digits that were chosen at random.
func isFullID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

// clearAway removes what a keeper that was killed has left.
func (h *Host) clearAway(dir string) {
	_ = os.Remove(filepath.Join(dir, wire.SocketFile))
	defer h.stopHooks(dir) // when nothing of it runs
	b, err := os.ReadFile(filepath.Join(dir, wire.StateFile))
	if err != nil {
		return
	}
	var st wire.State
	if json.Unmarshal(b, &st) == nil && h.isOwn(dir, &st) {
		h.cgroups.Kill(st.Cgroup)
		if err := h.cgroups.Remove(st.Cgroup); err != nil {
			h.note(err)
			return
		}
	}
	_ = os.Remove(filepath.Join(dir, wire.StateFile))
}

// isOwn says whether the cgroup of the state that is in dir may be removed. The file may be from another machine, or a copy of
// that of a container that runs: below another parent than the host's own, the cgroup has to have the name of the container,
// and the file to have been written into this very directory.
func (h *Host) isOwn(dir string, st *wire.State) bool {
	if !path.IsAbs(st.Cgroup) || path.Clean(st.Cgroup) != st.Cgroup {
		return false
	}
	if isBelow(st.Cgroup, h.opts.CgroupParent) {
		return true
	}
	id := filepath.Base(dir)
	if !isFullID(id) || path.Base(st.Cgroup) != id || st.Dir == 0 {
		return false
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return false
	}
	own, ok := fi.Sys().(*syscall.Stat_t)
	return ok && own.Ino == st.Dir
}

func isBelow(p, parent string) bool {
	rel, err := filepath.Rel(parent, p)
	return err == nil && filepath.IsLocal(rel) && rel != "."
}
