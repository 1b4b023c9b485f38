// Boxbuildd is the daemon of boxbuild: it hosts one store and serves builds and images on one socket.
//
// Life cycle: read the configuration, take the root's lock, build the worker (wire.go), listen, serve. On a signal the
// daemon drains: it lets no more builds in and waits for those that run, until they end, the drain timeout has passed, or
// another signal comes. Then, or when it was idle for long enough, it takes no more calls, cancels what runs, closes the
// worker and gives the lock back. Users stop before what they use, and that part ends within stopTimeout; a third signal
// does not wait for it.
//
// Lock order: gate.mu and presence.mu are leaves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// version and revision, the commit that was built, are set by the linker. Without it the compiler's note of the commit counts.
var version, revision = "dev", ""

// The first thread of the process is main's. What has to be done in other namespaces is done on threads that end with it,
// which the first one cannot do: it would stay there, hold what is mounted there, and be what /proc/<pid> shows.
func init() { runtime.LockOSThread() }

func main() {
	// A third signal must end the program whatever it does, so there is room for all of them.
	signals := make(chan os.Signal, patience)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	// These are taken and forgotten. If they were ignored instead, every program that the daemon starts would begin with them
	// ignored: containers and steps too, whose shells could not even trap them.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGPIPE)
	err := run(os.Args[1:], process{
		env: config.OSEnv(), stdout: os.Stdout, stderr: os.Stderr, signals: signals, worker: newWorker,
		abort: func() { os.Exit(1) }, needsRoot: true,
	})
	switch {
	case err == nil || errors.Is(err, pflag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "boxbuildd:", err)
		os.Exit(1)
	}
}

// A process is what the daemon gets from outside.
type process struct {
	env            config.Env
	stdout, stderr io.Writer
	signals        <-chan os.Signal
	abort          func() // ends the process at once
	needsRoot      bool   // whatever the worker does, others may not
	worker         func(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (*daemon, error)
}

// run is the daemon from start to end.
func run(args []string, p process) error {
	flags := pflag.NewFlagSet("boxbuildd", pflag.ContinueOnError)
	flags.SetOutput(p.stdout)
	flags.SortFlags = false
	flags.Usage = func() {
		fmt.Fprintf(p.stdout, "Usage:  boxbuildd [OPTIONS]\n\nThe daemon of boxbuild\n\n%s", config.FlagUsages(flags))
	}
	showVersion := flags.BoolP("version", "v", false, "Print version information and quit")
	cfg := config.NewDaemon(flags, p.env)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *showVersion {
		fmt.Fprintln(p.stdout, "boxbuildd version", version)
		return nil
	}
	if err := cfg.Load(flags); err != nil {
		return err
	}
	if p.needsRoot && p.env.UID != 0 {
		return fmt.Errorf("it has to be started by root, and this is user %d", p.env.UID)
	}
	// Modes are those that the code says, whatever the umask of who starts the daemon.
	unix.Umask(0o022)
	if err := makeRoot(cfg.Root); err != nil {
		return err
	}
	lock, err := lockRoot(cfg.Root)
	if err != nil {
		return err
	}
	defer lock.release()
	log, closeLog, err := openLog(&cfg.Log, p.stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	limitMemory(int64(cfg.MemoryLimit), p.env)
	return serve(cfg, p, lock, log)
}

// makeRoot makes the root directory. Layers in it hold set-user-ID programs of strangers: nobody else gets in.
func makeRoot(root string) error {
	if err := os.MkdirAll(root, socketDirMode); err != nil {
		return fmt.Errorf("making the root directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return fmt.Errorf("making the root directory: %w", err)
	}
	if own := uint32(os.Geteuid()); st.Uid != own {
		return fmt.Errorf("the root directory %s belongs to user %d, and this daemon runs as user %d", root, st.Uid, own)
	}
	if err := os.Chmod(root, socketDirMode); err != nil {
		return fmt.Errorf("making the root directory: %w", err)
	}
	logs := filepath.Join(root, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the root directory: %w", err)
	}
	if err := os.Chmod(logs, 0o700); err != nil {
		return fmt.Errorf("making the root directory: %w", err)
	}
	return nil
}

// openLog opens what the configuration says.
func openLog(cfg *config.Log, stderr io.Writer) (*slog.Logger, func(), error) {
	level, err := cfg.SlogLevel()
	if err != nil {
		return nil, nil, err
	}
	out, closeLog := stderr, func() {}
	if cfg.File != "" {
		f, err := os.OpenFile(cfg.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("opening the log: %w", err)
		}
		out, closeLog = f, func() { _ = f.Close() } // each line has been written already
	}
	opt := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, opt)), closeLog, nil
	}
	return slog.New(slog.NewTextHandler(out, opt)), closeLog, nil
}
