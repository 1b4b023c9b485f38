package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClientKilled kills clients in each phase of a build. What they had started ends; nothing is held for them any
// more: when all that has a name is removed, the store is empty; and others are served.
func TestClientKilled(t *testing.T) {
	rnd := random(t)
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	many := map[string]string{"Dockerfile": "FROM busybox\nCOPY . /all\nRUN sleep 0.05\n"}
	for i := range 3000 {
		many[fmt.Sprintf("d%d/f%d", i%50, i)] = strings.Repeat(fmt.Sprint(i), 500)
	}
	many["Dockerfile.big"] = "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=30\n"
	dir := h.context(many)
	stdin, feed := pipe(t)
	if _, err := feed.WriteString("FROM busybox\n"); err != nil {
		t.Fatal(err)
	}
	quiet := func() bool { return h.sandboxes() == 0 }

	t.Run("reading the context", func(t *testing.T) {
		for i := range 12 {
			// Another time each time, so that nothing is found in the cache.
			now := time.Unix(int64(1e9+i), 0)
			if err := os.Chtimes(filepath.Join(dir, "d1/f1"), now, now); err != nil {
				t.Fatal(err)
			}
			c := h.call(nil, "build", "--no-cache", dir)
			time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
			c.end()
		}
		h.eventually("the steps end", quiet)
	})
	t.Run("sending the context", func(t *testing.T) {
		for range 4 {
			c := h.call(stdin, "build", "-")
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
			c.end()
		}
	})
	t.Run("RUN", func(t *testing.T) {
		c := h.call(nil, "build", "--no-cache", h.context(map[string]string{
			"Dockerfile": "FROM busybox\nRUN trap '' TERM; (setsid sleep 1002 &); sleep 1003\n",
		}))
		h.eventually("the step runs", func() bool { return h.sandboxes() >= 2 })
		begin := time.Now()
		c.end()
		h.eventually("the step ends", quiet)
		t.Logf("a step ended %v after its client", time.Since(begin).Round(time.Millisecond))
	})
	t.Run("two clients wait for one step", func(t *testing.T) {
		files := map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 1.5; echo > /shared\n"}
		a, b := h.call(nil, "build", h.context(files)), h.call(nil, "build", h.context(files))
		h.eventually("the step runs", func() bool { return h.sandboxes() > 0 })
		time.Sleep(300 * time.Millisecond)
		a.end()
		if err := b.Wait(); err != nil {
			t.Errorf("another client's build fails: %v\n%s", err, b.stderr.String())
		}
	})
	t.Run("export", func(t *testing.T) {
		c := h.call(nil, "build", "-q", "-f", dir+"/Dockerfile.big", "-o", "-", dir) // nobody reads
		h.eventually("the export begins", func() bool { return c.begun(t) })
		c.end()
		c = h.call(nil, "save", "busybox")
		h.eventually("the image is sent", func() bool { return c.begun(t) })
		c.end()
	})
	if h.must("", "info", "-f", "{{.ServerVersion}}") == "" {
		t.Error("no answer to info")
	}
	h.must("", "build", "-q", h.context(map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
	h.must("", "df")
	h.checkEmpties()
}

// end kills a client as a crash does.
func (c *caller) end() {
	_ = c.Process.Kill() // it may have ended
	_ = c.Wait()         // the error is the signal
}
