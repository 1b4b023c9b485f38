package hugepage_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/hugepage"
)

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

func memory(t *testing.T, content []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// A sealed file has the same content afterwards, whatever its size, is as sealed as before, and what has it mapped sees no change;
// also where it cannot be collapsed.
func TestSameContent(t *testing.T) {
	for _, size := range []int{0, 1, hugepage.Size - 1, hugepage.Size, 2*hugepage.Size + 4097} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(rand.Uint32())
		}
		f := memory(t, content)
		var mapped []byte
		if size > 0 {
			var err error
			if mapped, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Munmap(mapped) }()
			if !bytes.Equal(mapped, content) { // which reads all pages
				t.Fatal("a mapping has other content")
			}
		}
		if err := hugepage.Collapse(f); err != nil {
			t.Logf("%d bytes: %v", size, err) // as on a kernel before 6.1
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, int64(size)+1))
		if err != nil || !bytes.Equal(got, content) || !bytes.Equal(mapped, content) {
			t.Errorf("%d bytes: the content has changed: %v", size, err)
		}
		if have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || have != seals {
			t.Errorf("%d bytes: seals %#x, want %#x: %v", size, have, seals, err)
		}
		if _, err := f.WriteAt([]byte{1}, 0); size > 0 && err == nil {
			t.Errorf("%d bytes: it can be written to", size)
		}
	}
}

// What cannot be mapped is an error, and nothing else happens.
func TestNoFileInMemory(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := hugepage.Collapse(r); err != nil {
		t.Errorf("a pipe, which has no pages to collapse: %v", err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	name := f.Name()
	if err := f.Truncate(hugepage.Size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if f, err = os.OpenFile(name, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := hugepage.Collapse(f); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

// A program is executed as before while it is collapsed and afterwards.
func TestProgramRuns(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f := memory(t, self)
	done := make(chan error)
	go func() { done <- hugepage.Collapse(f) }()
	for range 5 {
		cmd := exec.Command("/proc/self/fd/3", "-test.run=^$")
		cmd.ExtraFiles = []*os.File{f}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	if err := <-done; err != nil {
		t.Logf("not collapsed: %v", err)
	}
}
