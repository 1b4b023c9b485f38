package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long a daemon waits for one that is going down.
const lockWait = 15 * time.Second

// lockGrace is how long it waits for any other: a process that was just killed holds its locks until it has been taken
// apart.
const lockGrace = 300 * time.Millisecond

// What stands in the lock file once its holder is going down.
const (
	draining = "draining" // it finishes its builds first
	leaving  = "leaving"
)

// A rootLock is the right to use a root. The kernel gives it back when the process ends, however it ends.
type rootLock struct{ file *os.File }

// lockRoot takes the lock of root. If another daemon has it, that is an error which names it; one that is just going
// down is waited for, since a client starts a new daemon as soon as the old one answers no more.
func lockRoot(root string) (*rootLock, error) {
	path := filepath.Join(root, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the root: %w", err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		text, _ := io.ReadAll(io.NewSectionReader(f, 0, 64)) // only for the message
		line, _, _ := strings.Cut(string(text), "\n")
		pid, state, _ := strings.Cut(line, " ")
		wait := lockGrace
		if state == leaving || ending(pid) {
			wait = lockWait
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begin) > wait {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				if state == draining {
					return nil, fmt.Errorf("the boxbuildd (pid %s) that uses the root directory %s is going down: "+
						"it finishes its builds first", pid, root)
				}
				return nil, fmt.Errorf("another boxbuildd (pid %s) uses the root directory %s", pid, root)
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
	l := &rootLock{file: f}
	if err := l.write(fmt.Sprintf("%d\n", os.Getpid())); err != nil {
		l.release()
		return nil, fmt.Errorf("locking the root: %w", err)
	}
	return l, nil
}

// ending says whether a process is being taken apart, or gone: it has no memory any more.
func ending(pid string) bool {
	if pid == "" || strings.Trim(pid, "0123456789") != "" {
		return false
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	return err != nil || !strings.Contains(string(status), "\nVmSize:")
}

// drain tells who wants the lock why it is still taken.
func (l *rootLock) drain() {
	_ = l.write(fmt.Sprintf("%d %s\n", os.Getpid(), draining)) // it is only for a message
}

// leave tells who waits for the lock that it is about to be free.
func (l *rootLock) leave() {
	_ = l.write(fmt.Sprintf("%d %s\n", os.Getpid(), leaving)) // at worst a new daemon does not wait
}

// write replaces what the file says. Whoever reads it meanwhile finds the pid, if perhaps more lines than one.
func (l *rootLock) write(s string) error {
	if _, err := l.file.WriteAt([]byte(s), 0); err != nil {
		return err
	}
	return l.file.Truncate(int64(len(s)))
}

// release gives the lock back. The file stays: removing it would let two daemons hold locks of two files.
func (l *rootLock) release() { _ = l.file.Close() }
