package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// What a daemon might leave behind is seen: the other tests would pass without a check that works.
func TestLeftovers(t *testing.T) {
	needs(t)
	root := t.TempDir()
	dir := filepath.Join(root, "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(root, nil); len(left) != 0 {
		t.Fatalf("of nothing is left %q", left)
	}
	sum := sha256.Sum256([]byte(root))
	id := hex.EncodeToString(sum[:4])
	if err := syscall.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "1000")
	sleep.Dir = dir
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	clean := []func() error{
		func() error { _ = sleep.Wait(); return nil }, // it was killed
		sleep.Process.Kill,
		func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) },
	}
	t.Cleanup(func() {
		for _, f := range slices.Backward(clean) {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	})
	for _, c := range [][2]string{
		{"ip link add bx-" + id + " type bridge", "ip link del bx-" + id},
		{"nft add table ip boxbuild_" + id, "nft delete table ip boxbuild_" + id},
	} {
		for i, line := range c {
			run := func() error { return exec.Command("sh", "-c", line).Run() }
			if i == 1 {
				clean = append(clean, run)
			} else if err := run(); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	left := strings.Join(leftovers(root, nil), "\n")
	for _, want := range []string{"process ", "mount ", "/sys/class/net/bx-" + id, "table ip boxbuild_" + id} {
		if !strings.Contains(left, want) {
			t.Errorf("%q is not among what is left:\n%s", want, left)
		}
	}
}
