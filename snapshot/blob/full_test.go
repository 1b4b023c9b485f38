package blob

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A download that finds no room gives back the room that it has taken, whereas one that breaks off stays to be resumed.
func TestResumeFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16)
	for _, c := range []struct {
		size int // of what is written before the download ends
		want error
		left int
	}{{1000, nil, 1}, {len(data), unix.ENOSPC, 0}, {1000, nil, 1}} {
		w, err := s.Resume(t.Context(), descOf(data))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[w.Offset():c.size]); !errors.Is(err, c.want) {
			t.Errorf("writing %d bytes: got %v, want %v", c.size, err, c.want)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := files(t, s); len(got) != c.left {
			t.Errorf("after %d bytes there are %q", c.size, got)
		}
	}
}
