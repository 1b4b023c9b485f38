//go:build cgo

package libcontainer

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimitNumbers are the numbers of setrlimit(2), by the names that a Ulimit uses.
var rlimitNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// HardLimits returns this process's hard limits, which it may not exceed without CAP_SYS_RESOURCE.
func HardLimits() (map[string]uint64, error) {
	out := make(map[string]uint64, len(rlimitNumbers))
	for name, n := range rlimitNumbers {
		var l unix.Rlimit
		if err := unix.Getrlimit(n, &l); err != nil {
			return nil, fmt.Errorf("reading the limit %s: %w", name, err)
		}
		out[name] = l.Max
	}
	return out, nil
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
