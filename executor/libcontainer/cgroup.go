//go:build cgo

package libcontainer

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/executor"
)

// A hierarchy says where in /sys/fs/cgroup the files are that tell what a sandbox used.
type hierarchy struct {
	memory, cpu, devices string // directories of the controllers; all the same with cgroup v2
}

func findHierarchy() hierarchy {
	const root = "/sys/fs/cgroup"
	if isV2() {
		return hierarchy{memory: root, cpu: root, devices: root}
	}
	h := hierarchy{memory: filepath.Join(root, "memory"), devices: filepath.Join(root, "devices")}
	for _, d := range []string{"cpuacct", "cpu,cpuacct"} {
		if _, err := os.Stat(filepath.Join(root, d)); err == nil {
			h.cpu = filepath.Join(root, d)
		}
	}
	return h
}

// usage reads what the cgroup at path has used, and how many of its processes the kernel killed for want of memory.
// What can't be read, as a controller may be missing, is 0.
func (h hierarchy) usage(path string) (u executor.Usage, oomKills uint64) {
	if isV2() {
		u.CPU = time.Duration(keyed(h.cpu+path+"/cpu.stat", "usage_usec")) * time.Microsecond
		u.PeakMemory = int64(number(h.memory + path + "/memory.peak"))
		return u, keyed(h.memory+path+"/memory.events", "oom_kill")
	}
	u.CPU = time.Duration(number(h.cpu + path + "/cpuacct.usage"))
	u.PeakMemory = int64(number(h.memory + path + "/memory.max_usage_in_bytes"))
	return u, keyed(h.memory+path+"/memory.oom_control", "oom_kill")
}

// pids returns the processes in the cgroup at path.
func (h hierarchy) pids(path string) []int {
	data, err := os.ReadFile(h.devices + path + "/cgroup.procs")
	if err != nil {
		return nil
	}
	var out []int
	for f := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func number(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// keyed reads the number after key in a file of "key number" lines.
func keyed(file, key string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, _ := strconv.ParseUint(v, 10, 64)
			return n
		}
	}
	return 0
}
