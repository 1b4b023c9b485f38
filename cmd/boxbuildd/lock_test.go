package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon that has just been killed is waited for: it holds the lock until its memory has been taken apart. One that
// lives is not.
func TestLockOfKilled(t *testing.T) {
	if root := os.Getenv("BOXBUILDD_TEST_LOCK"); root != "" {
		l, err := lockRoot(root)
		if err != nil {
			t.Fatal(err)
		}
		defer l.release()
		memory := make([]byte, 512<<20)
		for i := 0; i < len(memory); i += 4096 {
			memory[i] = 1
		}
		fmt.Println("\nlocked")
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		fmt.Println(memory[len(memory)-1])
		return
	}
	root := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestLockOfKilled$")
	cmd.Env = append(os.Environ(), "BOXBUILDD_TEST_LOCK="+root)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "locked" {
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	if ending(pid) {
		t.Error("a process that lives is taken for one that ends")
	}
	if l, err := lockRoot(root); err == nil {
		l.release()
		t.Error("two have the lock")
	}
	if err := unix.Kill(cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l, err := lockRoot(root)
	if err != nil {
		t.Error(err)
	} else {
		l.release()
	}
	_ = cmd.Wait() // it was killed
	if !ending(pid) {
		t.Error("a process that is gone is taken for one that lives")
	}
}
