package buildkit

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long is waited for what must happen. Only a hang is ever waited for so long.
const patience = time.Minute

// comes waits until something is so, and says whether it has come to that.
func comes(ok func() bool) bool {
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// until is comes for a test that fails without it.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !comes(ok) {
		t.Errorf("this does not come true: %s", what)
	}
}

// seconds is a number of seconds to sleep for, by which the processes of this daemon's steps are known. It begins with kind.
func (d *daemon) seconds(kind string) string {
	return kind + strings.TrimPrefix(filepath.Base(filepath.Dir(d.socket)), "bk")
}

// running says whether a process has marker in its command line.
func running(marker string) bool {
	return slices.ContainsFunc(commands(), func(c string) bool { return strings.Contains(c, "sleep "+marker) })
}

// wake waits for the step that sleeps for so many seconds, and has it go on.
func wake(t *testing.T, seconds string) {
	t.Helper()
	until(t, "a step sleeps for "+seconds, func() bool {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if text, err2 := os.ReadFile(f); err == nil && err2 == nil && string(text) == "sleep\x00"+seconds+"\x00" {
				return syscall.Kill(pid, syscall.SIGKILL) == nil
			}
		}
		return false
	})
}
