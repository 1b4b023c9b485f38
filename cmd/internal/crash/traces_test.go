package crash

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// traces lists what a host has on the machine besides files: processes, mounts, cgroups, devices, tables. A daemon that
// runs and the test's own mounts below the root's parent are not counted.
func (h *host) traces() []string {
	all := h.processes()
	for _, m := range h.mounts() {
		all = append(all, "mount "+m)
	}
	for _, c := range h.cgroups() {
		all = append(all, "cgroup "+c)
	}
	for _, d := range h.devices() {
		all = append(all, "device "+d)
	}
	for range h.tables() {
		all = append(all, "nftables table")
	}
	return all
}

// processes lists what runs for the host: shims, and whatever is in its cgroups.
func (h *host) processes() []string {
	var found []string
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || (h.daemon != nil && pid == h.daemon.Process.Pid) {
			continue
		}
		line, err := os.ReadFile(d + "/cmdline")
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		group, err := os.ReadFile(d + "/cgroup")
		if err != nil {
			continue
		}
		shim := strings.HasSuffix(args[0], "boxshim") && strings.Contains(string(line), h.root)
		if shim || bytes.Contains(group, []byte("/boxbuild-"+h.id)) {
			found = append(found, fmt.Sprintf("process %d %q", pid, args))
		}
	}
	return found
}

// sandboxes counts the processes that run in sandboxes. One that boxshim keeps ready runs nothing yet.
func (h *host) sandboxes() int { return len(h.commands()) }

// runs says whether each of the texts is in the command line of a process that runs in a sandbox.
func (h *host) runs(texts ...string) bool {
	all := strings.Join(slices.Collect(maps.Values(h.commands())), "\n")
	return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(all, text) })
}

// commands returns the command lines of what runs in sandboxes, by process. Words end with a NUL.
func (h *host) commands() map[string]string {
	lines := map[string]string{}
	for _, c := range h.cgroups() {
		data, err := os.ReadFile(c + "/cgroup.procs")
		if err != nil {
			continue // the cgroup has gone
		}
		for _, pid := range strings.Fields(string(data)) {
			line, err := os.ReadFile("/proc/" + pid + "/cmdline")
			if err == nil && !bytes.HasSuffix(line, []byte("boxshim\x00init\x00")) {
				lines[pid] = string(line)
			}
		}
	}
	return lines
}

// mounts lists mounts at or below the root, and of it elsewhere.
func (h *host) mounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, h.root) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// cgroups lists the host's cgroups in every hierarchy, parents first.
func (h *host) cgroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/boxbuild-", "/sys/fs/cgroup/*/boxbuild-"} {
		for _, below := range []string{"", "/*", "/*/*", "-containers", "-containers/*"} {
			dirs, err := filepath.Glob(pattern + h.id + below)
			if err != nil {
				h.t.Fatal(err)
			}
			for _, d := range dirs {
				if st, err := os.Lstat(d); err == nil && st.IsDir() {
					found = append(found, d)
				}
			}
		}
	}
	return found
}

// devices lists the host's bridges and what is joined to them.
func (h *host) devices() []string {
	var found []string
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		master, err := os.Readlink("/sys/class/net/" + e.Name() + "/master")
		if h.bridge(e.Name()) || err == nil && h.bridge(filepath.Base(master)) {
			found = append(found, e.Name())
		}
	}
	return found
}

// bridge says whether a device is a bridge of the host's: that of builds, or one of containers.
func (h *host) bridge(name string) bool {
	return strings.HasPrefix(name, "bx") && strings.HasSuffix(name, "-"+h.id)
}

// tables lists the host's nftables tables.
func (h *host) tables() []string {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		h.t.Logf("listing nftables tables: %v", err)
		return nil
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "boxbuild_"+h.id) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// checkClean fails the test if the host has left anything on the machine. No daemon runs.
func (h *host) checkClean() {
	h.t.Helper()
	var left []string
	begin := time.Now()
	for time.Since(begin) < patience { // the kernel takes a moment to end what a killed process had
		if left = h.traces(); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Errorf("this is left on the machine:\n%s", strings.Join(left, "\n"))
}

// checkCrashed checks what a killed daemon may leave: the next one removes bridge, table and cgroup; no more than that.
func (h *host) checkCrashed() {
	h.t.Helper()
	h.eventually("a killed daemon's processes end", func() bool { return len(h.processes()) == 0 })
	if m := h.mounts(); len(m) > 0 {
		h.t.Errorf("mounts after a crash:\n%s", strings.Join(m, "\n"))
	}
}
