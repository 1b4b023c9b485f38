package container

import (
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// limitable is what can be limited here: all, with a host that does not know.
func (m *Manager) limitable() executor.Limitable {
	if l, ok := m.deps.Host.(executor.Limiter); ok {
		return l.Limitable()
	}
	return executor.Limitable{
		Memory: true, Swap: true, MemoryReservation: true, Swappiness: true, OOMKillDisable: true, Pids: true, CPUShares: true,
		CPUQuota: true, CPUSet: true, BlkioWeight: true, BlkioWeightDevice: true, ReadBPS: true, WriteBPS: true, ReadIOPS: true,
		WriteIOPS: true,
	}
}

// discard takes away the limits that there are not here, with docker's warnings. What docker refuses instead is an error.
func (m *Manager) discard(r *container.Resources) (warnings []string, err error) {
	have := m.limitable()
	warn := func(text string) { warnings = append(warnings, text) }
	if r.Memory >= minMemory && !have.Memory {
		warn("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.")
		r.Memory, r.MemorySwap = 0, -1
	}
	if r.Memory >= minMemory && r.MemorySwap != -1 && !have.Swap {
		warn("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.")
		r.MemorySwap = -1
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness != -1 && !have.Swappiness {
		warn("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.")
		r.MemorySwappiness = nil
	}
	if r.MemoryReservation > 0 && !have.MemoryReservation {
		warn("Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.")
		r.MemoryReservation = 0
	}
	if r.OomKillDisable != nil && !have.OOMKillDisable {
		if *r.OomKillDisable { // who has not asked for it misses nothing
			warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		}
		r.OomKillDisable = nil
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		warn("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if r.PidsLimit != nil && !have.Pids {
		if *r.PidsLimit > 0 {
			warn("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
		}
		r.PidsLimit = nil
	}
	more, err := discardCPU(r, &have)
	return append(append(warnings, more...), discardBlkio(r, &have)...), err
}

func discardCPU(r *container.Resources, have *executor.Limitable) (warnings []string, err error) {
	if r.NanoCPUs > 0 && !have.CPUQuota {
		return nil, worker.Invalidf("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	}
	if r.CPUShares > 0 && !have.CPUShares {
		warnings = append(warnings, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.")
		r.CPUShares = 0
	}
	if (r.CPUPeriod != 0 || r.CPUQuota != 0) && !have.CPUQuota {
		warnings = append(warnings, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
		r.CPUPeriod, r.CPUQuota = 0, 0
	}
	if r.CPUPercent > 0 { // of Windows
		warnings = append(warnings, "linux does not support CPU percent. Percent discarded.")
		r.CPUPercent = 0
	}
	if (r.CpusetCpus != "" || r.CpusetMems != "") && !have.CPUSet {
		warnings = append(warnings, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.")
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	return warnings, nil
}

func discardBlkio(r *container.Resources, have *executor.Limitable) (warnings []string) {
	if r.BlkioWeight > 0 && !have.BlkioWeight {
		warnings = append(warnings, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
		r.BlkioWeight = 0
	}
	if len(r.BlkioWeightDevice) > 0 && !have.BlkioWeightDevice {
		warnings = append(warnings, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.")
		r.BlkioWeightDevice = []*blkiodev.WeightDevice{}
	}
	for _, l := range []struct {
		list *[]*blkiodev.ThrottleDevice
		have bool
		text string
	}{
		{&r.BlkioDeviceReadBps, have.ReadBPS, "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."},
		{&r.BlkioDeviceWriteBps, have.WriteBPS, "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded."},
		{&r.BlkioDeviceReadIOps, have.ReadIOPS, "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded."},
		{&r.BlkioDeviceWriteIOps, have.WriteIOPS, "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded."},
	} {
		if len(*l.list) > 0 && !l.have {
			warnings = append(warnings, l.text)
			*l.list = []*blkiodev.ThrottleDevice{}
		}
	}
	return warnings
}
