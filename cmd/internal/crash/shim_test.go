package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestShimKilled kills boxshim, as the kernel does when memory is short. The steps that run fail and say so; the daemon
// goes on, and so do its builds.
func TestShimKilled(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	for range 3 {
		c := h.call(nil, "build", "--progress", "plain", h.context(map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 1000\n"}))
		h.eventually("the step runs", func() bool { return h.sandboxes() > 0 })
		if err := syscall.Kill(h.shim(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.finish(t, "build"); err == nil {
			t.Error("a build whose sandbox was killed succeeds")
		}
		if !strings.Contains(c.stderr.String(), "boxshim has ended") {
			t.Errorf("the build says %s", c.stderr.String())
		}
		h.must("FROM busybox\nRUN true\n", "build", "--no-cache", "-q", "-")
	}
}

// shim returns the process of the daemon's boxshim.
func (h *host) shim() int {
	h.t.Helper()
	pid := 0
	h.eventually("there is a boxshim", func() bool {
		pid = poolOf(h.daemon.Process.Pid)
		return pid != 0
	})
	return pid
}

// poolOf returns the boxshim that starts the sandboxes of builds, among the children of a daemon; 0 if there is none.
func poolOf(daemon int) int {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
	if err != nil {
		return 0
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && slices.Contains(strings.Split(string(args), "\x00"), "pool") {
				return pid
			}
		}
	}
	return 0
}
