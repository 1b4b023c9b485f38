//go:build cgo

package libcontainer

/*
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// What boxshim_reap does before the command is executed, in its process.
static int run(char **argv, const sigset_t *mask) {
	setpgid(0, 0);
	tcsetpgrp(0, getpid()); // an error without a terminal
	signal(SIGTTIN, SIG_DFL);
	signal(SIGTTOU, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	int err = errno;
	fprintf(stderr, "exec %s: %s\n", argv[0], strerror(err));
	_exit(err == ENOENT ? 127 : 126);
}

// The minimal init: runs a command as the first process of a sandbox has to. It hands signals on, reaps whatever becomes
// its child, and ends as the command did. It is here, before Go's runtime begins, as that would keep some MiB of memory
// and half a dozen threads for it.
int boxshim_reap(char **argv) {
	sigset_t all, mask;
	sigfillset(&all);
	const int faults[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS};
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
		sigdelset(&all, faults[i]);
	sigprocmask(SIG_SETMASK, &all, &mask);
	signal(SIGTTIN, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	pid_t child = fork();
	if (child < 0) {
		perror("fork");
		return 126;
	}
	if (child == 0)
		run(argv, &mask);
	for (;;) {
		int sig = sigwaitinfo(&all, NULL);
		if (sig < 0)
			continue; // EINTR
		if (sig != SIGCHLD) {
			kill(child, sig);
			continue;
		}
		for (;;) {
			int status;
			pid_t pid = waitpid(-1, &status, WNOHANG);
			if (pid < 0 && errno == EINTR)
				continue;
			if (pid <= 0)
				break;
			if (pid == child)
				return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		}
	}
}
*/
import "C"

// InitMode is the argument with which this program is the minimal init; the command follows.
const InitMode = "--"
