package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/executortest"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// hostOptions returns options with a cgroup of the test's own, which is removed at its end.
func hostOptions(t testing.TB) shim.Options {
	t.Helper()
	needsRoot(t)
	opts := shim.Options{
		Binary: binary, Dir: t.TempDir(), Log: testLog{t},
		CgroupParent: fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1)),
	}
	t.Cleanup(func() {
		tree := cgroup.At(cgroup.Root)
		awaitBegun(opts.Dir, opts.CgroupParent)
		awaitSpares(tree, opts.CgroupParent)
		if left := tree.Processes(opts.CgroupParent); len(left) > 0 {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", left[0]))
			groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", left[0]))
			t.Errorf("processes are left: %v, the first is\n%s%s", left, status, groups)
		}
		if err := tree.Remove(opts.CgroupParent); err != nil {
			t.Error(err)
		}
	})
	return opts
}

// awaitBegun waits for the end, or the place in a cgroup, of what a killed daemon has begun to start on dir: it still makes
// its directories.
func awaitBegun(dir, parent string) {
	for {
		var wait func()
		procs, _ := filepath.Glob("/proc/[0-9]*")
		for _, proc := range procs {
			args, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			groups, _ := os.ReadFile(filepath.Join(proc, "cgroup"))
			status, err := os.ReadFile(filepath.Join(proc, "status"))
			if err != nil || !strings.Contains(string(status), "\nPPid:\t1\n") || !slices.Contains(strings.Split(string(args), "\x00"), dir) || strings.Contains(string(groups), parent+"/") {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(proc))
			if wait, err = tryAwait(pid); err == nil {
				break
			}
		}
		if wait == nil {
			return
		}
		wait()
	}
}

// awaitSpares waits for the end of what a killed daemon had in stock, which comes when the kernel gets round to it.
func awaitSpares(tree cgroup.Tree, parent string) {
	for {
		var wait func()
		for _, pid := range tree.Processes(parent) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err == nil && strings.Contains(string(data), "/spare-") {
				if wait, err = tryAwait(pid); err == nil {
					break
				}
			}
		}
		if wait == nil {
			return
		}
		wait()
	}
}

func startHost(t testing.TB, opts shim.Options) *shim.Host {
	t.Helper()
	h, err := shim.NewHost(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func newHost(t testing.TB) *shim.Host {
	t.Helper()
	return startHost(t, hostOptions(t))
}

// keeperOf returns the number of the keeper of the container of dir: its first process's parent.
func keeperOf(t testing.TB, c executor.Container) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid("")))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no parent")
	return 0
}

// kill9 kills a process that need not be a child of the test, and returns when it has ended.
func kill9(t testing.TB, pid int) {
	t.Helper()
	wait := awaitEnd(t, pid)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait()
}

// awaitEnd returns a function that waits for the end of a process, which runs now.
func awaitEnd(t testing.TB, pid int) func() {
	t.Helper()
	wait, err := tryAwait(pid)
	if err != nil {
		t.Fatal(err)
	}
	return wait
}

func tryAwait(pid int) (func(), error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	return func() {
		defer unix.Close(fd)
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if n, err := unix.Poll(poll, -1); n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}, nil
}

// The keepers keep the contract.
func TestHostConformance(t *testing.T) {
	needsRoot(t)
	executortest.RunHost(t, func(t *testing.T) executortest.HostCase {
		opts := hostOptions(t)
		h := startHost(t, opts)
		root, _ := newRoot(t)
		return executortest.HostCase{
			Host: h, Root: root, Again: func(t *testing.T) executor.Host { return startHost(t, opts) },
			Break: func(t *testing.T, dir string) {
				c, err := h.Open(t.Context(), dir)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				kill9(t, keeperOf(t, c))
			},
		}
	})
}

// A directory may be deeper than the path of a socket may be long.
func TestHostDeepDirectory(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120), strings.Repeat("e", 120))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := &executor.Spec{
		ID: "deep", Root: root, Process: executor.Process{Args: []string{"/bin/true"}}, Network: executor.Network{Mode: executor.NetworkNone},
	}
	c, err := h.Create(t.Context(), dir, spec, executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if exit, err := c.Wait(t.Context(), ""); err != nil || exit.Code != 0 {
		t.Errorf("exit is %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}
