package terminal

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Follow calls resize with the size of the terminal that out is, now and whenever it changes, until stop is called, which
// waits for the last call. Nothing happens if out is no terminal.
func Follow(ctx context.Context, out any, resize func(ctx context.Context, rows, cols uint) error) (stop func()) {
	if !Is(out) {
		return func() {}
	}
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if rows, cols := Size(out); rows > 0 && cols > 0 {
				_ = resize(ctx, rows, cols) // the process may have ended; else it keeps the size that it has
			}
			select {
			case <-changes:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(changes)
		cancel()
		<-done
	}
}
