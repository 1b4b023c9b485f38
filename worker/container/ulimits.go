package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
)

// rlimits are the numbers of what --ulimit names.
var rlimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// checkUlimits refuses limits that the kernel would set for nobody, and warns of those that this daemon, which may not raise
// its own, will lower.
func checkUlimits(list []*container.Ulimit) (warnings []string, err error) {
	for _, u := range list {
		resource, known := rlimits[u.Name]
		if !known {
			return nil, worker.Invalidf("invalid ulimit type: %s", u.Name)
		}
		soft, hard := uint64(u.Soft), uint64(u.Hard) // -1 is no limit
		if soft > hard {
			return nil, worker.Invalidf("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
		}
		if most, ok := mostFiles(); ok && resource == unix.RLIMIT_NOFILE && hard > most {
			return nil, worker.Invalidf("ulimit nofile: the hard limit %d is above the kernel's own, %d (fs.nr_open)", u.Hard, most)
		}
		var own unix.Rlimit
		if mayRaise() || unix.Getrlimit(resource, &own) != nil || hard <= own.Max {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("ulimit %s: the daemon may not raise limits, so the hard limit is %d instead of %d.", u.Name, own.Max, u.Hard))
	}
	return warnings, nil
}

// mostFiles is how many files a process can be allowed to have open.
func mostFiles() (uint64, bool) {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// mayRaise says whether this process has CAP_SYS_RESOURCE.
func mayRaise() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
