package crash

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// files counts the descriptors of the daemon.
func (h *host) files() int {
	h.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.daemon.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(list)
}

// upgrade sends a request that turns into a stream, and returns the connection, of which nothing has been read.
func (h *host) upgrade(path, body string) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(h.addr, "unix://"))
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	if err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// TestOutputs has containers write without end to who does not read, who goes away, and to nobody: what is kept of it is
// bounded, and when all have gone nothing of them stays in the daemon (CVE-2022-31030, CVE-2022-23471, CVE-2025-64329,
// CVE-2026-53495).
func TestOutputs(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	id := strings.TrimSpace(h.must("", "run", "-d", "-t", "--log-opt", "max-size=1m", "--health-cmd", "head -c 50000000 /dev/zero | tr '\\0' x; true",
		"--health-interval", "100ms", "busybox", "sh", "-c", "sleep 1000000"))
	exec := func(command string) string {
		body, err := json.Marshal(map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": []string{"sh", "-c", command}})
		if err != nil {
			t.Fatal(err)
		}
		code, text := h.api(http.MethodPost, "/containers/"+id+"/exec", body, "Content-Type: application/json")
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(text), &made); err != nil || code != http.StatusCreated {
			t.Fatalf("%d %s", code, text)
		}
		return made.ID
	}
	h.eventually("a health check ends", func() bool {
		return strings.TrimSpace(h.must("", "inspect", "-f", "{{len .State.Health.Log}}", id)) != "0"
	})
	if n := len(h.must("", "inspect", "-f", "{{range .State.Health.Log}}{{.Output}}{{end}}", id)); n > 5*5000 {
		t.Errorf("%d bytes of what health checks wrote are kept", n)
	}
	before, had := h.rss(), h.files()
	for i := range many(12, 1000) {
		var open []net.Conn
		open = append(open, h.upgrade("/containers/"+id+"/attach?stream=1&stdout=1&stderr=1&stdin=1", ""))
		if i%3 == 0 {
			// Endless, and one whose streams a child keeps when it has ended.
			open = append(open, h.upgrade("/exec/"+exec("yes")+"/start", "{}"), h.upgrade("/exec/"+exec("sleep 5 & yes | head -c 10000000")+"/start", "{}"))
			_, _ = io.ReadFull(open[1], make([]byte, 1<<10))
			h.api(http.MethodPost, "/exec/"+exec("exit")+"/resize?h=10&w=10", nil)
		}
		for _, c := range open {
			_ = c.Close()
		}
	}
	grown := h.rss() - before
	h.must("", "kill", id)
	h.must("", "rm", "-f", id)
	h.eventually("nothing of them is left", func() bool { return h.files() <= had })
	if grown > 100 || h.rss() > before+100 {
		t.Errorf("the daemon grew from %.0f by %.0f MiB, and has %.0f", before, grown, h.rss())
	}
	t.Logf("files: %d before, %d after; memory: %.0f MiB, %.0f more meanwhile, %.0f after", had, h.files(), before, grown, h.rss())
}
