package crash

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHugeFiles builds contexts in which what the daemon reads as a whole is huge, never ends, or is no file: the daemon does
// not grow with it, nor wait for it, and says what is too large (CVE-2026-93323).
func TestHugeFiles(t *testing.T) {
	h := newHost(t, "")
	h.start()
	h.importBusybox()
	h.must("FROM busybox\nRUN true\n", "build", "-q", "-")
	before := h.rss()
	const dockerfile = "FROM busybox\nCOPY . /all\n"
	for name, files := range map[string]map[string]string{
		"Dockerfile":              {},
		".dockerignore":           {"Dockerfile": dockerfile},
		"Dockerfile.dockerignore": {"Dockerfile": dockerfile},
	} {
		for kind, put := range map[string]func(path string) error{
			"sparse": func(path string) error {
				return errors.Join(os.WriteFile(path, []byte("x"), 0o644), os.Truncate(path, int64(many(200, 2048))<<20))
			},
			"fifo":  func(path string) error { return unix.Mkfifo(path, 0o644) },
			"zeros": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		} {
			dir := h.context(files)
			if err := put(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			// A file of patterns that is no regular file counts as none.
			if r := h.run("", "build", "-q", dir); r.err == nil && (name == "Dockerfile" || kind == "sparse") {
				t.Errorf("%s, %s: built", name, kind)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := h.rss(); after > before+100 {
		t.Errorf("the daemon grew from %.0f to %.0f MiB", before, after)
	}
	h.must("", "version")
}
