package builder

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A pipe that nobody writes to is refused, and not waited for.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if b, err := readRegular(root, "pipe", 0, 0); err == nil {
		t.Errorf("a pipe gives %q", b)
	}
	if b, err := readRegular(root, "file", 2, 3); err != nil || string(b) != "234" {
		t.Errorf("a file gives %q, %v", b, err)
	}
}
