package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// TestMain makes this binary boxbuildd too, with a worker in memory.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"boxbuildd": func() {
		signals := make(chan os.Signal, patience)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		if err := run(os.Args[1:], process{
			env: config.OSEnv(), stdout: os.Stdout, stderr: os.Stderr, signals: signals, worker: fakeWorker,
			abort: func() { os.Exit(1) },
		}); err != nil {
			fmt.Fprintln(os.Stderr, "boxbuildd:", err)
			os.Exit(1)
		}
	}})
}

func fakeWorker(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (*daemon, error) {
	if why := os.Getenv("BOXBUILD_TEST_BROKEN"); why != "" {
		return nil, errors.New(why)
	}
	images := &workertest.Images{}
	tel, err := newTelemetry(ctx, cfg, images, log)
	if err != nil {
		return nil, err
	}
	received, err := filesync.NewStore(filepath.Join(cfg.Root, "received"), 0)
	if err != nil {
		return nil, err
	}
	return &daemon{
		ReceiveDirectory: func(_ context.Context, s filesync.Stream) (filesync.Source, error) {
			return filesync.Remote(s, received, filesync.RemoteOptions{}), nil
		},
		Builder: tel.Wrap(&workertest.Builder{Images: images}), Telemetry: tel, Images: images, OpenDirectory: workertest.OpenDirectory,
		Platform: op.Platform{OS: "linux", Architecture: "amd64"},
		Close: func() error {
			if os.Getenv("BOXBUILD_TEST_STUCK") != "" {
				select {}
			}
			return nil
		},
	}, nil
}

// TestScript runs the scripts with the real command line beside the daemon.
func TestScript(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: nobody else can start a daemon")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "../boxbuild")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building boxbuild: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// The path of a socket is short, and that of a script's directory may not be.
			dir, err := os.MkdirTemp("", "bd")
			if err != nil {
				return err
			}
			root := filepath.Join(dir, "r")
			env.Defer(func() {
				for _, r := range []string{root, root + "2"} {
					end(env.T(), r)
				}
				_ = os.RemoveAll(dir)
			})
			certs := filepath.Join(dir, "certs")
			if err := os.Mkdir(certs, 0o700); err != nil {
				return err
			}
			if err := makeCertificates(certs); err != nil {
				return err
			}
			env.Setenv("CERTS", certs)
			env.Setenv("R", root)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("BOXBUILD_IDLE_TIMEOUT", "1m")
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mode": mode, "awaitgone": awaitGone, "awaitfile": awaitFile, "signal": signalDaemon, "address": address,
		},
	})
}

// holder returns the pid of the daemon that uses root; 0 if none does.
func holder(root string) int {
	text, err := os.ReadFile(filepath.Join(root, "lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.Fields(string(text) + " 0")[0])
	if err != nil || pid == 0 {
		return 0
	}
	// A pid may be another process's by now: only one that has the lock file open counts.
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == filepath.Join(root, "lock") {
			return pid
		}
	}
	return 0
}

// end ends the daemon of root.
func end(t testscript.T, root string) {
	for pid := holder(root); pid != 0 && pid == holder(root); time.Sleep(5 * time.Millisecond) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Log("ending a daemon: ", err)
		}
	}
}

// mode checks type and permissions of a file: mode Srw-rw---- path.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	st, err := os.Lstat(args[1])
	ts.Check(err)
	if got := st.Mode().String(); got != args[0] || neg {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// awaitgone waits until no daemon uses the root.
func awaitGone(ts *testscript.TestScript, _ bool, args []string) {
	for holder(args[0]) != 0 {
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitfile waits until a file is there.
func awaitFile(_ *testscript.TestScript, _ bool, args []string) {
	for {
		if _, err := os.Lstat(args[0]); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// signal sends a signal to the daemon of a root: signal TERM root.
func signalDaemon(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	pid := holder(args[1])
	if pid == 0 || sig == 0 {
		ts.Fatalf("no daemon uses %s, or no signal %s", args[1], args[0])
	}
	ts.Check(syscall.Kill(pid, sig))
}

// address sets a variable to the address of a kind that a daemon has written to its log: address TCP tcp log.
func address(ts *testscript.TestScript, _ bool, args []string) {
	for {
		log, err := os.ReadFile(ts.MkAbs(args[2]))
		if err == nil {
			for word := range strings.FieldsSeq(strings.NewReplacer("[", " ", "]", " ", "addr=", " ").Replace(string(log))) {
				if strings.HasPrefix(word, args[1]+"://") {
					ts.Setenv(args[0], strings.TrimPrefix(word, args[1]+"://"))
					return
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}
