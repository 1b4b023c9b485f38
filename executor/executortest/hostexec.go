package executortest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// Further processes have streams and ends of their own, and the first goes on.
func testHostExec(t *testing.T, s *hostSuite) {
	if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/made", s.Root.Fd()), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, _ := s.begin(t, scriptSleep)
	for i, want := range []string{"content\n", "again\n"} {
		id := fmt.Sprintf("exec-%d", i)
		if err := c.Add(t.Context(), id, shell(scriptExec), false); err != nil {
			t.Fatal(err)
		}
		if err := c.Add(t.Context(), id, shell(scriptExec), false); err == nil {
			t.Error("two processes have an ID")
		}
		a := attach(t, c, id)
		run(t, c, id)
		if exit := waitFor(t, c, id); exit.Code != 4 {
			t.Errorf("exit is %+v", exit)
		}
		a.check(t, want, "")
	}
	if err := c.Add(t.Context(), "cat", shell(scriptCat), true); err != nil {
		t.Fatal(err)
	}
	a := attach(t, c, "cat")
	run(t, c, "cat")
	if _, err := io.WriteString(a, "in"); err != nil {
		t.Fatal(err)
	}
	closeWrite(t, a)
	waitFor(t, c, "cat")
	a.check(t, "in", "")
	if err := c.Signal(t.Context(), "", 0); err != nil {
		t.Errorf("the first process has ended: %v", err)
	}
}

// A command of a further process that is not there is a StartError, and the container goes on.
func testHostExecMissing(t *testing.T, s *hostSuite) {
	c, _ := s.begin(t, scriptSleep)
	if err := c.Add(t.Context(), "x", &executor.Process{Args: []string{"/no/such/command"}}, false); err != nil {
		t.Fatal(err)
	}
	a := attach(t, c, "x")
	var se *executor.StartError
	if err := c.Run(t.Context(), "x"); !errors.As(err, &se) || se.Code != 127 {
		t.Errorf("error is %#v, want a StartError with code 127", err)
	}
	a.check(t, "", "")
	if err := c.Run(t.Context(), "unknown"); err == nil {
		t.Error("ran a process that nobody added")
	}
	if err := c.Signal(t.Context(), "", 0); err != nil {
		t.Errorf("the first process has ended: %v", err)
	}
}

// The end of the first process is that of the others, also of those that were never run.
func testHostExecEnds(t *testing.T, s *hostSuite) {
	c, _ := s.begin(t, scriptSleep)
	for _, id := range []string{"runs", "waits"} {
		if err := c.Add(t.Context(), id, shell(scriptSleep), false); err != nil {
			t.Fatal(err)
		}
	}
	a := attach(t, c, "runs")
	run(t, c, "runs")
	a.out.awaitReady()
	if err := c.Signal(t.Context(), "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := waitFor(t, c, ""); exit.Code != 137 || exit.Signal != syscall.SIGKILL {
		t.Errorf("exit is %+v", exit)
	}
	if exit, err := c.Wait(t.Context(), "runs"); err == nil && exit.Code != 137 {
		t.Errorf("exit of another is %+v", exit)
	}
	if _, err := c.Wait(t.Context(), "waits"); err == nil {
		t.Error("what has never run has an exit")
	}
}
