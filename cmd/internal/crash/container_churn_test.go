package crash

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// many returns how much of something is to be done: the whole of it if CRASH_LONG is set, for a test by hand.
func many(short, long int) int {
	if os.Getenv("CRASH_LONG") != "" {
		return long
	}
	return short
}

// inventory counts what containers take: of the machine, of the daemon, and of the root.
func (h *host) inventory() string {
	h.t.Helper()
	var b strings.Builder
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.daemon.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	fmt.Fprintln(&b, "mounts", strings.Count(string(mounts), h.root),
		"processes", len(h.processes()), "cgroups", len(h.cgroups()), "devices", len(h.devices()))
	rules, err := exec.Command("nft", "list", "table", "inet", "boxbuild_"+h.id+"_run").Output()
	if err != nil {
		h.t.Fatalf("listing rules: %v", err)
	}
	fmt.Fprintln(&b, "rules", strings.Count(string(rules), "\n"), strings.Count(string(rules), " . "), strings.Count(string(rules), "dnat"))
	for _, dir := range []string{"containers", "netns", "volumes", "snapshots", "snapshotter"} {
		n := 0
		err := filepath.WalkDir(filepath.Join(h.root, dir), func(_ string, _ fs.DirEntry, err error) error {
			n++
			return err
		})
		if err != nil {
			n = -1 // something went while it was walked
		}
		fmt.Fprintln(&b, "files in", dir, n)
	}
	return b.String()
}

// churn starts and removes containers in the ways that users do, width at a time.
func (h *host) churn(count, width int) {
	h.t.Helper()
	work := make(chan int)
	var wg sync.WaitGroup
	for range width {
		wg.Go(func() {
			for i := range work {
				h.oneContainer(i)
			}
		})
	}
	for i := range count {
		work <- i
	}
	close(work)
	wg.Wait()
}

func (h *host) oneContainer(i int) {
	check := func(args ...string) {
		if r := h.run("", args...); r.err != nil {
			h.t.Errorf("boxbuild %s: %v", strings.Join(args, " "), r)
		}
	}
	name := fmt.Sprint("churn", i)
	switch i % 5 {
	case 0:
		check("run", "--rm", "--name", name, "busybox", "true")
	case 1:
		check("run", "-d", "--name", name, "-p", "127.0.0.1::80", "busybox", "sleep", "1000000")
		check("exec", name, "true")
		check("rm", "-f", name)
	case 2:
		check("run", "-d", "--name", name, "--network", "none", "-v", "/data", "--tmpfs", "/t", "busybox", "sleep", "1000000")
		check("stop", "-t", "0", name)
		check("start", name)
		check("rm", "-f", "-v", name)
	case 3:
		check("create", "--name", name, "--init", "busybox", "sleep", "1000000")
		check("start", name)
		check("pause", name)
		check("rm", "-f", name)
	case 4:
		if r := h.run("", "run", "--rm", "--name", name, "-p", "80", "busybox", "/missing"); r.err == nil {
			h.t.Error("a container without a program runs")
		}
		check("run", "--rm", "-t", "--name", name, "--restart", "no", "busybox", "sh", "-c", "exit 0")
	}
}

// TestContainerChurn checks that of containers that have been removed nothing is left while the daemon goes on.
func TestContainerChurn(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	h.churn(20, 10)
	var before string
	h.eventually("all of the first containers goes", func() bool {
		before = h.inventory()
		return strings.Contains(before, "mounts 0 ") && strings.Contains(before, "devices 1\n") // the bridge
	})
	fds := h.fds()
	h.churn(many(40, 200), many(20, 50))
	var after string
	defer func() {
		if t.Failed() {
			t.Logf("before:\n%safter:\n%s", before, after)
		}
	}()
	h.eventually("all of the containers goes", func() bool { after = h.inventory(); return after == before })
	// Namespaces are kept ready by descriptors, a few or all of them.
	if now := h.fds(); now > fds+20 {
		t.Errorf("there were %d descriptors, and are %d", fds, now)
	}
	if out := h.must("", "ps", "-aq"); out != "" {
		t.Errorf("containers are left: %s", out)
	}
	if out := h.must("", "volume", "ls", "-q"); out != "" {
		t.Errorf("volumes are left: %s", out)
	}
}

// A fate is what is known of a container: what was done to it before the daemon died.
type fate struct {
	name, state string // state as inspect tells it: "running 0", "exited 7"; "" when it is removed; "?" while it changes
}

// live starts containers and ends them, until the daemon does not answer any more.
func (h *host) live(rnd *rand.Rand, prefix string, fates *[]*fate) {
	do := func(f *fate, state string, args ...string) bool {
		f.state = "?"
		r := h.run("", args...)
		if r.err != nil {
			return false
		}
		f.state = state
		return true
	}
	for i := 0; ; i++ {
		f := &fate{name: fmt.Sprint(prefix, i), state: "?"}
		*fates = append(*fates, f)
		network := []string{"none", "bridge"}[rnd.IntN(2)]
		alive := true
		switch rnd.IntN(3) {
		case 0:
			// The command line ends when the container does, and says what it said.
			r := h.run("", "run", "--name", f.name, "--network", network, "busybox", "sh", "-c", "exit 7")
			if alive = strings.Contains(fmt.Sprint(r.err), "exit status 7"); alive {
				f.state = "exited 7"
			}
		case 1:
			alive = do(f, "running 0", "run", "-d", "--name", f.name, "-v", "/data", "--network", network, "busybox", "sleep", "1000000")
		case 2:
			alive = do(f, "created 0", "create", "--name", f.name, "--network", network, "busybox", "sleep", "1000000")
		}
		if alive && rnd.IntN(2) == 0 {
			old := (*fates)[rnd.IntN(len(*fates))]
			switch {
			case old.state == "" || old.state == "?":
			case rnd.IntN(2) == 0 && old.state == "running 0":
				alive = do(old, "exited 137", "stop", "-t", "0", old.name)
			default:
				alive = do(old, "", "rm", "-f", "-v", old.name)
			}
		}
		if !alive {
			return
		}
	}
}

// verify compares what the daemon says with what is known, and with the processes that there are.
func (h *host) verify(fates []*fate) {
	h.t.Helper()
	const format = "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"
	for _, f := range fates {
		r := h.run("", "inspect", "--type", "container", "-f", format, f.name)
		if r.err != nil {
			if f.state != "" && f.state != "?" {
				h.t.Errorf("%s is gone, and was %s: %v", f.name, f.state, r)
			}
			f.state = ""
			continue
		}
		var status string
		var code, pid int
		if _, err := fmt.Sscan(r.stdout, &status, &code, &pid); err != nil {
			h.t.Fatalf("%s: %q: %v", f.name, r.stdout, err)
		}
		got := fmt.Sprint(status, " ", code)
		if f.state != "?" && got != f.state {
			h.t.Errorf("%s is %q, and was %q", f.name, got, f.state)
		}
		_, err := os.Stat(fmt.Sprintf("/proc/%d/cmdline", pid))
		if runs := pid != 0 && err == nil; runs != (status == "running") {
			h.t.Errorf("%s is %s, and its process %d runs: %v", f.name, status, pid, runs)
		}
		f.state = got
	}
}

// TestContainersDaemonKilled kills the daemon at any moment while containers start and end: the next daemon knows the
// state of each of them right away, what ran runs on, and when all are removed nothing is left.
func TestContainersDaemonKilled(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	rnd := random(t)
	const width = 3
	all := make([][]*fate, width)
	for round := range many(4, 30) {
		var wg sync.WaitGroup
		for i := range width {
			own := rand.New(rand.NewPCG(rnd.Uint64(), 0))
			wg.Go(func() { h.live(own, fmt.Sprintf("c%d-%d-", round, i), &all[i]) })
		}
		var mark strings.Builder
		for range rnd.IntN(6) + 1 {
			mark.WriteString(h.run("", "ps", "-q").stdout)
		}
		h.kill()
		wg.Wait()
		h.start()
		for i := range all {
			h.verify(all[i])
		}
	}
	ids := strings.Fields(h.must("", "ps", "-aq"))
	t.Logf("%d containers are there", len(ids))
	for _, id := range ids {
		h.must("", "rm", "-f", "-v", id)
	}
	if out := h.must("", "volume", "ls", "-q"); out != "" {
		t.Errorf("volumes are left: %s", out)
	}
	if left, err := os.ReadDir(filepath.Join(h.root, "containers")); err != nil || len(left) > 0 {
		t.Errorf("directories are left: %v, %v", left, err)
	}
}
