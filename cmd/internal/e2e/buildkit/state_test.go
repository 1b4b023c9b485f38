package buildkit

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// observed starts a daemon that can be looked into.
func observed(t *testing.T, flags ...string) *daemon {
	t.Helper()
	return observedIn(t, "", flags...)
}

// observedIn is observed with a root in that directory; "" for one of its own.
func observedIn(t *testing.T, parent string, flags ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "bkd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := startIn(t, parent, append(flags, "--debugaddr", "unix://"+filepath.Join(dir, "d"))...)
	d.debug = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // a connection of ours is a goroutine of the daemon's
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "d"))
		},
	}}
	return d
}

// profile asks the daemon for a page of its debug address.
func (d *daemon) profile(page string) string {
	d.t.Helper()
	resp, err := d.debug.Get("http://daemon/debug/pprof/" + page)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// A state is what a daemon holds. Pools of what is kept ready (sandboxes, networks) are part of it.
type state struct {
	goroutines map[string]int // by what started them
	fds        map[string]int // by what they are open on
	mounts     int
	drafts     []string // files under way in the root
	resumable  bool     // downloads that were broken off may be there
}

var (
	created  = regexp.MustCompile(`(?m)^created by (\S+)`)
	numbered = regexp.MustCompile(`\[\d+\]|\d+`)
)

// state looks.
func (d *daemon) state() state {
	d.t.Helper()
	s := state{goroutines: map[string]int{}, fds: map[string]int{}}
	for g := range strings.SplitSeq(d.profile("goroutine?debug=2"), "\n\n") {
		if m := created.FindStringSubmatch(g); m != nil && !strings.Contains(g, "net/http") {
			s.goroutines[m[1]]++
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			s.fds[numbered.ReplaceAllString(strings.TrimPrefix(to, d.root), "#")]++
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	s.mounts = strings.Count(string(mounts), d.root)
	s.drafts = drafts(d.root)
	return s
}

// drafts are the files in a root that somebody writes, or has left.
func drafts(root string) []string {
	var out []string
	for _, pattern := range []string{
		"snapshots/new-*", "blobs/ingest/*", "blobs/partial/*", "received/new/*", "git/tmp/*", "tmp/*",
	} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			panic(err) // the pattern is wrong
		}
		out = append(out, found...)
	}
	return out
}

// slack is how many of one kind may be more than before, since pools fill up as they like; networks is how many of these
// are kept ready at rest.
const slack, networks = 8, 32

// more says what s has that was has not.
func (s state) more(was state) []string {
	var out []string
	if s.fds["net:#"] <= networks+slack {
		delete(s.fds, "net:#")
	}
	for name, n := range s.goroutines {
		if n > was.goroutines[name]+slack {
			out = append(out, fmt.Sprintf("goroutines of %s: %d, were %d", name, n, was.goroutines[name]))
		}
	}
	for name, n := range s.fds {
		if n > was.fds[name]+slack {
			out = append(out, fmt.Sprintf("files %s: %d, were %d", name, n, was.fds[name]))
		}
	}
	if s.mounts > was.mounts {
		out = append(out, fmt.Sprintf("mounts: %d, were %d", s.mounts, was.mounts))
	}
	slices.Sort(out)
	for _, f := range s.drafts {
		if !was.resumable || !strings.Contains(f, "/blobs/partial/") {
			out = append(out, f)
		}
	}
	return out
}

// restful waits until the daemon holds what it held before, and fails the test if it does not come to that.
func (d *daemon) restful(was state) {
	d.t.Helper()
	var more []string
	if !comes(func() bool {
		more = d.state().more(was)
		return len(more) == 0
	}) {
		d.t.Errorf("the daemon holds more than before:\n%s", strings.Join(more, "\n"))
	}
}

// anonymous is how many MiB of memory of its own the daemon has: neither its program nor its databases, which are mapped.
// Garbage is not.
func (d *daemon) anonymous() float64 {
	d.t.Helper()
	d.profile("heap?gc=1")
	return d.memory("RssAnon")
}

// memory is a figure of the daemon's status in MiB.
func (d *daemon) memory(figure string) float64 {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	m := regexp.MustCompile(figure + `:\s*(\d+) kB`).FindSubmatch(text)
	if m == nil {
		d.t.Fatalf("no %s in the daemon's status", figure)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		d.t.Fatal(err)
	}
	return float64(kb) / 1024
}

// heap is how many KiB are in use on the daemon's heap, after it has been swept.
func (d *daemon) heap() int {
	d.t.Helper()
	m := regexp.MustCompile(`# HeapAlloc = (\d+)`).FindStringSubmatch(d.profile("heap?gc=1&debug=1"))
	if m == nil {
		d.t.Fatal("no HeapAlloc in the profile")
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		d.t.Fatal(err)
	}
	return n / 1024
}

// keep writes a profile where LOAD_PROFILE says, if it does.
func (d *daemon) keep(page string) {
	d.t.Helper()
	if path := os.Getenv("LOAD_PROFILE"); path != "" {
		if err := os.WriteFile(path, []byte(d.profile(page)), 0o644); err != nil {
			d.t.Error(err)
		}
	}
}
