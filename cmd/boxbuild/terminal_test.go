package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// onTerminal runs a command on a terminal of 30 by 100 characters, as a user would: onTerminal file command [args]. The file
// has a line for each thing that he does:
//
//	raw              waits until keys go to the program as they are pressed
//	send TEXT        types, with Go's escapes
//	expect TEXT      waits until that is shown, after what he has waited for before
//	size ROWS COLS   makes the window another size
//	code N           waits for the end, and for that exit code
//
// The terminal must be in the end what it was.
func onTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: onTerminal file command [args]")
	}
	user, tty := openTerminal(ts)
	ts.Defer(func() { _ = user.Close(); _ = tty.Close() })
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	ts.Check(err)
	cmd := exec.Command(programOf(ts, args[1]), args[2:]...)
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TZ", "BOXBUILD_ADDR", "DOCKER_CONFIG"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	s := &screen{}
	s.more = sync.NewCond(&s.mu)
	go func() { _, _ = io.Copy(s, user) }() // it ends with the terminal
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_, _ = io.WriteString(tty, lastLine) // what was said before has been shown when this is
		ended <- err
	}()
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch verb {
		case "send":
			_, err := io.WriteString(user, unquote(ts, rest))
			ts.Check(err)
		case "raw":
			for canonical := true; canonical; time.Sleep(time.Millisecond) {
				now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				ts.Check(err)
				canonical = now.Lflag&unix.ICANON != 0
			}
		case "expect":
			if !s.await(unquote(ts, rest)) {
				ts.Fatalf("%q is not shown; there is %q", rest, s.text())
			}
		case "size":
			var rows, cols uint16
			_, err := fmt.Sscan(rest, &rows, &cols)
			ts.Check(err)
			ts.Check(unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
		case "code":
			err := <-ended
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				ts.Fatalf("%v", err)
			}
			if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != rest {
				ts.Fatalf("exit code %s, want %s; there is %q", got, rest, s.text())
			}
		default:
			ts.Fatalf("unknown action %q", verb)
		}
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	ts.Check(err)
	if *after != *before {
		ts.Fatalf("the terminal was left as %+v, not %+v", after, before)
	}
}

// openTerminal returns both ends of a terminal.
func openTerminal(ts *testscript.TestScript) (user, tty *os.File) {
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	ts.Check(unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	ts.Check(err)
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	ts.Check(unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100}))
	return user, tty
}

func programOf(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	ts.Fatalf("there is no program %s", name)
	return ""
}

func unquote(ts *testscript.TestScript, s string) string {
	out, err := strconv.Unquote(`"` + s + `"`)
	ts.Check(err)
	return out
}

// lastLine is shown when the program has ended.
const lastLine = "\x1eended\x1e"

// A screen has all that was shown.
type screen struct {
	mu    sync.Mutex // guards the rest
	more  *sync.Cond
	all   []byte
	seen  int // how much of it has been waited for
	ended bool
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p...)
	s.ended = bytes.Contains(s.all, []byte(lastLine))
	s.more.Broadcast()
	return len(p), nil
}

// await waits until text is shown after what was waited for last.
func (s *screen) await(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if at := bytes.Index(s.all[s.seen:], []byte(text)); at >= 0 {
			s.seen += at + len(text)
			return true
		}
		if s.ended {
			return false
		}
		s.more.Wait()
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.all)
}
