//go:build cgo

// Command boxshim starts sandboxes for a boxbuild daemon. It is not meant to be run by hand.
//
// The daemon runs "boxshim pool" once, in a new pid namespace, with one end of a socket pair as descriptor 3. The pool
// starts sandboxes on request and ends them all when the daemon goes: the other end of the socket closes, and the
// kernel kills the pool, with the pid namespace whose first process it is. "boxshim init" is what libcontainer
// executes for each process of a sandbox; "boxshim --" is the minimal init that a sandbox may ask for.
//
// It is a program of its own because libcontainer re-executes /proc/self/exe for every sandbox, so that its size is
// paid for by every RUN; hence it links nothing that sandboxes don't need.
//
// "boxshim container" keeps one container, with its streams, its log and the record of how it ended, and outlives the
// daemon that has started it: package keep says how. "boxshim ports" carries connections to published ports, answers for
// containers' DNS servers while no daemon is there, and outlives the daemon as well: package carry.
package main

import (
	"fmt"
	"os"
	"runtime"

	_ "github.com/opencontainers/runc/libcontainer/nsenter" // its C constructor enters the namespaces of "boxshim init"

	"github.com/boxbuild/boxbuild/executor/libcontainer"
	"github.com/boxbuild/boxbuild/worker/network/portmap/carry"
)

func init() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "init":
		libcontainer.Init()
	case len(os.Args) > 1 && (os.Args[1] == "pool" || os.Args[1] == "container"):
		// The library has threads join the mount namespaces of sandboxes, and relies on that they end with the goroutine that
		// was locked to them. The main thread does not end: it would stay there, and keep the sandbox's root mounted and what
		// was deleted in it on the disk. So it is given to the main goroutine, which does nothing but wait.
		runtime.LockOSThread()
	}
}

const usage = `usage: boxshim pool SCRATCH CGROUP
       boxshim container SCRATCH
       boxshim ports
       boxshim -- COMMAND [ARGUMENT...]
boxshim starts sandboxes for boxbuildd, which runs it.`

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "boxshim:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 3 && args[0] == "pool":
		done := make(chan error)
		go func() { done <- pool(args[1], args[2]) }()
		if err := <-done; err != nil {
			return 1, err
		}
		return 0, nil
	case len(args) == 2 && args[0] == "container":
		done := make(chan error)
		go func() { done <- container(args[1]) }()
		if err := <-done; err != nil {
			return 1, err
		}
		return 0, nil
	case len(args) == 1 && args[0] == "ports":
		if err := carry.Serve(os.NewFile(connFD, "listener")); err != nil {
			return 1, err
		}
		return 0, nil
	case len(args) == 1 && args[0] == libcontainer.FilterMode:
		if err := libcontainer.CompileFilter(); err != nil {
			return 1, err
		}
		return 0, nil
	}
	return 2, fmt.Errorf("bad arguments\n%s", usage)
}
