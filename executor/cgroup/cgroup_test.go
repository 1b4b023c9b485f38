package cgroup

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// at makes files, with their directories, in a new directory, and returns its Tree, of version 2 if unified. A name that
// ends in a slash is a directory.
func at(t *testing.T, files map[string]string, unified bool) Tree {
	t.Helper()
	dir := t.TempDir()
	if _, ok := files["cgroup.controllers"]; unified && !ok {
		files = maps.Clone(files)
		if files == nil {
			files = make(map[string]string)
		}
		files["cgroup.controllers"] = ""
	}
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return At(dir)
}

// What a cgroup used is read from the files of either version; what there is no file for is 0, as with version 2 before
// Linux 5.19, which has no memory.peak.
func TestMemoryUse(t *testing.T) {
	for name, c := range map[string]struct {
		unified bool
		files   map[string]string
		peak    int64
		kills   uint64
	}{
		"v1": {false, map[string]string{
			"memory/b/1/memory.max_usage_in_bytes": "4096\n", "memory/b/1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		}, 4096, 2},
		"v2":      {true, map[string]string{"b/1/memory.peak": "8192\n", "b/1/memory.events": "low 0\noom 5\noom_kill 3\noom_group_kill 0\n"}, 8192, 3},
		"no peak": {true, map[string]string{"b/1/memory.events": "oom_kill 1\n"}, 0, 1},
		"nothing": {true, map[string]string{"b/1/cgroup.procs": ""}, 0, 0},
	} {
		h := at(t, c.files, c.unified)
		if peak, kills := h.Memory("/b/1"), h.OOMKills("/b/1"); peak != c.peak || kills != c.kills {
			t.Errorf("%s: %d, %d, want %d, %d", name, peak, kills, c.peak, c.kills)
		}
	}
}

// With version 2 the controllers are the parent's, not the root's, which may hand out fewer than it has; with version 1
// they are the hierarchies, of which one may have several.
func TestControllers(t *testing.T) {
	v2 := map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "b/cgroup.controllers": "cpu pids\n", "none/cgroup.controllers": "\n"}
	v1 := map[string]string{"memory/": "", "cpu,cpuacct/": "", "devices/": "", "unified/": ""}
	for _, c := range []struct {
		unified bool
		files   map[string]string
		parent  string
		want    []string
	}{
		{true, v2, "/b", []string{"cpu", "pids"}},
		{true, v2, "/none", nil},
		{true, v2, "/new/er", []string{"cpu", "cpuset", "io", "memory", "pids"}},
		{true, nil, "/b", nil},
		{false, v1, "/b", []string{"cpu", "cpuacct", "devices", "memory"}},
	} {
		got := at(t, c.files, c.unified).Controllers(c.parent)
		if have := slices.Sorted(maps.Keys(got)); got == nil || !slices.Equal(have, c.want) {
			t.Errorf("%v %s: %q, want %q", c.unified, c.parent, have, c.want)
		}
	}
}

// Whether swap can be limited shows in a file of either version.
func TestLimitsSwap(t *testing.T) {
	for _, c := range []struct {
		unified bool
		file    string
		want    bool
	}{
		{true, "b/memory.swap.max", true},
		{true, "memory.swap.max", false}, // no cgroup of ours
		{false, "memory/memory.memsw.limit_in_bytes", true},
		{false, "memory/memory.limit_in_bytes", false},
	} {
		if got := at(t, map[string]string{c.file: "max\n"}, c.unified).LimitsSwap("/b"); got != c.want {
			t.Errorf("%s: %t", c.file, got)
		}
	}
}

// Processes are killed with one write where the kernel can do so; else one by one, and a pid that is not to be seen from
// here is not this process, nor its group.
func TestKill(t *testing.T) {
	h := at(t, map[string]string{"b/1/cgroup.kill": "", "b/1/cgroup.procs": "0\n", "b/2/cgroup.procs": "0\n"}, true)
	h.Kill("/b/1")
	if got, err := os.ReadFile(filepath.Join(h.root, "b/1/cgroup.kill")); err != nil || string(got) != "1" {
		t.Errorf("written is %q, %v", got, err)
	}
	h.Kill("/b/2")
	if err := os.WriteFile(filepath.Join(h.root, "cgroup.kill"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"", "/", ".", "/b/.."} {
		h.Kill(root)
		if got, err := os.ReadFile(filepath.Join(h.root, "cgroup.kill")); err != nil || len(got) > 0 {
			t.Errorf("killing in %q: %q, %v", root, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(h.root, "b/2/cgroup.kill")); err == nil {
		t.Error("a file that was not there has been made")
	}
	child := sleeper(t)
	h = at(t, map[string]string{"devices/b/cgroup.procs": "0\n" + child + "\n"}, false)
	h.Kill("/b")
	for {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
}

// What can be limited shows in the files of version 1, and in the controllers of version 2; weights in a cgroup, which is made
// for that.
func TestFeatures(t *testing.T) {
	all := map[string]string{
		"memory/memory.soft_limit_in_bytes": "", "memory/memory.swappiness": "", "memory/memory.oom_control": "",
		"memory/memory.memsw.limit_in_bytes": "", "cpu/cpu.shares": "", "cpu/cpu.cfs_quota_us": "", "cpuset/": "", "pids/": "",
		"blkio/blkio.throttle.read_bps_device": "", "blkio/blkio.throttle.write_bps_device": "",
		"blkio/blkio.throttle.read_iops_device": "", "blkio/blkio.throttle.write_iops_device": "",
	}
	most := Features{
		Memory: true, Swap: true, MemoryReservation: true, Swappiness: true, OOMKillDisable: true, Pids: true, CPUShares: true,
		CPUQuota: true, CPUSet: true, ReadBPS: true, WriteBPS: true, ReadIOPS: true, WriteIOPS: true,
	}
	weighed := maps.Clone(all)
	weighed["blkio/b/blkio.bfq.weight"], weighed["blkio/b/blkio.bfq.weight_device"] = "", ""
	complete := most
	complete.BlkioWeight, complete.BlkioWeightDevice = true, true
	two := most
	two.Swappiness, two.OOMKillDisable, two.Swap = false, false, false
	for name, c := range map[string]struct {
		unified bool
		files   map[string]string
		want    Features
	}{
		"v1":          {false, all, most},
		"v1, weights": {false, weighed, complete},
		"v1, none":    {false, map[string]string{"devices/": "", "systemd/": ""}, Features{}},
		"v2":          {true, map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n"}, two},
		"v2, some":    {true, map[string]string{"b/cgroup.controllers": "memory\n", "b/memory.swap.max": ""}, Features{Memory: true, Swap: true, MemoryReservation: true}},
		"v2, weights": {true, map[string]string{"b/cgroup.controllers": "io\n", "b/io.weight": ""}, Features{
			ReadBPS: true, WriteBPS: true, ReadIOPS: true, WriteIOPS: true, BlkioWeight: true, BlkioWeightDevice: true,
		}},
	} {
		if got := at(t, c.files, c.unified).Features("/b"); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A relative parent is below the cgroup of memory with version 1, and beside this process's own with version 2, unless that
// is out of sight.
func TestOwn(t *testing.T) {
	for _, c := range []struct {
		text    string
		unified bool
		want    string
	}{
		{"9:name=systemd:/\n4:cpu,memory:/a/b\n3:cpuset:/\n0::/\n", false, "/a/b"},
		{"3:cpuset:/\n", false, "/"},
		{"4:memory:/../../x\n", false, "/"},
		{"0::/system.slice/boxbuildd.service\n", true, "/system.slice"},
		{"0::/\n", true, "/"},
		{"0::/..\n", true, "/"},
		{"", true, "/"},
	} {
		if got := ownOf(c.text, c.unified); got != c.want {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
}
