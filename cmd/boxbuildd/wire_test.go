package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// TestSnapshotterOfRoot checks that the snapshots of a root are never read by another snapshotter than the one which made
// them, and that "auto" goes on with that one.
func TestSnapshotterOfRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	open := func(root, asked string) (string, error) {
		w := &wiring{cfg: &config.Daemon{Root: root, Snapshotter: asked}, log: slog.New(slog.DiscardHandler)}
		err := w.openMeta()
		if err == nil {
			err = w.openSnapshots(t.Context())
		}
		if cerr := w.close(); cerr != nil {
			t.Error(cerr)
		}
		return w.snapshotter, err
	}
	for _, tc := range []struct{ made, other string }{{"native", "overlay"}, {"overlay", "native"}} {
		root := t.TempDir()
		for _, asked := range []string{tc.made, "auto", tc.made} {
			if got, err := open(root, asked); err != nil || got != tc.made {
				t.Errorf("%s on a root of %s: got %s, %v", asked, tc.made, got, err)
			}
		}
		if _, err := open(root, tc.other); err == nil || !strings.Contains(err.Error(), tc.made) {
			t.Errorf("%s on a root of %s: got %v, want an error that names the latter", tc.other, tc.made, err)
		}
	}
	root := t.TempDir()
	got, err := open(root, "auto")
	if b, rerr := os.ReadFile(filepath.Join(root, snapshotterFile)); err != nil || rerr != nil || strings.TrimSpace(string(b)) != got {
		t.Errorf("a new root: %s, %v; it says %q, %v", got, err, b, rerr)
	}
}
