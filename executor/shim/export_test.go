package shim

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// Trace returns how long the phases of a start took in the shim, in nanoseconds.
func Trace(b executor.Sandbox) map[string]int64 { return b.(*box).c.trace }

// HostTrace returns how long the phases of Create took in the keeper, in nanoseconds.
func HostTrace(c executor.Container) map[string]int64 { return c.(*hosted).trace }

// ParentOf returns the parent of the cgroup that the container of dir would have.
func ParentOf(h *Host, dir string, spec *executor.Spec) (string, error) { return h.parentOf(dir, spec) }

// CanCopyDetached says whether the kernel can copy a detached mount.
func CanCopyDetached(f *os.File) bool {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// OldKernel makes copying a mount fail for the rest of the test, as it does before Linux 6.15 for a detached one.
func OldKernel(t *testing.T) {
	openTree = func(int, string, uint) (int, error) { return -1, unix.EINVAL }
	t.Cleanup(func() { openTree = unix.OpenTree })
}

// AwaitStock returns when h has a keeper ready, or has failed to start one.
func AwaitStock(h *Host) {
	h.mu.Lock()
	making := h.making
	h.mu.Unlock()
	if making != nil {
		<-making
	}
}

// AwaitReaped returns when no keeper of h is left but the one in stock.
func AwaitReaped(h *Host) {
	for {
		h.mu.Lock()
		n := len(h.watched)
		h.mu.Unlock()
		if n <= 1 {
			return
		}
		runtime.Gosched()
	}
}
