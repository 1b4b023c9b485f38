package pidfd

import (
	"os/exec"
	"syscall"
	"testing"
)

// begin starts a child that lives until its standard input is closed.
func begin(t *testing.T, without bool) (w *Watch, end func()) {
	t.Helper()
	cmd := exec.Command("cat")
	fd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if without {
		syscall.Close(fd)
		fd = -1
	}
	return Of(cmd, fd), func() { in.Close() }
}

// The end of a child is noticed, and the child is reaped, with a descriptor and without.
func TestEnd(t *testing.T) {
	for _, without := range []bool{false, true} {
		w, end := begin(t, without)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Wait()
		}()
		end()
		<-done
		if w.cmd.ProcessState == nil || w.CanClose() == without {
			t.Errorf("without a descriptor %v: reaped as %v, can be closed: %v", without, w.cmd.ProcessState, w.CanClose())
		}
		w.Close()
	}
}

// Nobody has to wait for a child that goes on.
func TestClose(t *testing.T) {
	w, end := begin(t, false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Wait()
	}()
	w.Close()
	<-done
	if w.cmd.ProcessState != nil {
		t.Error("it was reaped")
	}
	end()
	_ = w.cmd.Wait()
}
