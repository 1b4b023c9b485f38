//go:build cgo

package libcontainer

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// A hierarchy says where in /sys/fs/cgroup the files are that tell what a sandbox used.
type hierarchy struct {
	memory, devices string // directories of the controllers; the same with cgroup v2
}

func findHierarchy() hierarchy {
	const root = "/sys/fs/cgroup"
	if isV2() {
		return hierarchy{memory: root, devices: root}
	}
	return hierarchy{memory: root + "/memory", devices: root + "/devices"}
}

// memoryUse reads the most memory that the cgroup at path has used, and how many of its processes the kernel killed for
// want of memory. What can't be read, as there may be no such controller, is 0.
func (h hierarchy) memoryUse(path string) (peak int64, oomKills uint64) {
	if isV2() {
		return int64(number(h.memory + path + "/memory.peak")), h.oomKills(path)
	}
	return int64(number(h.memory + path + "/memory.max_usage_in_bytes")), h.oomKills(path)
}

// oomKills is the second result of memoryUse.
func (h hierarchy) oomKills(path string) uint64 {
	if isV2() {
		return keyed(h.memory+path+"/memory.events", "oom_kill")
	}
	return keyed(h.memory+path+"/memory.oom_control", "oom_kill")
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
