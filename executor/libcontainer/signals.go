//go:build cgo

package libcontainer

/*
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Has no signal ignored or blocked in a new process of a sandbox, whatever is in the one that has started the daemon: nohup
// ignores HUP, and a shell whatever it was told to. Both are inherited through every program in between, and what is ignored
// from the start a shell cannot trap. Go's runtime does not undo it: it leaves HUP, INT and those of job control ignored, and
// its threads inherit what is blocked. So this is done before there are any.
//
// The system calls are made directly, as the library hides the two signals that it would use itself.
void boxshim_signals(void) {
	struct {
		void *handler;
		unsigned long rest[15];
	} action;
	const unsigned long none = 0; // the kernel's set: a bit for each of 64 signals
	for (int sig = 1; sig <= 64; sig++) {
		memset(&action, 0, sizeof action);
		if (syscall(SYS_rt_sigaction, sig, NULL, &action, sizeof none) || (void (*)(int))action.handler != SIG_IGN)
			continue;
		memset(&action, 0, sizeof action); // SIG_DFL
		syscall(SYS_rt_sigaction, sig, &action, NULL, sizeof none);
	}
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
}
*/
import "C"
