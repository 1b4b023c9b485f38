package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/executor/shim"
)

// After its shim was killed, a Keeper has a new one for all who want sandboxes; after Close it has none.
func TestKeeper(t *testing.T) {
	needsRoot(t)
	root, _ := newRoot(t)
	parent := fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1))
	k, err := shim.Keep(context.Background(), shim.Options{Binary: binary, Dir: t.TempDir(), Log: testLog{t}, CgroupParent: parent})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b := start(t, k, sh(root, "sleep 1000"))
		killShim(t)
		if exit, err := b.Wait(context.Background()); !errors.Is(err, shim.ErrShimEnded) {
			t.Errorf("Wait: %+v, %v", exit, err)
		}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if r, err := tryRun(k, sh(root, "echo $((6*7))")); err != nil || r.out != "42\n" {
					t.Errorf("after the end of a shim: %+v, %v", r, err)
				}
			})
		}
		all.Wait()
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := tryRun(k, sh(root, "true")); !errors.Is(err, shim.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if left := cgroupsOf(t, parent); len(left) > 0 {
		t.Errorf("cgroups are left: %q", left)
	}
}
