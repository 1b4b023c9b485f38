package engine

import (
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// Before version 1.44 a bind that is read-only is so by itself, and not what is mounted below its source.
func TestReadOnlyBefore144(t *testing.T) {
	for minor, old := range map[int]bool{24: true, 41: true, 43: true, 44: false, 56: false} {
		req := &worker.ContainerCreate{CreateRequest: container.CreateRequest{
			Config: &container.Config{}, NetworkingConfig: &network.NetworkingConfig{},
			HostConfig: &container.HostConfig{Mounts: []mount.Mount{
				{Type: mount.TypeBind, Source: "/a", Target: "/b", ReadOnly: true}, {Type: mount.TypeBind, Source: "/c", Target: "/d"},
			}},
		}}
		if err := adapt(req, version{1, minor}); err != nil {
			t.Fatal(err)
		}
		if req.ReadOnlyTop != old {
			t.Errorf("1.%d: binds are read-only by themselves: %v", minor, req.ReadOnlyTop)
		}
		for i, want := range []bool{old, false} {
			if o := req.HostConfig.Mounts[i].BindOptions; o != nil && o.ReadOnlyNonRecursive != want || o == nil && want {
				t.Errorf("1.%d: mount %d has %+v", minor, i, o)
			}
		}
	}
}
