//go:build cgo

package libcontainer

/*
#cgo LDFLAGS: -Wl,--wrap=main
#include <string.h>
#include <sys/prctl.h>

int __real_main(int, char **, char **);
int boxshim_reap(char **);
void boxshim_signals(void);

// Runs before Go's runtime, and in "boxshim init" after the namespaces have been entered, in the last of the processes
// that nsenter makes.
int __wrap_main(int argc, char **argv, char **envp) {
	if (argc > 2 && !strcmp(argv[1], "--"))
		return boxshim_reap(argv + 2);
	if (argc > 1 && !strcmp(argv[1], "init")) {
		boxshim_signals();
		prctl(PR_SET_TIMERSLACK, 10 * 1000 * 1000UL, 0, 0, 0);
	}
	return __real_main(argc, argv, envp);
}
*/
import "C"

import "golang.org/x/sys/unix"

// resetSlack gives this thread its timer slack back: the default, which the sandbox's command is to have.
//
// The monitor thread of Go's runtime wakes up every 20 µs in a process that is busy, to look for system calls that keep
// goroutines from running. A new process has one goroutine, and is not helped; but each time it is interrupted, and on
// a virtual machine programming the timer and switching twice takes 10 µs. So the threads that the runtime makes before
// Go code runs get a timer slack of 10 ms, and sleep for about that long.
func resetSlack() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }
