package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// What lies in the upper directory of an overlay is a change only if it differs from what was there, as in docker: a file
// that was copied up alone is none, nor is the directory that it is in; what an opaque directory hides is one.
func TestUpperChanges(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	lower, upper := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(dir, name, content string) string {
		t.Helper()
		full := filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(full), 0o755))
		must(os.WriteFile(full, []byte(content), 0o644))
		return full
	}
	// up does what the kernel does when it copies a file up.
	up := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(lower, name))
		must(err)
		full := write(upper, name, string(content))
		fi, err := os.Stat(filepath.Join(lower, name))
		must(err)
		must(os.Chtimes(full, fi.ModTime(), fi.ModTime()))
		return full
	}
	for _, name := range []string{
		"same/f", "mode/f", "owner/f", "time/f", "size/f", "cap/f", "gone/f", "gone/kept", "opaque/f", "opaque/g", "dirmode/f",
		"dir/f", "file",
	} {
		write(lower, name, "x")
	}
	for _, name := range []string{"same/f", "mode/f", "owner/f", "time/f", "cap/f", "gone/kept", "opaque/g"} {
		up(name)
	}
	in := func(name string) string { return filepath.Join(upper, name) }
	must(os.Chmod(in("mode/f"), 0o600))
	must(os.Chown(in("owner/f"), 1, 0))
	must(os.Chtimes(in("time/f"), time.Unix(1e9, 0), time.Unix(1e9, 0)))
	write(upper, "size/f", "xy")
	// cap_net_raw, in version 2 of the attribute.
	must(unix.Setxattr(in("cap/f"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20"+strings.Repeat("\x00", 14)), 0))
	must(syscall.Mknod(in("gone/f"), syscall.S_IFCHR, 0))
	must(syscall.Mknod(in("gone/never"), syscall.S_IFCHR, 0))
	must(unix.Setxattr(in("opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	must(os.Mkdir(in("dirmode"), 0o700))
	write(upper, "dir", "now a file")
	write(upper, "file/new", "in what was a file")
	write(upper, "new/f", "x")
	must(syscall.Mkfifo(in("new/pipe"), 0o600))

	dir, err := os.Open(lower)
	must(err)
	defer dir.Close()
	list := func(ch *changes) (out []string) {
		t.Helper()
		must(ch.upper(t.Context(), upper, layer.Overlay))
		for _, c := range ch.sorted() {
			out = append(out, string("CAD"[c.Kind])+c.Path)
		}
		return out
	}
	want := strings.Fields(`C/cap C/cap/f C/dir C/dirmode C/file A/file/new C/gone D/gone/f C/mode C/mode/f A/new A/new/f A/new/pipe
		C/opaque D/opaque/f C/owner C/owner/f C/size C/size/f C/time C/time/f`)
	if got := list(&changes{lower: dir}); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := list(&changes{}); len(got) != 23 || slices.ContainsFunc(got, func(s string) bool { return s[0] != 'A' }) {
		t.Errorf("on nothing: %d: %v", len(got), got)
	}
}
