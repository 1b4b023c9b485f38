package container

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
)

// Stats implements worker.Containers. Of a container that does not run there is nothing but its name.
func (m *Manager) Stats(ctx context.Context, ref string) (*container.StatsResponse, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	rec := c.get()
	out := &container.StatsResponse{ID: rec.ID, Name: "/" + rec.Name, OSType: rec.Platform.OS}
	box, err := c.running()
	if err != nil {
		return out, nil //nolint:nilerr // as docker has it
	}
	st, err := box.Stats(ctx)
	if err != nil {
		return nil, err
	}
	fillStats(out, st)
	out.CPUStats.SystemUsage, out.CPUStats.OnlineCPUs = systemCPU(), uint32(runtime.NumCPU())
	if out.MemoryStats.Limit == 0 || out.MemoryStats.Limit > machineMemory() {
		out.MemoryStats.Limit = machineMemory()
	}
	if out.Networks, err = m.deps.Network.Stats(ctx, c.id); err != nil {
		m.warn("reading the counters of a container's network", err)
	}
	return out, nil
}

// fillStats puts what the executor tells into the API's form.
func fillStats(out *container.StatsResponse, st *executor.Stats) {
	out.Read = st.Read
	cpu := &out.CPUStats
	cpu.CPUUsage = container.CPUUsage{
		TotalUsage: uint64(st.CPUTotal), UsageInUsermode: uint64(st.CPUUser), UsageInKernelmode: uint64(st.CPUKernel),
	}
	for _, d := range st.CPUPer {
		cpu.CPUUsage.PercpuUsage = append(cpu.CPUUsage.PercpuUsage, uint64(d))
	}
	cpu.ThrottlingData = container.ThrottlingData{
		Periods: st.Periods, ThrottledPeriods: st.Throttled, ThrottledTime: uint64(st.ThrottledTime),
	}
	out.MemoryStats = container.MemoryStats{
		Usage: st.Memory, MaxUsage: st.MemoryPeak, Limit: st.MemoryLimit, Stats: st.MemoryDetail, Failcnt: st.OOMKills,
	}
	out.PidsStats = container.PidsStats{Current: st.Pids, Limit: st.PidsLimit}
	for _, io := range st.IO {
		e := container.BlkioStatEntry{Major: io.Major, Minor: io.Minor, Op: io.Op, Value: io.Bytes}
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive, e)
		if io.Ops > 0 {
			e.Value = io.Ops
			out.BlkioStats.IoServicedRecursive = append(out.BlkioStats.IoServicedRecursive, e)
		}
	}
}

// tick is how long one unit of /proc/stat is, in nanoseconds: USER_HZ is 100 everywhere.
const tick = 10_000_000

// systemCPU is the time that all CPUs of the machine have spent on anything, in nanoseconds.
func systemCPU() (total uint64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	for i, f := range strings.Fields(string(line)) {
		if i == 0 || i > 7 { // user to softirq, with idle, as docker sums it up
			continue
		}
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0
		}
		total += n * tick
	}
	return total
}

// machineMemory is how many bytes of memory the machine has.
func machineMemory() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
