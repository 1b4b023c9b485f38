//go:build cgo

package libcontainer

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/cgroup"
)

// rlimitNumbers are the numbers of setrlimit(2), by the names that a Ulimit uses.
var rlimitNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// Limits are what this process can't exceed, nor let a sandbox exceed.
type Limits struct {
	Hard         map[string]uint64 // hard limits, which only CAP_SYS_RESOURCE could raise
	Capabilities uint64            // the bounding set
	Controllers  map[string]bool   // of cgroups: what limits can be set with
	Swap         bool              // a cgroup's use of swap can be limited
	CPUs         int               // one more than the highest number of a CPU
}

// OwnLimits returns this process's Limits. Sandboxes have their cgroups below the cgroup parent. It is called after Enter.
func OwnLimits(parent string) (*Limits, error) {
	h := cgroup.At(cgroup.Root)
	out := &Limits{
		Hard: make(map[string]uint64, len(rlimitNumbers)), Controllers: h.Controllers(parent), Swap: h.LimitsSwap(parent),
	}
	for name, n := range rlimitNumbers {
		var l unix.Rlimit
		if err := unix.Getrlimit(n, &l); err != nil {
			return nil, fmt.Errorf("reading the limit %s: %w", name, err)
		}
		out.Hard[name] = l.Max
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("reading the capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if out.Capabilities, err = strconv.ParseUint(strings.TrimSpace(v), 16, 64); err != nil {
				return nil, fmt.Errorf("reading the capabilities: %w", err)
			}
		}
	}
	if out.CPUs, err = countCPUs(); err != nil {
		return nil, fmt.Errorf("counting the CPUs: %w", err)
	}
	return out, nil
}

// countCPUs returns one more than the highest number of a CPU that is online.
func countCPUs() (int, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, " ")
		number, ok := strings.CutPrefix(name, "cpu")
		if i, err := strconv.Atoi(number); ok && err == nil { // the first line, of all together, has none
			n = max(n, i+1)
		}
	}
	return n, nil
}

func rlimits(in []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	var out []configs.Rlimit
	for _, l := range in {
		n, ok := rlimitNumbers[strings.ToLower(strings.TrimPrefix(l.Type, "RLIMIT_"))]
		if !ok {
			return nil, fmt.Errorf("limit %s: unknown", l.Type)
		}
		out = append(out, configs.Rlimit{Type: n, Hard: l.Hard, Soft: l.Soft})
	}
	return out, nil
}
