package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

const (
	// startTimeout is how long a daemon may take until it answers: after a crash it may have a store to check.
	startTimeout = time.Minute
	// tailBytes is how much of the log of a daemon that died is shown.
	tailBytes = 4 << 10
)

// away says whether err means that no daemon is there, or that it is just leaving.
func away(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		boxbuildv1.KindOf(err) == boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE
}

// startDaemon starts boxbuildd, apart from this process and its terminal, and waits until it answers. Of several
// clients that find no daemon at once, one starts it and the others wait for that.
func (a *app) startDaemon(ctx context.Context, to destination) error {
	if a.env.UID != 0 { // it would fail, and leave a root behind
		return fmt.Errorf("no daemon listens at %s, and only root can start one: use sudo, or give the address of one that runs and lets you in, "+
			`such as --addr "unix:///run/boxbuild/boxbuild.sock"`, a.cfg.Addr)
	}
	program, err := findDaemon()
	if err != nil {
		return err
	}
	logFile := config.LogFile(a.cfg.Root)
	for _, dir := range []string{a.cfg.Root, filepath.Dir(logFile)} {
		if err := os.MkdirAll(dir, 0o710); err != nil {
			return fmt.Errorf("starting boxbuildd: %w", err)
		}
	}
	unlock, err := lockFile(ctx, filepath.Join(a.cfg.Root, "start.lock"))
	if err != nil {
		return fmt.Errorf("starting boxbuildd: %w", err)
	}
	defer unlock()
	if conn, err := dial(ctx, to); err == nil {
		return conn.Close() // another client was faster
	}
	log, err := os.OpenFile(logFile, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("starting boxbuildd: %w", err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("starting boxbuildd: %w", err)
	}
	cmd := exec.Command(program, "--root", a.cfg.Root, "--addr", a.cfg.Addr,
		"--idle-timeout", a.cfg.IdleTimeout.String())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = daemonEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.cfg.Debug {
		cmd.Args = append(cmd.Args, "--debug")
		fmt.Fprintln(a.stderr, "starting", strings.Join(cmd.Args, " "))
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting boxbuildd: %w", err)
	}
	died := make(chan error, 1)
	// It waits for a process that is to outlive this one; it ends with the program at the latest.
	go func() { died <- cmd.Wait() }()
	return awaitDaemon(ctx, to, died, func(why error) error {
		return fmt.Errorf("starting boxbuildd: %w\n%s", why, tail(log, begin))
	})
}

// awaitDaemon waits until the daemon answers.
func awaitDaemon(ctx context.Context, to destination, died <-chan error, fail func(error) error) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		conn, err := dial(ctx, to)
		if err == nil {
			return conn.Close()
		}
		if !away(err) {
			return fail(err)
		}
		select {
		case err := <-died:
			if err == nil {
				err = errors.New("it ended at once")
			}
			return fail(err)
		case <-deadline.C:
			return fail(fmt.Errorf("it does not answer after %v", startTimeout))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// findDaemon looks beside this program, then on PATH.
func findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "boxbuildd")
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath("boxbuildd")
	if err != nil {
		return "", errors.New("no daemon is running, and boxbuildd, which would be started, is neither beside boxbuild nor on PATH")
	}
	return filepath.Abs(path)
}

// daemonEnv keeps what a daemon needs of an environment: it outlives this call, and the caller's secrets are none of
// its business.
func daemonEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch upper := strings.ToUpper(name); {
		case upper == "PATH", upper == "HOME", upper == "USER", upper == "LANG", upper == "TMPDIR", upper == "TZ",
			upper == "HTTP_PROXY", upper == "HTTPS_PROXY", upper == "NO_PROXY", upper == "ALL_PROXY",
			upper == "SSL_CERT_FILE", upper == "SSL_CERT_DIR", upper == "GODEBUG", upper == "GOMEMLIMIT", upper == "GOGC",
			upper == "GOMAXPROCS", strings.HasPrefix(upper, "XDG_"), strings.HasPrefix(upper, "BOXBUILD_"),
			strings.HasPrefix(upper, "OTEL_"): // where its traces go
			out = append(out, kv)
		}
	}
	return out
}

// lockFile takes the lock of a file. It waits for it, but not longer than ctx.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil // closing gives the lock back
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tail returns the end of what was written to log since begin.
func tail(log *os.File, begin int64) string {
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	begin = max(begin, end-tailBytes)
	text, err := io.ReadAll(io.NewSectionReader(log, begin, end-begin))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(text), "\n")
}
