package crash

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// secret is what stands in the canary's files: where it shows, something was read that must not be.
const secret = "canary-4f1c9e"

// A canary is a tree outside of every store and every context, that nothing may touch or read.
type canary struct {
	dir  string
	want string
}

func newCanary(t testing.TB) *canary {
	t.Helper()
	dir, err := os.MkdirTemp("", "canary")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"file", "ptmx", "passwd", "group", "resolv.conf", "hosts", "null", "d/f", "d/stub"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(secret), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	c := &canary{dir: dir}
	c.want = c.state(t)
	return c
}

// state describes names, modes, owners, times and contents.
func (c *canary) state(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d:%d links %d changed %v", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Ctim)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(data))
		}
		fmt.Fprintln(&b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// check fails the test if the canary has been touched, or if its text stands in one of the outputs.
func (c *canary) check(t testing.TB, what string, outputs ...string) {
	t.Helper()
	if got := c.state(t); got != c.want {
		t.Errorf("%s: the canary was\n%sand is\n%s", what, c.want, got)
		c.want = got
	}
	for _, o := range outputs {
		if strings.Contains(o, secret) {
			t.Errorf("%s: the canary's text shows in\n%s", what, o[:min(len(o), 2000)])
		}
	}
}
