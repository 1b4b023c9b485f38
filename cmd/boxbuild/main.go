// Boxbuild is the command line of boxbuild. Each command turns its flags into one typed request to the daemon and
// prints the answer; it links none of the engine, and so starts in a few milliseconds.
//
// With no daemon listening, and no address given, a command starts boxbuildd itself (start.go).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// version and revision, the commit that was built, are set by the linker. Without it the compiler's note of the commit counts.
var version, revision = "dev", ""

func main() {
	ctx, stop := interruptible()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: config.OSEnv(), keepSignals: stop}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// An app is one call of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            config.Env
	cfg            *config.Client
	conn           *grpc.ClientConn // see connect
	api            *client.Client   // see engine
	keepSignals    func()           // makes the command, and not main, answer signals
}

// An interrupt is the cause with which the context ends when the user interrupts.
type interrupt struct{ signal syscall.Signal }

func (i interrupt) Error() string { return "interrupted by " + i.signal.String() }

// lastWords is how long an interrupted program may take to end by itself: it may wait for whoever writes its standard
// input or reads its output, and nothing but its end ends that.
const lastWords = 3 * time.Second

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP cancels. A second one ends the program at
// once, whatever it waits for, and so does the end of lastWords. The function that it returns ends that.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		var late <-chan time.Time
		var sig syscall.Signal
		for {
			select {
			case s := <-signals:
				sig, _ = s.(syscall.Signal)
				if late != nil {
					os.Exit(128 + int(sig))
				}
				late = time.After(lastWords)
				cancel(interrupt{sig})
			case <-late:
				os.Exit(128 + int(sig))
			case <-done:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() { signal.Stop(signals); close(done) })
}
