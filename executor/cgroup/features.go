package cgroup

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Features are the limits that can be set below a cgroup.
type Features struct {
	Memory, Swap, MemoryReservation, Swappiness, OOMKillDisable, Pids bool
	CPUShares, CPUQuota, CPUSet                                       bool
	BlkioWeight, BlkioWeightDevice                                    bool
	ReadBPS, WriteBPS, ReadIOPS, WriteIOPS                            bool
}

// Features finds out what there is below the cgroup parent: with version 1 by the files of the hierarchies' roots, with
// version 2 by the controllers. Whether block devices can be weighed only a cgroup tells: with version 1 parent is made for
// that if it is missing.
func (t Tree) Features(parent string) Features {
	have := t.Controllers(parent)
	f := Features{Memory: have["memory"], Pids: have["pids"], CPUSet: have["cpuset"]}
	f.Swap = f.Memory && t.LimitsSwap(parent)
	if t.unified {
		f.MemoryReservation = f.Memory
		f.CPUShares, f.CPUQuota = have["cpu"], have["cpu"]
		f.ReadBPS, f.WriteBPS, f.ReadIOPS, f.WriteIOPS = have["io"], have["io"], have["io"], have["io"]
		f.BlkioWeight = have["io"] && t.Weighs(parent)
		f.BlkioWeightDevice = f.BlkioWeight
		return f
	}
	file := func(name string) bool {
		_, err := os.Stat(filepath.Join(t.root, name))
		return err == nil
	}
	f.MemoryReservation = file("memory/memory.soft_limit_in_bytes")
	f.Swappiness = file("memory/memory.swappiness")
	f.OOMKillDisable = file("memory/memory.oom_control")
	f.CPUShares, f.CPUQuota = file("cpu/cpu.shares"), file("cpu/cpu.cfs_quota_us")
	f.ReadBPS, f.WriteBPS = file("blkio/blkio.throttle.read_bps_device"), file("blkio/blkio.throttle.write_bps_device")
	f.ReadIOPS, f.WriteIOPS = file("blkio/blkio.throttle.read_iops_device"), file("blkio/blkio.throttle.write_iops_device")
	if have["blkio"] && !t.Weighs(parent) {
		_ = os.MkdirAll(filepath.Join(t.root, "blkio", parent), 0o755) // if it can't be, there is no weight either
	}
	f.BlkioWeight = have["blkio"] && t.Weighs(parent)
	f.BlkioWeightDevice = file("blkio/blkio.weight_device") || file("blkio"+parent+"/blkio.weight_device") ||
		file("blkio"+parent+"/blkio.bfq.weight_device")
	return f
}

// Own returns the cgroup of this process, below which one with a relative path is: with version 1 that of the memory
// hierarchy, since a Tree has one path for all; with version 2 the cgroup above it, since one with processes can have none
// below it that are limited. It is the root if this process cannot see its own.
func (t Tree) Own() string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	return ownOf(string(data), t.unified)
}

// ownOf reads the text of /proc/self/cgroup.
func ownOf(text string, unified bool) string {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) < 3 || !path.IsAbs(fields[2]) || strings.Contains(fields[2]+"/", "/../") {
			continue // outside of this process's cgroup namespace
		}
		if unified && fields[1] == "" {
			return path.Dir(fields[2])
		}
		if !unified && strings.Contains(","+fields[1]+",", ",memory,") {
			return fields[2]
		}
	}
	return "/"
}
