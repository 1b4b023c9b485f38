package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/worker"
)

// What a machine can do is told by its cgroup files: those of version 1, also beside an empty hierarchy of version 2, and
// those that version 2 gives to the groups below the root.
func TestFeatures(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"nothing", nil, nil},
		{"version 1", []string{
			"sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.oom_control", "sys/fs/cgroup/cpu/cpu.shares",
			"sys/fs/cgroup/pids/cgroup.procs", "sys/fs/cgroup/unified/cgroup.controllers",
		}, []string{"cpu-shares", "memory", "oom-kill-disable", "pids"}},
		{"version 2", []string{
			"sys/fs/cgroup/cgroup.controllers", "sys/fs/cgroup/init.scope/memory.max", "sys/fs/cgroup/init.scope/cpu.max",
			"sys/fs/cgroup/init.scope/memory.swap.max",
		}, []string{"cpu-period", "cpu-quota", "memory", "swap"}},
		{"no version 2 at the top", []string{"sys/fs/cgroup/unified/memory.max"}, nil},
		{"forwarding", []string{"proc/sys/net/ipv4/ip_forward"}, []string{"ipv4-forwarding"}},
	} {
		root := t.TempDir()
		for _, f := range tt.files {
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, f), []byte("1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := features(root); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What info shows as the runtimes and as the storage driver are the names that containers can ask for and that inspect shows.
func TestMachineNames(t *testing.T) {
	info := machineInfo(&boxbuildv1.InfoResponse{Snapshotter: "overlay"})
	if info.Driver != worker.StorageDriver("overlay") || info.Driver != "overlay2" {
		t.Errorf("the driver is %s", info.Driver)
	}
	if _, ok := info.Runtimes[info.DefaultRuntime]; !ok || info.DefaultRuntime != worker.DefaultRuntime {
		t.Errorf("the default runtime %s is none of %v", info.DefaultRuntime, info.Runtimes)
	}
	if got := slices.Sorted(maps.Keys(info.Runtimes)); !slices.Equal(got, slices.Sorted(slices.Values(worker.Runtimes))) {
		t.Errorf("runtimes are %v, want %v", got, worker.Runtimes)
	}
}

// The registries that info names are those of the configuration.
func TestMachineRegistries(t *testing.T) {
	var info boxbuildv1.InfoResponse
	machine(&info, &config.Daemon{Root: t.TempDir(), Registries: map[string]config.Registry{
		"docker.io": {Mirrors: []string{"mirror.example"}}, "b.example": {HTTP: true}, "a.example": {Insecure: true}, "c.example": {},
	}})
	if got := info.GetMirrors(); !slices.Equal(got, []string{"mirror.example"}) {
		t.Errorf("mirrors %v", got)
	}
	conf := machineInfo(&boxbuildv1.InfoResponse{}).RegistryConfig
	if got := fmt.Sprint(conf.InsecureRegistryCIDRs); got != "[127.0.0.0/8 ::1/128]" || conf.Mirrors == nil {
		t.Errorf("without a configuration: %+v", conf)
	}
	if got := info.GetInsecure(); !slices.Equal(got, []string{"a.example", "b.example"}) {
		t.Errorf("insecure registries %v", got)
	}
	if v := info.GetCgroups(); v != "1" && v != "2" {
		t.Errorf("cgroup version %q", v)
	}
}
