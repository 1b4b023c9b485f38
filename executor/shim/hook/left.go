package hook

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killLeft kills what hooks have left running in the pid namespace of a sandbox, if that is its own: there, the sandbox's
// command would find a process that has the host's files, and may be allowed to look into it (CAP_SYS_PTRACE).
func killLeft(w *Waiting) error {
	own, err := OwnPid(w.PidFD)
	if err != nil || own != 1 {
		return nil // nothing of its own is left there, or nothing at all
	}
	for {
		left, err := others(w.Pid)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("killing process %d: %w", pid, err)
			}
			await(pid)
		}
	}
}

// others returns the processes in the pid namespace of the process pid, but for that.
func others(pid int) ([]int, error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it has ended, and all with it
	}
	if err != nil {
		return nil, err
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil || n == pid {
			continue
		}
		if other, err := os.Readlink("/proc/" + name + "/ns/pid"); err == nil && other == ns && !isZombie(name) {
			out = append(out, n)
		}
	}
	return out, nil
}

func isZombie(name string) bool {
	stat, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return true
	}
	// The name, in parentheses, may have any character.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// await waits for the end of a process that was killed.
func await(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
