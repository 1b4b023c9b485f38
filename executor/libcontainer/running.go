//go:build cgo

package libcontainer

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// freezeTries is how often the library is asked to freeze a container that it cannot freeze.
const freezeTries = 20

// Freeze freezes all processes of the sandbox, or lets them go on.
func (c *Container) Freeze(on bool) error {
	var err error
	if on {
		// The kernel of cgroup v1 can be kept from it by a process that is starting, on a machine with much to do for longer
		// than the library tries: a fifth of a second.
		for range freezeTries {
			if err = c.lc.Pause(); err == nil || !strings.Contains(err.Error(), "unable to freeze") {
				break
			}
		}
	} else {
		err = c.lc.Resume()
	}
	if err != nil {
		return fmt.Errorf("freezing the container: %w", err)
	}
	return nil
}

// Update sets other limits. The rules for devices stay as they are.
func (c *Container) Update(res *specs.LinuxResources) error {
	config := c.lc.Config()
	r := *config.Cgroups.Resources
	devices := r.Devices
	group, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		Spec: &specs.Spec{Linux: &specs.Linux{Resources: res, CgroupsPath: c.cgroup}},
	}, nil)
	if err != nil {
		return fmt.Errorf("converting the limits: %w", err)
	}
	r = *group.Resources
	r.Devices = devices
	copied := *config.Cgroups
	copied.Resources = &r
	config.Cgroups = &copied
	if err := c.lc.Set(config); err != nil {
		return fmt.Errorf("setting the limits: %w", err)
	}
	return nil
}

// Stats reads what the sandbox has used.
func (c *Container) Stats() (*executor.Stats, error) {
	all, err := c.lc.Stats()
	if err != nil {
		return nil, fmt.Errorf("reading what the container uses: %w", err)
	}
	s := all.CgroupStats
	out := &executor.Stats{
		Read:          time.Now(),
		CPUTotal:      time.Duration(s.CpuStats.CpuUsage.TotalUsage),
		CPUUser:       time.Duration(s.CpuStats.CpuUsage.UsageInUsermode),
		CPUKernel:     time.Duration(s.CpuStats.CpuUsage.UsageInKernelmode),
		Periods:       s.CpuStats.ThrottlingData.Periods,
		Throttled:     s.CpuStats.ThrottlingData.ThrottledPeriods,
		ThrottledTime: time.Duration(s.CpuStats.ThrottlingData.ThrottledTime),
		Memory:        s.MemoryStats.Usage.Usage,
		MemoryPeak:    s.MemoryStats.Usage.MaxUsage,
		MemoryLimit:   s.MemoryStats.Usage.Limit,
		MemoryDetail:  s.MemoryStats.Stats,
		OOMKills:      c.rt.cgroups.OOMKills(c.cgroup),
		Pids:          s.PidsStats.Current,
		PidsLimit:     s.PidsStats.Limit,
		IO:            ioStats(&s.BlkioStats),
	}
	for _, n := range s.CpuStats.CpuUsage.PercpuUsage {
		out.CPUPer = append(out.CPUPer, time.Duration(n))
	}
	return out, nil
}

// ioStats joins the entries for bytes and for operations.
func ioStats(s *cgroups.BlkioStats) []executor.IOStat {
	type key struct {
		major, minor uint64
		op           string
	}
	var out []executor.IOStat
	index := make(map[key]int)
	at := func(e *cgroups.BlkioStatEntry) *executor.IOStat {
		k := key{e.Major, e.Minor, strings.ToLower(e.Op)}
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, executor.IOStat{Major: k.major, Minor: k.minor, Op: k.op})
		}
		return &out[i]
	}
	for i := range s.IoServiceBytesRecursive {
		e := &s.IoServiceBytesRecursive[i]
		at(e).Bytes = e.Value
	}
	for i := range s.IoServicedRecursive {
		e := &s.IoServicedRecursive[i]
		at(e).Ops = e.Value
	}
	return out
}

// KeepSpare starts a spare sandbox for one that is like spec, and returns when it is ready.
func (r *Runtime) KeepSpare(id string, spec *specs.Spec) error {
	config, _, err := r.config(spec, nil)
	if err != nil {
		return err
	}
	kind := r.shape(config, spec.Process.Terminal)
	if kind == "" {
		return fmt.Errorf("spare sandbox %s: not of a kind that can be made ahead", id)
	}
	sk, _ := skeletonOf(config)
	s, err := r.startSpare(id, kind, r.blank(config, id), sk)
	if err != nil {
		return err
	}
	if err := s.ready(); err != nil {
		s.discard()
		return err
	}
	s.waits = true
	r.spares.mu.Lock()
	defer r.spares.mu.Unlock()
	r.spares.idle = s
	return nil
}
