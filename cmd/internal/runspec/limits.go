package runspec

import (
	"errors"
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// tunable are the limits that can be changed while the container runs.
type tunable struct {
	blkioWeight               uint16
	cpuPeriod, cpuQuota       int64 // microseconds
	cpuRTPeriod, cpuRTRuntime int64 // microseconds
	cpuShares                 int64
	cpus                      opts.NanoCPUs
	cpusetCPUs, cpusetMems    string
	memory, memoryReservation opts.MemBytes
	memorySwap                opts.MemSwapBytes
	pidsLimit                 int64
	kernelMemory              opts.MemBytes // taken, and of no use: no kernel has it any more
}

func (t *tunable) register(fs *pflag.FlagSet) {
	fs.Uint16Var(&t.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	fs.Int64Var(&t.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&t.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	fs.Int64VarP(&t.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Var(&t.cpus, "cpus", "Number of CPUs")
	fs.StringVar(&t.cpusetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&t.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	fs.VarP(&t.memory, "memory", "m", "Memory limit")
	fs.Var(&t.memoryReservation, "memory-reservation", "Memory soft limit")
	fs.Var(&t.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	fs.Int64Var(&t.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	fs.Var(&t.kernelMemory, "kernel-memory", "Kernel memory limit (deprecated)")
	_ = fs.MarkDeprecated("kernel-memory", "and no longer supported by the kernel") // it exists
}

// registerRealTime adds the flags whose help differs between run and update.
func (t *tunable) registerRealTime(fs *pflag.FlagSet, period, runtime string) {
	fs.Int64Var(&t.cpuRTPeriod, "cpu-rt-period", 0, period)
	fs.Int64Var(&t.cpuRTRuntime, "cpu-rt-runtime", 0, runtime)
}

// resources returns the limits in the API's fields.
func (t *tunable) resources() container.Resources {
	return container.Resources{
		BlkioWeight: t.blkioWeight, CPUPeriod: t.cpuPeriod, CPUQuota: t.cpuQuota, CPURealtimePeriod: t.cpuRTPeriod,
		CPURealtimeRuntime: t.cpuRTRuntime, CPUShares: t.cpuShares, NanoCPUs: t.cpus.Value(), CpusetCpus: t.cpusetCPUs,
		CpusetMems: t.cpusetMems, Memory: t.memory.Value(), MemoryReservation: t.memoryReservation.Value(),
		MemorySwap: t.memorySwap.Value(),
	}
}

// limits are how much the container may use.
type limits struct {
	tunable
	swappiness                             int64
	oomKillDisable                         bool
	oomScoreAdj                            int
	shmSize                                opts.MemBytes
	ulimits                                *opts.UlimitOpt
	weights                                opts.WeightdeviceOpt
	readBps, writeBps, readIOps, writeIOps opts.ThrottledeviceOpt
	cgroupParent                           string
}

func (l *limits) register(fs *pflag.FlagSet) {
	l.tunable.register(fs)
	l.registerRealTime(fs, "Limit CPU real-time period in microseconds", "Limit CPU real-time runtime in microseconds")
	l.ulimits = opts.NewUlimitOpt(nil)
	l.weights = opts.NewWeightdeviceOpt(opts.ValidateWeightDevice)
	l.readBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	l.writeBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	l.readIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	l.writeIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	fs.Int64Var(&l.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	fs.BoolVar(&l.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	fs.IntVar(&l.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	fs.Var(&l.shmSize, "shm-size", "Size of /dev/shm")
	fs.Var(l.ulimits, "ulimit", "Ulimit options")
	fs.Var(&l.weights, "blkio-weight-device", "Block IO weight (relative device weight)")
	fs.Var(&l.readBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	fs.Var(&l.readIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	fs.Var(&l.writeBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	fs.Var(&l.writeIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	fs.StringVar(&l.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
}

func (l *limits) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	if l.swappiness < -1 || l.swappiness > 100 {
		return fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", l.swappiness)
	}
	h := req.HostConfig
	h.Resources = l.resources()
	h.PidsLimit, h.MemorySwappiness, h.OomKillDisable = &l.pidsLimit, &l.swappiness, &l.oomKillDisable
	h.CgroupParent, h.Ulimits = l.cgroupParent, l.ulimits.GetList()
	h.BlkioWeightDevice = l.weights.GetList()
	throttle := func(o *opts.ThrottledeviceOpt) []*blkiodev.ThrottleDevice { return o.GetList() }
	h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = throttle(&l.readBps), throttle(&l.writeBps)
	h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps = throttle(&l.readIOps), throttle(&l.writeIOps)
	h.OomScoreAdj, h.ShmSize = l.oomScoreAdj, l.shmSize.Value()
	return nil
}

// An Update has the flags of update. The zero value is ready for Register.
type Update struct {
	tunable
	restart string
	own     *pflag.FlagSet // its flags, among those of the program
}

// Register adds the flags to fs.
func (u *Update) Register(fs *pflag.FlagSet) {
	u.own = pflag.NewFlagSet("update", pflag.ContinueOnError)
	u.register(u.own)
	u.registerRealTime(u.own, "Limit the CPU real-time period in microseconds", "Limit the CPU real-time runtime in microseconds")
	u.own.StringVar(&u.restart, "restart", "", "Restart policy to apply when a container exits")
	fs.AddFlagSet(u.own)
}

// Request returns the request, once fs has been parsed.
func (u *Update) Request(fs *pflag.FlagSet) (*container.UpdateConfig, error) {
	given := 0
	u.own.VisitAll(func(f *pflag.Flag) {
		if f.Changed && f.Name != "kernel-memory" {
			given++
		}
	})
	if given == 0 {
		return nil, errors.New("you must provide one or more flags when using this command")
	}
	req := &container.UpdateConfig{Resources: u.resources()}
	if fs.Changed("pids-limit") {
		req.PidsLimit = &u.pidsLimit
	}
	if u.restart == "" {
		return req, nil
	}
	var err error
	req.RestartPolicy, err = opts.ParseRestartPolicy(u.restart)
	return req, err
}
