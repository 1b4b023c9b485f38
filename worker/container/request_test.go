package container

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cdi"
)

// TestVendorRuntime checks that a request for GPUs for which there is no description is the vendor's runtime's, where that is
// installed: as docker has it, by a variable of the container's and, with NVIDIA's, a hook.
func TestVendorRuntime(t *testing.T) {
	gpu := [][]string{{"gpu"}}
	for _, tc := range []struct {
		program string
		req     container.DeviceRequest
		env     string
		hooks   int
	}{
		{"nvidia-container-runtime-hook", container.DeviceRequest{Count: -1, Capabilities: gpu}, "NVIDIA_VISIBLE_DEVICES=all", 1},
		{"nvidia-container-runtime-hook", container.DeviceRequest{Count: 2, Capabilities: gpu}, "NVIDIA_VISIBLE_DEVICES=0,1", 1},
		{"nvidia-container-runtime-hook", container.DeviceRequest{Capabilities: gpu}, "NVIDIA_VISIBLE_DEVICES=void", 1},
		{
			"nvidia-container-runtime-hook",
			container.DeviceRequest{DeviceIDs: []string{"GPU-1", "3"}, Capabilities: [][]string{{"gpu", "utility", "compute"}}},
			"NVIDIA_VISIBLE_DEVICES=GPU-1,3 NVIDIA_DRIVER_CAPABILITIES=utility,compute", 1,
		},
		{"amd-container-runtime", container.DeviceRequest{Count: -1, Capabilities: gpu}, "AMD_VISIBLE_DEVICES=all", 0},
		{"amd-container-runtime", container.DeviceRequest{Driver: "amd", Count: 1, Capabilities: gpu}, "AMD_VISIBLE_DEVICES=0", 0},
	} {
		f := newFixture(t)
		bin := t.TempDir()
		f.must(os.WriteFile(filepath.Join(bin, tc.program), []byte("#!/bin/sh\n"), 0o755))
		t.Setenv("PATH", bin)
		req := request("true")
		req.Config.Env = []string{"NVIDIA_VISIBLE_DEVICES=the-image's", "AMD_VISIBLE_DEVICES=the-image's"}
		req.HostConfig.DeviceRequests = []container.DeviceRequest{tc.req}
		spec := f.specOf(f.run(req))
		for _, kv := range strings.Fields(tc.env) {
			if !slices.Contains(spec.Process.Env, kv) {
				t.Errorf("%+v: the environment is %q, want %s", tc.req, spec.Process.Env, kv)
			}
		}
		if len(spec.Hooks) != tc.hooks {
			t.Errorf("%+v: the hooks are %+v", tc.req, spec.Hooks)
		}
		for _, h := range spec.Hooks {
			if h.Stage != executor.Prestart || h.Path != filepath.Join(bin, tc.program) || !slices.Equal(h.Args, []string{tc.program, "prestart"}) || h.Env != nil {
				t.Errorf("%+v: the hook is %+v", tc.req, h)
			}
		}
	}
}

// TestDescribedFirst checks that a description of GPUs is taken before a vendor's runtime, that devices which several requests
// name are given once, and that what their description says takes the place of what the image says.
func TestDescribedFirst(t *testing.T) {
	f := newFixture(t)
	bin, dir := t.TempDir(), t.TempDir()
	f.must(os.WriteFile(filepath.Join(bin, "nvidia-container-runtime-hook"), []byte("#!/bin/sh\n"), 0o755))
	t.Setenv("PATH", bin)
	f.must(os.WriteFile(filepath.Join(dir, "amd.json"), []byte(`{"cdiVersion": "0.6.0", "kind": "amd.com/gpu", "devices": [
{"name": "0", "containerEdits": {"env": ["AMD_VISIBLE_DEVICES=void"], "hooks": [{"hookName": "poststop", "path": "/bin/x"}]}}]}`), 0o600))
	f.deps.Devices = cdi.New(cdi.Options{Dirs: []string{dir}})
	req := request("true")
	req.Config.Env = []string{"AMD_VISIBLE_DEVICES=the-image's"}
	req.HostConfig.DeviceRequests = []container.DeviceRequest{
		{Driver: "amd", Count: 1, Capabilities: [][]string{{"gpu"}}},
		{Driver: "cdi", DeviceIDs: []string{"amd.com/gpu=0"}},
	}
	spec := f.specOf(f.run(req))
	if len(spec.Hooks) != 1 || spec.Hooks[0].Path != "/bin/x" {
		t.Errorf("the hooks are %+v", spec.Hooks)
	}
	var got []string
	for _, kv := range spec.Process.Env {
		if strings.HasPrefix(kv, "AMD_") {
			got = append(got, kv)
		}
	}
	if want := []string{"AMD_VISIBLE_DEVICES=void"}; !slices.Equal(got, want) {
		t.Errorf("the variables are %q, want %q", got, want)
	}
	// Described again, otherwise: the next start has it.
	f.must(os.Remove(filepath.Join(dir, "amd.json")))
	req.HostConfig.DeviceRequests = req.HostConfig.DeviceRequests[1:]
	f.want(f.Start(context.Background(), f.create(req)), "CDI device injection failed: unresolvable CDI devices amd.com/gpu=0")
	f.deps.Devices = nil
	f.want(f.Start(context.Background(), f.create(req)), `could not select device driver "cdi" with capabilities: []`)
}

// specOf returns what the container was made of.
func (f *fixture) specOf(id string) *executor.Spec {
	f.Helper()
	c, err := f.find(id)
	f.must(err)
	return f.host.Spec(c.dir())
}
