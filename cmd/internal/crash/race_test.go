package crash

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestPruneRace builds while all that can be removed is being removed, over and over: no build fails for it, and each has
// the right content.
func TestPruneRace(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	h.must("", "tag", "busybox", "base")
	const perClient = 15
	var builds, removals atomic.Int64
	stop := make(chan struct{})
	var removers, builders sync.WaitGroup
	remove := func(args ...string) {
		removers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if r := h.run("", args...); r.err == nil {
						removals.Add(1)
					}
				}
			}
		})
	}
	remove("prune", "-f")
	remove("builder", "prune", "-af")
	remove("rmi", "-f", "moving:a", "moving:b", "moving:c")
	for _, name := range []string{"a", "b", "c"} {
		c := newClient(h, nil, name, random(t))
		builders.Go(func() {
			for n := range perClient {
				text := c.next()
				round := n / 5
				args := []string{"build", "-q", "--build-arg", fmt.Sprint("ROUND=", round), "--build-arg", "V=0"}
				want := fmt.Sprintf("0:%s\n%sshared %d\n", text, text, round)
				if r := h.run("", append(args, "-t", "moving:"+name, "-t", fmt.Sprintf("own:%s%d", name, n), c.dir)...); r.err != nil {
					t.Errorf("a build fails: %v", r)
					return
				}
				builds.Add(1)
				r := h.run("", append(args, "-o", "-", c.dir)...)
				files, err := readTar(r.stdout)
				if r.err != nil || err != nil || files["result"] != want {
					t.Errorf("exporting: %v %s: got %q, want %q", err, r.stderr, files["result"], want)
					return
				}
				h.check(fmt.Sprintf("own:%s%d", name, n), want)
			}
		})
	}
	builders.Wait()
	close(stop)
	removers.Wait()
	t.Logf("%d builds, %d removals", builds.Load(), removals.Load())
	h.checkEmpties()
}
