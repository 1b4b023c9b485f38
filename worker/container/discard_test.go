package container

import (
	"bytes"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A limitedHost can limit only so much.
type limitedHost struct {
	executor.Host
	have executor.Limitable
}

func (h *limitedHost) Limitable() executor.Limitable { return h.have }

// limited has the fixture's machine limit so much only.
func (f *fixture) limited(have executor.Limitable) {
	f.deps.Host = &limitedHost{f.deps.Host, have}
}

// everything is each limit that a machine may lack.
func everything() container.Resources {
	return container.Resources{
		Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: ptr(int64(3)), OomKillDisable: ptr(true),
		PidsLimit: ptr(int64(9)), CPUShares: 7, CPUPeriod: 20_000, CPUQuota: 20_000, CPUPercent: 5, CpusetCpus: "0", CpusetMems: "0",
		BlkioWeight: 300, BlkioWeightDevice: weight, BlkioDeviceReadBps: throttle, BlkioDeviceWriteBps: throttle,
		BlkioDeviceReadIOps: throttle, BlkioDeviceWriteIOps: throttle,
	}
}

// Limits that the machine does not have are discarded with docker's warnings, and inspect shows them as not set; those that it
// has are as they were asked for.
func TestDiscard(t *testing.T) {
	f := newFixture(t)
	var all executor.Limitable
	v := reflect.ValueOf(&all).Elem()
	for i := range v.NumField() {
		v.Field(i).SetBool(true)
	}
	none := []string{
		"memory limit capabilities or the cgroup is not mounted. Limitation discarded.", "memory swappiness", "memory soft limit",
		"OomKillDisable discarded", "PIDs limit discarded", "Shares discarded", "CPU period/quota discarded", "CPU percent", "Cpuset discarded",
		"I/O weight or", "weight_device", "BPS read limit", "BPS write limit", "IOPS read limit", "IOPS write limit",
	}
	for name, c := range map[string]struct {
		have     executor.Limitable
		warnings []string
	}{
		"all":     {all, []string{"linux does not support CPU percent. Percent discarded."}},
		"none":    {executor.Limitable{}, none},
		"no swap": {executor.Limitable{Memory: true}, append([]string{"Memory limited without swap."}, none[1:]...)},
	} {
		f.limited(c.have)
		req := request("sleep")
		req.HostConfig.Resources = everything()
		created, err := f.Create(t.Context(), req)
		f.must(err)
		if len(created.Warnings) != len(c.warnings) {
			t.Errorf("%s: warnings are %q", name, created.Warnings)
			continue
		}
		for i, w := range c.warnings {
			if !strings.Contains(created.Warnings[i], w) {
				t.Errorf("%s: warning %d is %q, want %q", name, i, created.Warnings[i], w)
			}
		}
		info, err := f.Inspect(t.Context(), created.ID, false)
		f.must(err)
		got, want := info.HostConfig.Resources, everything()
		want.CPUPercent, want.MemorySwap = 0, 2*want.Memory
		if c.have != all {
			want = container.Resources{
				MemorySwap: -1, BlkioWeightDevice: []*blkiodev.WeightDevice{}, BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{},
				BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{}, BlkioDeviceReadIOps: []*blkiodev.ThrottleDevice{},
				BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{},
			}
			if c.have.Memory {
				want.Memory = 64 << 20
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: inspect shows %+v, want %+v", name, got, want)
		}
	}
	f.limited(executor.Limitable{})
	req := request("sleep")
	req.HostConfig.NanoCPUs = 1e9
	_, err := f.Create(t.Context(), req)
	f.want(err, "NanoCPUs can not be set")
}

// An update is warned of in the same way, and leaves what it may not set as it was.
func TestDiscardUpdate(t *testing.T) {
	f := newFixture(t)
	f.limited(executor.Limitable{Memory: true, Swap: true})
	id := f.run(request("sleep"))
	res, err := f.Update(t.Context(), id, &container.UpdateConfig{Resources: container.Resources{BlkioWeight: 300, Memory: 64 << 20, MemorySwap: 64 << 20}})
	f.must(err)
	if len(res.Warnings) != 1 || !strings.HasPrefix(res.Warnings[0], "Your kernel does not support Block I/O weight or") {
		t.Errorf("warnings are %q", res.Warnings)
	}
	info, err := f.Inspect(t.Context(), id, false)
	f.must(err)
	if r := info.HostConfig.Resources; r.BlkioWeight != 0 || r.Memory != 64<<20 {
		t.Errorf("the limits are %+v", r)
	}
	if l := f.host.Limits(f.Manager.dir(id)); l.BlkioWeight != 0 || l.Memory != 64<<20 {
		t.Errorf("the container's limits are %+v", l)
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
}

// A limit of a process that is lowered is told to the client, and to the log.
func TestLoweredLogged(t *testing.T) {
	var own unix.Rlimit
	if most, ok := mostFiles(); !ok || unix.Getrlimit(unix.RLIMIT_NOFILE, &own) != nil || own.Max >= most || mayRaise() {
		t.Skip("this process may raise its limits, or they cannot be higher")
	}
	f := newFixture(t)
	var log bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	req := request("sleep")
	req.HostConfig.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: int64(own.Max), Hard: int64(own.Max) + 1}}
	created, err := f.Create(t.Context(), req)
	f.must(err)
	if len(created.Warnings) != 1 || !strings.Contains(log.String(), created.Warnings[0]) {
		t.Errorf("warnings are %q, the log is %q", created.Warnings, log.String())
	}
}

// A parent cgroup with a way out of it is refused when the container is made.
func TestCgroupParentRefused(t *testing.T) {
	f := newFixture(t)
	for _, parent := range []string{"../x", "/a/../b", "/a\x00"} {
		req := request("sleep")
		req.HostConfig.CgroupParent = parent
		_, err := f.Create(t.Context(), req)
		f.want(err, "invalid cgroup parent")
	}
}
