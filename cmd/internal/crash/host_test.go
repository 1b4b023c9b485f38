package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long is waited for what must happen. Only a hang is ever waited for so long.
const patience = 60 * time.Second

// needs returns the directories that the tests use, or skips.
func needs(t testing.TB) (bin, bases string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bin, bases = os.Getenv("BOXBUILD_BIN"), os.Getenv("BOXBUILD_BASES")
	if bin == "" || bases == "" {
		t.Skip("needs BOXBUILD_BIN (boxbuild, boxbuildd, boxshim) and BOXBUILD_BASES (busybox.tar); see make test")
	}
	for _, f := range []string{bin + "/boxbuild", bin + "/boxbuildd", bin + "/boxshim", bases + "/busybox.tar"} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("needs %s: run make build bases", f)
		}
	}
	return bin, bases
}

// A host is a root directory and the daemons that use it, one after the other.
type host struct {
	t          testing.TB
	bin, bases string
	dir        string // all files of the test
	root       string
	addr       string
	id         string // what the daemon calls its bridge, table and cgroup by

	daemon *exec.Cmd     // nil if none runs
	ended  chan struct{} // closed when daemon has ended
	log    logBuffer

	troubled bool // the daemon may end with an error

	programs string // a tar of busybox's programs, once it was needed
}

// newHost makes a host without a daemon. Its root is below dir, a new directory if that is "".
func newHost(t testing.TB, dir string) *host {
	t.Helper()
	bin, bases := needs(t)
	// The path of a socket must be short: that of t.TempDir may be too long.
	work, err := os.MkdirTemp("", "crash")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if dir == "" {
		root = filepath.Join(work, "root")
	}
	sum := sha256.Sum256([]byte(root))
	h := &host{
		t: t, bin: bin, bases: bases, dir: work, root: root, addr: "unix://" + filepath.Join(work, "sock"),
		id: hex.EncodeToString(sum[:4]),
	}
	t.Cleanup(func() {
		h.stop()
		h.checkClean()
		if t.Failed() {
			t.Logf("the daemons' log:\n%s", h.log.tail(8<<10))
		}
		if err := os.RemoveAll(work); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start starts a daemon and waits until it answers.
func (h *host) start(args ...string) {
	h.t.Helper()
	cmd, ended := h.launch(args...)
	h.eventually("the daemon answers", func() bool {
		select {
		case <-ended:
			h.t.Fatalf("the daemon ended while starting: %v\n%s", cmd.ProcessState, h.log.tail(4<<10))
		default:
		}
		return h.run("", "version").err == nil
	})
}

// launch starts a daemon.
func (h *host) launch(args ...string) (*exec.Cmd, <-chan struct{}) {
	h.t.Helper()
	h.daemon = exec.Command(h.bin+"/boxbuildd", append([]string{"--root", h.root, "--addr", h.addr}, args...)...)
	h.daemon.Stdout, h.daemon.Stderr = &h.log, &h.log
	h.daemon.Env = append(os.Environ(), "BOXBUILD_ROOT=", "BOXBUILD_ADDR=")
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	cmd, ended := h.daemon, make(chan struct{})
	h.ended = ended
	go func() {
		_ = cmd.Wait() // the exit code is in ProcessState
		close(ended)
	}()
	return cmd, ended
}

// stop asks the daemon to stop and returns how long that took.
func (h *host) stop() time.Duration {
	h.t.Helper()
	return h.end(syscall.SIGTERM)
}

// kill ends the daemon as a crash does.
func (h *host) kill() {
	h.t.Helper()
	h.end(syscall.SIGKILL)
}

func (h *host) end(sig syscall.Signal) time.Duration {
	h.t.Helper()
	if h.daemon == nil {
		return 0
	}
	begin := time.Now()
	_ = h.daemon.Process.Signal(sig) // it may have ended
	select {
	case <-h.ended:
	case <-time.After(patience):
		_ = h.daemon.Process.Kill()
		<-h.ended
		h.t.Errorf("the daemon did not end after %v", sig)
	}
	if sig == syscall.SIGTERM && !h.troubled && !h.daemon.ProcessState.Success() {
		h.t.Errorf("the daemon ended with %v", h.daemon.ProcessState)
	}
	h.daemon = nil
	return time.Since(begin)
}

// A result is what came of a command.
type result struct {
	stdout, stderr string
	err            error
}

func (r result) String() string { return fmt.Sprintf("%v\n%s%s", r.err, r.stdout, r.stderr) }

// command prepares a call of the command line.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.bin+"/boxbuild", append([]string{"--addr", h.addr}, args...)...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "BOXBUILD_ROOT=", "BOXBUILD_ADDR=", "HOME="+h.dir, "DOCKER_CONFIG="+h.dir+"/docker")
	return cmd
}

// run calls the command line with stdin and waits for it; one that hangs fails the test.
func (h *host) run(stdin string, args ...string) result {
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return result{err: err}
	}
	hung := time.AfterFunc(2*patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	if !hung.Stop() {
		err = fmt.Errorf("boxbuild %s hangs: %w", strings.Join(args, " "), err)
		h.t.Error(err)
	}
	return result{stdout.String(), stderr.String(), err}
}

// must is run of what has to succeed.
func (h *host) must(stdin string, args ...string) string {
	h.t.Helper()
	r := h.run(stdin, args...)
	if r.err != nil {
		h.t.Fatalf("boxbuild %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// mustFail is run of what has to fail, with each of the words in what it says.
func (h *host) mustFail(stdin string, args []string, words ...string) {
	h.t.Helper()
	r := h.run(stdin, args...)
	if r.err == nil {
		h.t.Errorf("boxbuild %s: succeeds", strings.Join(args, " "))
		return
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			h.t.Errorf("boxbuild %s: want %q in\n%s", strings.Join(args, " "), w, r.stderr)
		}
	}
}

// importBusybox imports the base image.
func (h *host) importBusybox() {
	h.t.Helper()
	h.must("", "import", h.bases+"/busybox.tar", "busybox")
}

// context writes a build context and returns its path. A name that ends in "@" is a symbolic link.
func (h *host) context(files map[string]string) string {
	h.t.Helper()
	dir, err := os.MkdirTemp(h.dir, "context")
	if err != nil {
		h.t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, strings.TrimSuffix(name, "@"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			h.t.Fatal(err)
		}
		if strings.HasSuffix(name, "@") {
			err = os.Symlink(text, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return dir
}

// eventually waits until something is so.
func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			h.t.Fatalf("this does not come true: %s\n%s", what, h.log.tail(4<<10))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A logBuffer takes what daemons write.
type logBuffer struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

// tail returns the last n bytes.
func (l *logBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b[max(0, len(l.b)-n):])
}
