package container

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
)

// checkPropagation refuses a bind that is to share its mounts with a place of the host that shares none: nothing would be
// propagated. f is open for the source.
func checkPropagation(f *os.File, p *mountPoint) error {
	var want string
	switch p.Propagation {
	case mount.PropagationShared, mount.PropagationRShared:
		want = "shared"
	case mount.PropagationSlave, mount.PropagationRSlave:
		want = "shared or slave"
	case "", mount.PropagationPrivate, mount.PropagationRPrivate:
		return nil
	}
	at, how, err := mountOf(f)
	if err != nil {
		return fmt.Errorf("looking for the mount of %s: %w", p.Source, err)
	}
	for _, o := range how {
		if strings.HasPrefix(o, "shared:") || want != "shared" && strings.HasPrefix(o, "master:") {
			return nil
		}
	}
	return worker.Invalidf("path %s is mounted on %s but it is not a %s mount", p.Source, at, want)
}

// mountOf finds out where the mount that f lies in is mounted, and to whom it propagates, as proc_pid_mountinfo(5) says it.
func mountOf(f *os.File) (at string, propagation []string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return "", nil, os.NewSyscallError("statx", err)
	}
	// Not /proc/self: the first thread may be one of those that were left in a namespace of their own.
	list, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return "", nil, err
	}
	defer list.Close()
	id := fmt.Sprint(st.Mnt_id)
	for s := bufio.NewScanner(list); s.Scan(); {
		// 36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw
		fields := strings.Fields(s.Text())
		if len(fields) < 7 || fields[0] != id {
			continue
		}
		for _, o := range fields[6:] {
			if o == "-" {
				break
			}
			propagation = append(propagation, o)
		}
		return fields[4], propagation, nil
	}
	return "", nil, fmt.Errorf("there is no mount %s", id)
}
