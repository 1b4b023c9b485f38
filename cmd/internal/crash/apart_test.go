package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestApart runs many containers and steps at once, each with variables of its own: each has its own, exactly, and sees no
// process but its own (CVE-2021-3602, CVE-2021-21334, CVE-2020-14370).
func TestApart(t *testing.T) {
	t.Setenv("SECRET_CANARY", secret)
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	const script = "env | sort; for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ; done; ls -d /proc/[0-9]* | wc -l"
	n := many(24, 200)
	outs := make([]result, 2*n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			outs[2*i] = h.run("", "run", "--rm", "--network", "none", "-e", fmt.Sprintf("OWN=%d-own", i), "busybox", "sh", "-c", script)
		})
		wg.Go(func() {
			outs[2*i+1] = h.run(fmt.Sprintf("FROM busybox\nENV OWN=%d-own\nRUN %s\n", i, script), "build", "--network", "none", "--progress", "plain", "-")
		})
	}
	wg.Wait()
	for i, r := range outs {
		all := r.stdout + r.stderr
		own := fmt.Sprintf("OWN=%d-own", i/2)
		if r.err != nil || !strings.Contains(all, own) || strings.Contains(all, secret) || strings.Contains(all, "BOXBUILD_") {
			t.Errorf("%d: %v", i, r)
		}
		for line := range strings.Lines(all) {
			if j := strings.Index(line, "OWN="); j >= 0 && !strings.Contains(line, own) {
				t.Errorf("%d has another's variable: %s", i, line)
			}
		}
	}
}

// TestNothingOutside checks what the daemon has outside of its root while it runs builds and containers: no socket in the
// abstract name space, which everybody on the host's network could connect to (CVE-2020-15257), and no file in the directory
// for temporary ones, where names could be guessed and others could read (CVE-2020-27534, CVE-2025-4953).
func TestNothingOutside(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	h := newHost(t, tmp)
	h.start()
	h.importBusybox()
	id := strings.TrimSpace(h.must("", "run", "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "1000000"))
	dir := h.context(map[string]string{
		"Dockerfile": "FROM busybox\nADD x.tar /x\nCOPY . /y\nRUN --mount=type=secret,id=s sleep 1002; cat /run/secrets/s\n", "s": secret, "x.tar": string(writeTar(file("f", "x"))),
	})
	c := h.call(nil, "build", "--secret", "id=s,src="+dir+"/s", dir)
	h.eventually("the step runs", func() bool { return h.sandboxes() >= 2 })

	abstract := map[string]string{} // by inode
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
			abstract["socket:["+f[6]+"]"] = f[7]
		}
	}
	pids := []string{fmt.Sprint(h.daemon.Process.Pid)}
	for _, p := range h.processes() {
		pids = append(pids, strings.Fields(p)[1])
	}
	seen := 0
	for _, pid := range pids {
		fds, err := filepath.Glob("/proc/" + pid + "/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			to, err := os.Readlink(fd)
			if err == nil && strings.HasPrefix(to, "socket:") {
				seen++
			}
			if name := abstract[to]; name != "" {
				t.Errorf("process %s has the socket %s", pid, name)
			}
		}
	}
	if seen == 0 || len(pids) < 3 {
		t.Errorf("%d sockets of the processes %q: nothing was looked at", seen, pids)
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"root", filepath.Base(h.dir)} // the test's own
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			t.Errorf("there is %s", e.Name())
		}
	}
	c.end()
	h.must("", "rm", "-f", id)
}
