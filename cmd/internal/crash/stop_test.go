package crash

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A caller is a client that runs in the background.
type caller struct {
	*exec.Cmd
	stdout *os.File     // what it has written
	stderr bytes.Buffer // only once Wait has returned
}

// call starts a client in the background. Its standard output is a pipe that nobody reads.
func (h *host) call(stdin *os.File, args ...string) *caller {
	h.t.Helper()
	c := &caller{Cmd: h.command(args...)}
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { r.Close() })
	c.stdout = r
	c.Stdin, c.Stdout, c.Stderr = stdin, w, &c.stderr
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	w.Close()
	return c
}

// begun says whether a client has written anything to its standard output.
func (c *caller) begun(t testing.TB) bool { return waiting(t, c.stdout) > 0 }

// waiting returns how many bytes wait to be read from a pipe.
func waiting(t testing.TB, pipe *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// finish waits for a client. One that hangs has to say where.
func (c *caller) finish(t testing.TB, name string) error {
	t.Helper()
	hung := time.AfterFunc(patience, func() { _ = c.Process.Signal(syscall.SIGQUIT) })
	err := c.Wait()
	if !hung.Stop() {
		t.Errorf("%s hangs:\n%s", name, c.stderr.String())
	}
	return err
}

// pipe returns a pipe's ends, which the test closes.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestStop checks that a daemon that is told to stop does so in time whatever its clients do, and that each client that
// listens hears why.
func TestStop(t *testing.T) {
	h := newHost(t, "")
	h.start("--drain-timeout", "0") // else it would let the builds end
	h.importBusybox()
	stalled := registrytest.New(registrytest.Behaviour{})
	stalled.Fail(registrytest.Fault{Kind: registrytest.Blob, Delay: time.Minute})
	stalled.Fail(registrytest.Fault{Kind: registrytest.Manifest, Delay: time.Minute})
	stalled.Fail(registrytest.Fault{Kind: registrytest.Upload, Delay: time.Minute})
	reg := registrytest.Start(t, stalled)
	h.must("", "tag", "busybox", reg+"/busybox")

	stdin, feed := pipe(t)
	if _, err := feed.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	contexts := map[string]string{
		"sleep":   "FROM busybox\nRUN trap '' TERM INT HUP; sleep 1000 & sleep 2000\n",
		"output":  "FROM busybox\nRUN while :; do echo a line of text; done\n",
		"fork":    "FROM busybox\nRUN while :; do (setsid sleep 1000 &); sleep 0.05; done\n",
		"big":     "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=40\n",
		"unread":  "FROM busybox\nRUN sleep 1001\n",
		"pulling": "FROM " + reg + "/absent\n",
	}
	calls := map[string]*caller{
		"push":    h.call(nil, "push", reg+"/busybox"),
		"import":  h.call(stdin, "import", "-", "late"),
		"big":     h.call(nil, "build", "-q", "-o", "-", h.context(map[string]string{"Dockerfile": contexts["big"]})),
		"stopped": h.call(nil, "build", h.context(map[string]string{"Dockerfile": contexts["unread"]})),
	}
	for _, name := range []string{"sleep", "output", "fork", "pulling"} {
		calls[name] = h.call(nil, "build", "--progress", "plain", h.context(map[string]string{"Dockerfile": contexts[name]}))
	}
	h.eventually("all calls are in the middle of what they do", func() bool {
		asked := func(repository string) bool {
			return slices.ContainsFunc(stalled.Requests(), func(r registrytest.Request) bool { return strings.Contains(r.Path, repository) })
		}
		return h.runs("sleep\x002000\x00", "echo a line of text", "setsid sleep 1000", "sleep\x001001\x00") &&
			asked("/absent/") && asked("/busybox/") && calls["big"].begun(t) && waiting(t, stdin) == 0
	})
	if err := calls["stopped"].Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	took := h.stop()
	t.Logf("SIGTERM: ended after %v", took.Round(time.Millisecond))
	if took > patience/2 {
		t.Errorf("stopping took %v", took)
	}
	h.checkClean()
	if err := calls["stopped"].Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for name, c := range calls {
		if name == "big" || name == "import" {
			// One waits for its reader and one for its writer.
			_ = c.Process.Signal(syscall.SIGTERM)
		}
		if err := c.finish(t, name); err == nil {
			t.Errorf("%s: succeeds", name)
		}
		text := c.stderr.String()
		if name != "big" && name != "import" && name != "stopped" && !strings.Contains(text, "going down") {
			t.Errorf("%s: says %q", name, text[max(0, len(text)-300):])
		}
	}

	// What had ended is there afterwards.
	h.start()
	h.must("", "image", "inspect", "busybox")
	idle := h.stop()
	t.Logf("SIGTERM at rest: ended after %v", idle.Round(time.Millisecond))
	if idle > patience/4 {
		t.Errorf("stopping at rest took %v", idle)
	}
}
