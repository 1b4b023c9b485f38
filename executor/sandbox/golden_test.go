package sandbox_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/sandbox"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files instead of comparing with them")

// The specifications that Describe makes are those in testdata, so that a change of any decision shows there. The
// filters are left out: they are the profile's, and thousands of lines.
func TestGolden(t *testing.T) {
	process := executor.Process{Args: []string{"/bin/sh", "-c", "true"}, Env: []string{"A=b"}, Cwd: "/work"}
	for name, spec := range map[string]executor.Spec{
		"default": {},
		"none":    {Network: executor.Network{Mode: executor.NetworkNone}, ReadOnly: true, Hostname: "h", Domain: "d", NoShm: true, WritableCgroups: true},
		"mounts": {
			Hosts: []byte("h"), ResolvConf: []byte("r"), ShmSize: 1 << 20,
			Mounts: []executor.Mount{
				{Target: "/bind", ReadOnly: true, NoExec: true, NoSuid: true, NoDev: true, Propagation: "rslave"},
				{Target: "/tmp/../scratch", Type: executor.Tmpfs, Size: 4096, Mode: 0o700, UID: 1, GID: 2},
				{Target: "/secret", Type: executor.File, ReadOnly: true},
				{Target: "/dev/shm", Type: executor.Tmpfs},
			},
		},
		"limits": {
			Limits: executor.Limits{
				Memory: 1 << 20, CPUShares: 512, CPUQuota: 5000, CPUPeriod: 10000, CPUSetCPUs: "0-1", CPUSetMems: "0", Pids: 7,
			},
			Ulimits:    []executor.Ulimit{{Name: "nofile", Soft: 10, Hard: 1 << 30}, {Name: "core"}},
			Sysctls:    map[string]string{"net.ipv4.ip_forward": "1"},
			CgroupPath: "sub", NoNewPrivileges: true, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_CHOWN"},
		},
		"unmasked":   {MaskedPaths: []string{}, ReadonlyPaths: []string{}},
		"privileged": {Privileged: true, HostIPC: true, Init: true, Network: executor.Network{Mode: executor.NetworkHost}},
		"host":       {HostPID: true, HostCgroup: true, WritableCgroups: true, MaskedPaths: []string{"/proc/keys"}, ReadonlyPaths: []string{"/proc/sys"}, Seccomp: executor.Seccomp{Unconfined: true}, CapDrop: []string{"ALL"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec.ID, spec.Process = "box-1", process
			host := &sandbox.Host{
				Root: "/run/box/box-1/root", Hosts: "/f/hosts", ResolvConf: "/f/resolv", NetNS: "/proc/1/fd/9",
				CgroupParent: "/boxbuild-00000000", Init: "/run/init", HardLimits: map[string]uint64{"nofile": 1000}, CPUs: 2,
				Devices: []sandbox.Device{{Path: "/dev/x", Type: "c", Major: 10, Minor: 11, Mode: 0o600, Access: "rw"}},
				User:    sandbox.Identity{UID: 1000, GID: 1001, Groups: []uint32{7}, Home: "/home/u"},
			}
			for range spec.Mounts {
				host.Sources = append(host.Sources, "/run/box/box-1/m")
			}
			out, err := sandbox.Describe(&spec, host)
			if err != nil {
				t.Fatal(err)
			}
			if filtered := out.Linux.Seccomp != nil; filtered == (spec.Privileged || spec.Seccomp.Unconfined) {
				t.Errorf("has a filter: %t", filtered)
			}
			out.Linux.Seccomp = nil
			got, err := json.MarshalIndent(out, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", name+".json")
			if *rewrite {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; got\n%s", file, got)
			}
		})
	}
}
