package terminal

import (
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept are the signals that are this program's own affair: children, the window's size, which has a call of its own, a
// reader that has gone, and the one that Go's runtime interrupts itself with.
var kept = []os.Signal{unix.SIGCHLD, unix.SIGWINCH, unix.SIGPIPE, unix.SIGURG}

// Forward calls kill with the name of each signal that the program receives, without SIG, or its number, until stop is called, which
// waits for the last call. Meanwhile no signal ends the program.
func Forward(kill func(name string)) (stop func()) {
	signals := make(chan os.Signal, 128)
	signal.Notify(signals)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s := <-signals:
				if name := name(s); name != "" {
					kill(name)
				}
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(quit)
		<-done
	}
}

// name is what a signal is called; "" for one that is not passed on.
func name(s os.Signal) string {
	n, ok := s.(syscall.Signal)
	if !ok || slices.Contains(kept, s) {
		return ""
	}
	if name := unix.SignalName(n); name != "" {
		return name[len("SIG"):]
	}
	return strconv.Itoa(int(n)) // one of the real-time signals
}
