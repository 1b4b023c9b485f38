package shim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// start starts a sandbox that the test's end closes.
func start(t testing.TB, e executor.Executor, spec *executor.Spec) executor.Sandbox {
	t.Helper()
	b, err := e.Start(context.Background(), spec, executor.IO{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func execIn(t testing.TB, b executor.Sandbox, p *executor.Process) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	exit, err := b.Exec(context.Background(), p, executor.IO{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), exit}
}

// A canary is a directory outside every root, to which nothing may happen.
type canary struct {
	dir  string
	want string
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ptmx"), "canary", 0o640)
	write(t, filepath.Join(dir, "null"), "canary", 0o640)
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o710); err != nil {
		t.Fatal(err)
	}
	return &canary{dir: dir, want: snapshot(t, dir)}
}

func (c *canary) check(t *testing.T) {
	t.Helper()
	if got := snapshot(t, c.dir); got != c.want {
		t.Errorf("outside the root, there was\n%sand now there is\n%s", c.want, got)
	}
}

// snapshot describes a directory tree with contents, modes and times.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(p + " " + fi.Mode().String() + " " + fi.ModTime().String())
		if fi.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(data))
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// running says whether any process on the machine has marker in its command line.
func running(t testing.TB, marker string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && bytes.Contains(data, []byte(marker)) {
			return true
		}
	}
	return false
}
