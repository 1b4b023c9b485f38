package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// newGroup makes a cgroup of a test's own.
func newGroup(t *testing.T, hierarchy, name string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(hierarchy, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	return dir
}

// runIn runs a shell in a cgroup until its end.
func runIn(t *testing.T, dir, script string) *os.ProcessState {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `echo 0 > "$1/cgroup.procs" && `+script, "sh", dir)
	_ = cmd.Run()
	return cmd.ProcessState
}

// With version 1 one is told that memory is short before whoever was killed is waited for, also a second time, and neither
// when the cgroup goes nor once it was stopped.
func TestOOM(t *testing.T) {
	tree := At(Root)
	name := fmt.Sprintf("boxbuild-oom-%d", os.Getpid())
	dir := newGroup(t, tree.memory, name)
	limit := "memory.limit_in_bytes"
	if tree.unified {
		limit = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(dir, limit), []byte("8388608"), 0); err != nil {
		t.Skip(err)
	}
	_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0)
	_ = os.WriteFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"), []byte("8388608"), 0)
	o := NewOOM(tree)
	defer o.Close()
	told := make(chan bool, 100)
	stop, err := o.Watch(name, func() { told <- true })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		st := runIn(t, dir, "exec dd if=/dev/zero of=/dev/null bs=64M count=1")
		if ws, ok := st.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("it ended with %v", st)
		}
		<-told
	}
	if tree.OOMKills(name) < 2 {
		t.Errorf("%d were killed", tree.OOMKills(name))
	}
	for len(told) > 0 {
		<-told // a limit may be hit more than once for each that is killed
	}
	gone := newGroup(t, tree.memory, name+"-gone")
	stopGone, err := o.Watch(name+"-gone", func() { t.Error("told of a cgroup that was removed") })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	stop()
	stop()
	runIn(t, dir, "exec dd if=/dev/zero of=/dev/null bs=64M count=1")
	stopGone()
	if len(told) > 0 {
		t.Error("told after stop")
	}
	if _, err := o.Watch("nowhere/at/all", func() {}); err == nil {
		t.Error("no error for a cgroup that there is not")
	}
}

// The files of version 2 tell by a priority event, and again after each reading; what has not grown is not told of. The
// kernel here may have no memory controller of version 2, so it is a file of the same kind that is looked at.
func TestOOMUnified(t *testing.T) {
	hierarchy := Root
	if !At(Root).unified {
		hierarchy = filepath.Join(Root, "unified")
	}
	name := fmt.Sprintf("boxbuild-oom2-%d", os.Getpid())
	dir := newGroup(t, hierarchy, name)
	o := NewOOM(Tree{memory: hierarchy, unified: true})
	o.file, o.key = "cgroup.events", "populated "
	defer o.Close()
	told := make(chan bool, 10)
	stop, err := o.Watch(name, func() { told <- true })
	if err != nil {
		t.Skip(err)
	}
	defer stop()
	runIn(t, dir, "exec sleep 0.1")
	<-told // populated has become 1
	o.mu.Lock()
	for _, w := range o.watches {
		w.mu.Lock()
		w.last = 0 // as if it were another number that is to grow
		w.mu.Unlock()
	}
	o.mu.Unlock()
	runIn(t, dir, "exec sleep 0.1")
	<-told
	if len(told) > 0 {
		t.Error("told that it has become 0")
	}
}

// What memory.events says is read by its key, whole.
func TestOOMNumber(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory.events"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("low 0\nhigh 3\nmax 5\noom 2\noom_kill 7\noom_group_kill 9\n"); err != nil {
		t.Fatal(err)
	}
	if n := number(int(f.Fd()), NewOOM(Tree{unified: true}).key); n != 7 {
		t.Errorf("got %d, want 7", n)
	}
}
