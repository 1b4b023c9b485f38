package run_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/solver/op"
)

// TestCacheMountRace checks that a step which mounts a part of a cache never sees or writes what is outside, while another
// exchanges that part for a link to the host, absolute or relative (CVE-2024-23651, CVE-2024-11218).
func TestCacheMountRace(t *testing.T) {
	r := newRig(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "file")
	if err := os.WriteFile(secret, []byte("canary\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cache := func(sub string) op.ExecMount {
		return op.ExecMount{
			Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/m", Selector: sub, Cache: op.CacheMount{ID: "shared"},
		}
	}
	links := "mkdir -p /m/sub/deep && echo inside > /m/sub/file && echo inside > /m/sub/deep/file && ln -s " + outside + " /m/abs && " +
		"ln -s " + strings.Repeat("../", 30) + outside[1:] + " /m/rel"
	r.run(sh(r.busybox(), links, cache("")))
	dirs, err := filepath.Glob(filepath.Join(r.dir, "cache", "*", "sub"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("the cache is at %q, %v", dirs, err)
	}
	dir := filepath.Dir(dirs[0])
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				to := []string{"abs", "rel"}[i/2%2]
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "sub"), unix.AT_FDCWD, filepath.Join(dir, to), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for i := range 10 {
		for _, sub := range []string{"sub", "sub/deep"} {
			script := fmt.Sprintf("cat /m/file /m/sub/file; echo x > /m/new; grep ' /m ' /proc/self/mountinfo; : %d", i)
			_, _ = r.solve(t.Context(), sh(r.busybox(), script+"; true", cache(sub))) // the link leads nowhere inside
		}
	}
	close(stop)
	<-done
	log := r.log.String()
	if strings.Contains(log, "canary") || strings.Contains(log, outside+" /m") {
		t.Errorf("a step has seen what is outside:\n%s", log)
	}
	if !strings.Contains(log, "inside") {
		t.Errorf("no step has seen the cache: nothing was tried\n%s", log)
	}
	entries, err := os.ReadDir(outside)
	text, _ := os.ReadFile(secret)
	if err != nil || len(entries) != 1 || string(text) != "canary\n" {
		t.Errorf("outside there are %v, %q, %v", entries, text, err)
	}
}
