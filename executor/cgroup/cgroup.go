// Package cgroup knows the files of cgroups, of version 1 and of version 2, as far as the executor needs them beside what
// libcontainer does: to hand controllers down to the cgroups of sandboxes, to kill and remove these, to find out what
// can be limited, and what a sandbox used.
//
// A Tree is a value without state; nothing here has a lock. Paths of cgroups are absolute, in every hierarchy.
package cgroup

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// V1 are the directories of the hierarchies of version 1 that sandboxes join: those that enforce something. Each costs a
// sandbox 0.2 ms, to join it, to mount it and to leave it; the others (cpuacct, blkio, freezer, net_cls, the named one of
// systemd) would cost as much and do nothing for it.
var V1 = []string{"devices", "memory", "cpu", "cpu,cpuacct", "cpuset", "pids"}

// V1All are those that containers join, which can be paused, have their use of devices limited, and are asked what they use.
// The library looks for the one of version 2 before the private root is made, and then wants to have it. That of systemd has
// no controller: whoever stays in the daemon's unit there ends when systemd ends all that is in it.
var V1All = append([]string{"cpuacct", "blkio", "freezer", "systemd", "unified"}, V1...)

// A Tree is the hierarchy of version 2, or the hierarchies of version 1, of a directory.
type Tree struct {
	root            string
	unified         bool   // version 2
	memory, devices string // directories of these controllers; the same with version 2
}

// At returns the Tree at root. Where there are hierarchies of both versions, those of version 1 have the controllers.
func At(root string) Tree {
	if _, err := os.Lstat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return Tree{root: root, unified: true, memory: root, devices: root}
	}
	return Tree{root: root, memory: filepath.Join(root, "memory"), devices: filepath.Join(root, "devices")}
}

// Unified says whether the Tree is of version 2.
func (t Tree) Unified() bool { return t.unified }

// Memory reads the most memory in bytes that the cgroup has used. It is 0 if there is no such controller and, with
// version 2, before Linux 5.19.
func (t Tree) Memory(cgroup string) int64 {
	file := "memory.max_usage_in_bytes"
	if t.unified {
		file = "memory.peak"
	}
	data, err := os.ReadFile(filepath.Join(t.memory, cgroup, file))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// OOMKills reads how many processes of the cgroup the kernel has killed for want of memory.
func (t Tree) OOMKills(cgroup string) uint64 {
	file := "memory.oom_control"
	if t.unified {
		file = "memory.events"
	}
	data, err := os.ReadFile(filepath.Join(t.memory, cgroup, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// Kill kills every process in the cgroup. Of the root, which is none of ours, it kills nothing.
func (t Tree) Kill(cgroup string) {
	if path.Clean("/"+cgroup) != "/" {
		killAll(filepath.Join(t.devices, cgroup))
	}
}

// killAll kills what is in the cgroup with the directory dir. With version 2 since Linux 5.14 the kernel does so at once,
// also in the cgroups below it, which a privileged sandbox can make; else the processes are killed one by one.
func killAll(dir string) {
	if writeFile(filepath.Join(dir, "cgroup.kill"), "1") == nil {
		return
	}
	for _, pid := range processes(dir) {
		if pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// processes returns what is in the cgroup with the directory dir. A process that this pid namespace can't see is 0.
func processes(dir string) []int {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for f := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Processes returns what is in the cgroup and in those below it, which a privileged sandbox can make, as this pid namespace
// numbers it.
func (t Tree) Processes(cgroup string) []int {
	var out []int
	_ = filepath.WalkDir(filepath.Join(t.devices, cgroup), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out = append(out, processes(p)...)
		}
		return nil
	})
	return slices.DeleteFunc(out, func(pid int) bool { return pid <= 0 })
}

// Controllers returns those that limits can be set with below the cgroup parent. It is never nil.
func (t Tree) Controllers(parent string) map[string]bool {
	have := make(map[string]bool)
	if !t.unified {
		for _, dir := range V1All {
			if dir == "unified" || dir == "systemd" {
				continue
			}
			if fi, err := os.Stat(filepath.Join(t.root, dir)); err == nil && fi.IsDir() {
				for c := range strings.SplitSeq(dir, ",") {
					have[c] = true
				}
			}
		}
		return have
	}
	// Of the parent if it exists, else of what exists above it.
	for ; ; parent = path.Dir(parent) {
		data, err := os.ReadFile(filepath.Join(t.root, parent, "cgroup.controllers"))
		for c := range strings.FieldsSeq(string(data)) {
			have[c] = true
		}
		if err == nil || parent == "/" || parent == "." {
			return have
		}
	}
}

// LimitsSwap says whether the use of swap can be limited below the cgroup parent, which exists: a kernel may have been
// told, or built, not to account for it.
func (t Tree) LimitsSwap(parent string) bool {
	file := filepath.Join(t.memory, "memory.memsw.limit_in_bytes")
	if t.unified {
		file = filepath.Join(t.memory, parent, "memory.swap.max") // the root has no such file
	}
	_, err := os.Stat(file)
	return err == nil
}

// Weighs says whether the use of block devices can be weighed below the cgroup parent: it depends on their scheduler.
func (t Tree) Weighs(parent string) bool {
	files := []string{"blkio/blkio.weight", "blkio/blkio.bfq.weight"}
	if t.unified {
		files = []string{parent + "/io.weight", parent + "/io.bfq.weight"}
	} else {
		// The root of the hierarchy may lack what its cgroups have.
		files = append(files, "blkio"+parent+"/blkio.weight", "blkio"+parent+"/blkio.bfq.weight")
	}
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(t.root, f)); err == nil {
			return true
		}
	}
	return false
}

// writeFile writes to a file of a cgroup, which must exist, in one write.
func writeFile(name, content string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
