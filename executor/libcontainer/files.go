//go:build cgo

package libcontainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// A limit on open files bounds the numbers of new descriptors. It is meant for the command; but libcontainer's code, which
// opens some twenty files to make a sandbox, would work under it from its first line on. So the limit is kept from it until
// the parent sets it, when all but a handful have been opened, and those that stay open have numbers beyond the limit.

// limitsFiles says whether the command has a limit on open files.
func limitsFiles(list []configs.Rlimit) bool {
	return slices.ContainsFunc(list, func(l configs.Rlimit) bool { return l.Type == unix.RLIMIT_NOFILE })
}

// keepFiles keeps this process's own limit on open files until its parent sets the command's. libcontainer sets the latter at
// once, for no other reason than that Go forgets the limit which this process was started with and would set again at
// execve. That is done here. With sent, its configuration is still to be read, and loses the limits; nothing else in this
// process uses them.
func keepFiles(sent bool) error {
	var own syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own)
	if err == nil {
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &own)
	}
	if err != nil {
		return fmt.Errorf("keeping the limit on open files: %w", err)
	}
	if !sent {
		return outOfTheWay()
	}
	fd, err := configFD()
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	pipe := os.NewFile(uintptr(fd), "init")
	defer pipe.Close()
	var config map[string]json.RawMessage
	if err := json.NewDecoder(pipe).Decode(&config); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	delete(config, "rlimits")
	f, err := inMemory(config)
	if err != nil {
		return err
	}
	defer f.Close()
	if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("replacing the configuration: %w", err)
	}
	if err := replaceConfig(fd, true); err != nil { // which closes it
		return err
	}
	return outOfTheWay()
}

// highFD is from where on descriptors are out of the way of a limit on open files. It and what comes after is in the table that
// each process begins with (64): to make that larger takes an RCU grace period.
const highFD = 40

// outOfTheWay moves the descriptors that libcontainer's code uses up to highFD. Its parent sets the limits of the command
// before this process has opened its last file (later it may not, if the process has changed its user), so that with low
// ones too few of the numbers that may still be opened would be free.
func outOfTheWay() error {
	for _, name := range []string{"SYNCPIPE", "INITPIPE", "LOGPIPE", "FIFOFD", "CONSOLE", "PIDFD_SOCK"} {
		name = "_LIBCONTAINER_" + name
		fd, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			continue // not of this process
		}
		high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, highFD)
		if err == nil {
			err = os.Setenv(name, strconv.Itoa(high))
		}
		if err != nil {
			return fmt.Errorf("moving descriptor %d: %w", fd, err)
		}
		unix.Close(fd)
	}
	return raisePoller()
}

// raisePoller has Go's runtime open the descriptors that it waits with, at its first file that can be waited for, when all
// numbers up to highFD are taken.
func raisePoller() error {
	var taken []int
	defer func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
	}()
	for {
		fd, err := unix.FcntlInt(attachFD, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("taking descriptors: %w", err)
		}
		if fd >= highFD {
			unix.Close(fd)
			break
		}
		taken = append(taken, fd)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	return errors.Join(r.Close(), w.Close())
}
