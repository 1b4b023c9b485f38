package container

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// A field says what becomes of a field of a request, and how that is seen.
type field struct {
	// set sets it. What is made of it shows in the sandbox's Spec, or
	set func(r *worker.ContainerCreate)
	// the create is refused with these words; or
	refused string
	// the field is kept for inspect, and this says why that is all, or where it is honoured and tested.
	elsewhere string
}

func ptr[T any](v T) *T { return &v }

var weight = []*blkiodev.WeightDevice{{Path: "/dev/null", Weight: 100}}

var throttle = []*blkiodev.ThrottleDevice{{Path: "/dev/null", Rate: 1}}

var configFields = map[string]field{
	"Hostname":        {set: func(r *worker.ContainerCreate) { r.Hostname = "other" }},
	"Domainname":      {set: func(r *worker.ContainerCreate) { r.Domainname = "example.org" }},
	"User":            {set: func(r *worker.ContainerCreate) { r.User = "1:2" }},
	"Tty":             {set: func(r *worker.ContainerCreate) { r.Tty = true }},
	"Env":             {set: func(r *worker.ContainerCreate) { r.Env = []string{"A=B"} }},
	"Cmd":             {set: func(r *worker.ContainerCreate) { r.Cmd = []string{"sleep", "more"} }},
	"Entrypoint":      {set: func(r *worker.ContainerCreate) { r.Entrypoint = []string{"env"} }},
	"WorkingDir":      {set: func(r *worker.ContainerCreate) { r.WorkingDir = "/w" }},
	"Volumes":         {set: func(r *worker.ContainerCreate) { r.Volumes = map[string]struct{}{"/v": {}} }},
	"AttachStdin":     {elsewhere: "TestAttachBefore"},
	"AttachStdout":    {elsewhere: "the client's; kept"},
	"AttachStderr":    {elsewhere: "the client's; kept"},
	"ExposedPorts":    {elsewhere: "network: TestPublishAll"},
	"OpenStdin":       {elsewhere: "keep: attachments"},
	"StdinOnce":       {elsewhere: "keep: attachments"},
	"Healthcheck":     {elsewhere: "TestHealth"},
	"ArgsEscaped":     {elsewhere: "of images for Windows; kept"},
	"Image":           {elsewhere: "all tests"},
	"NetworkDisabled": {elsewhere: "network: TestModes"},
	"OnBuild":         {elsewhere: "commit"},
	"Labels":          {elsewhere: "events, filters"},
	"StopSignal":      {elsewhere: "TestStop"},
	"StopTimeout":     {elsewhere: "TestStop"},
	"Shell":           {elsewhere: "TestHealth"},
}

var hostFields = map[string]field{
	"Binds":           {set: func(r *worker.ContainerCreate) { r.HostConfig.Binds = []string{"/:/b"} }},
	"ContainerIDFile": {elsewhere: "the client's; kept"},
	"LogConfig":       {elsewhere: "TestLogOptions"},
	"NetworkMode":     {elsewhere: "network: TestModes"},
	"PortBindings":    {elsewhere: "network: TestPublish"},
	"RestartPolicy":   {elsewhere: "TestOnFailure"},
	"AutoRemove":      {elsewhere: "TestAutoRemove"},
	"VolumeDriver": {
		set: func(r *worker.ContainerCreate) {
			r.HostConfig.Binds, r.HostConfig.VolumeDriver = []string{"v:/b"}, "other"
		},
		refused: "other",
	},
	"VolumesFrom": {set: func(r *worker.ContainerCreate) { r.HostConfig.VolumesFrom = []string{"nobody"} }, refused: "nobody"},
	"ConsoleSize": {set: func(r *worker.ContainerCreate) { r.HostConfig.ConsoleSize = [2]uint{7, 9} }},
	"Annotations": {elsewhere: "for hooks of a runtime, of which there are none; kept"},
	"CapAdd":      {set: func(r *worker.ContainerCreate) { r.HostConfig.CapAdd = []string{"NET_ADMIN"} }},
	"CapDrop":     {set: func(r *worker.ContainerCreate) { r.HostConfig.CapDrop = []string{"CHOWN"} }},
	"CgroupnsMode": {
		set: func(r *worker.ContainerCreate) { r.HostConfig.CgroupnsMode = "host" },
	},
	"DNS":             {elsewhere: "network: TestHostsAndLinks"},
	"DNSOptions":      {elsewhere: "network: TestHostsAndLinks"},
	"DNSSearch":       {elsewhere: "network: TestHostsAndLinks"},
	"ExtraHosts":      {elsewhere: "network: TestHostsAndLinks"},
	"GroupAdd":        {set: func(r *worker.ContainerCreate) { r.HostConfig.GroupAdd = []string{"7"} }},
	"IpcMode":         {set: func(r *worker.ContainerCreate) { r.HostConfig.IpcMode = "host" }},
	"Cgroup":          {set: func(r *worker.ContainerCreate) { r.HostConfig.Cgroup = "container:x" }, refused: "Cgroup is not supported"},
	"Links":           {set: func(r *worker.ContainerCreate) { r.HostConfig.Links = []string{"gone"} }, refused: "could not get container for gone"},
	"OomScoreAdj":     {set: func(r *worker.ContainerCreate) { r.HostConfig.OomScoreAdj = 5 }},
	"PidMode":         {set: func(r *worker.ContainerCreate) { r.HostConfig.PidMode = "host" }},
	"Privileged":      {set: func(r *worker.ContainerCreate) { r.HostConfig.Privileged = true }},
	"PublishAllPorts": {elsewhere: "network: TestPublishAll"},
	"ReadonlyRootfs":  {set: func(r *worker.ContainerCreate) { r.HostConfig.ReadonlyRootfs = true }},
	"SecurityOpt":     {set: func(r *worker.ContainerCreate) { r.HostConfig.SecurityOpt = []string{"no-new-privileges"} }},
	"StorageOpt":      {set: func(r *worker.ContainerCreate) { r.HostConfig.StorageOpt = map[string]string{"size": "1G"} }, refused: "--storage-opt is not supported"},
	"Tmpfs":           {set: func(r *worker.ContainerCreate) { r.HostConfig.Tmpfs = map[string]string{"/t": "size=1m"} }},
	"UTSMode":         {set: func(r *worker.ContainerCreate) { r.HostConfig.UTSMode = "host" }},
	"UsernsMode":      {set: func(r *worker.ContainerCreate) { r.HostConfig.UsernsMode = "private" }, refused: "invalid user namespace mode"},
	"ShmSize":         {set: func(r *worker.ContainerCreate) { r.HostConfig.ShmSize = 1 << 20 }},
	"Sysctls":         {set: func(r *worker.ContainerCreate) { r.HostConfig.Sysctls = map[string]string{"net.a": "1"} }},
	"Runtime":         {set: func(r *worker.ContainerCreate) { r.HostConfig.Runtime = "kata" }, refused: "unknown or invalid runtime name: kata"},
	"Umask":           {set: func(r *worker.ContainerCreate) { r.HostConfig.Umask = ptr(uint32(0o77)) }},
	"Isolation":       {set: func(r *worker.ContainerCreate) { r.HostConfig.Isolation = "hyperv" }, refused: "invalid isolation 'hyperv' on linux"},
	"Resources":       {elsewhere: "resourceFields"},
	"Mounts": {set: func(r *worker.ContainerCreate) {
		r.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeTmpfs, Target: "/m"}}
	}},
	"MaskedPaths":   {set: func(r *worker.ContainerCreate) { r.HostConfig.MaskedPaths = []string{"/proc/x"} }},
	"ReadonlyPaths": {set: func(r *worker.ContainerCreate) { r.HostConfig.ReadonlyPaths = []string{"/proc/y"} }},
	"Init":          {set: func(r *worker.ContainerCreate) { r.HostConfig.Init = ptr(true) }},
}

var resourceFields = map[string]field{
	"CPUShares":            {set: func(r *worker.ContainerCreate) { r.HostConfig.CPUShares = 7 }},
	"Memory":               {set: func(r *worker.ContainerCreate) { r.HostConfig.Memory = 64 << 20 }},
	"NanoCPUs":             {set: func(r *worker.ContainerCreate) { r.HostConfig.NanoCPUs = 5e8 }},
	"CgroupParent":         {set: func(r *worker.ContainerCreate) { r.HostConfig.CgroupParent = "/p" }},
	"BlkioWeight":          {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioWeight = 20 }},
	"BlkioWeightDevice":    {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioWeightDevice = weight }},
	"BlkioDeviceReadBps":   {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioDeviceReadBps = throttle }},
	"BlkioDeviceWriteBps":  {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioDeviceWriteBps = throttle }},
	"BlkioDeviceReadIOps":  {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioDeviceReadIOps = throttle }},
	"BlkioDeviceWriteIOps": {set: func(r *worker.ContainerCreate) { r.HostConfig.BlkioDeviceWriteIOps = throttle }},
	"CPUPeriod":            {set: func(r *worker.ContainerCreate) { r.HostConfig.CPUPeriod = 20_000 }},
	"CPUQuota":             {set: func(r *worker.ContainerCreate) { r.HostConfig.CPUQuota = 20_000 }},
	"CPURealtimePeriod":    {set: func(r *worker.ContainerCreate) { r.HostConfig.CPURealtimePeriod = 1000 }},
	"CPURealtimeRuntime":   {set: func(r *worker.ContainerCreate) { r.HostConfig.CPURealtimeRuntime = 100 }},
	"CpusetCpus":           {set: func(r *worker.ContainerCreate) { r.HostConfig.CpusetCpus = "0" }},
	"CpusetMems":           {set: func(r *worker.ContainerCreate) { r.HostConfig.CpusetMems = "0" }},
	"Devices": {set: func(r *worker.ContainerCreate) {
		r.HostConfig.Devices = []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/n"}}
	}},
	"DeviceCgroupRules": {set: func(r *worker.ContainerCreate) { r.HostConfig.DeviceCgroupRules = []string{"c 1:3 r"} }},
	"DeviceRequests":    {elsewhere: "TestVendorRuntime"},
	"MemoryReservation": {set: func(r *worker.ContainerCreate) { r.HostConfig.MemoryReservation = 32 << 20 }},
	"MemorySwap":        {set: func(r *worker.ContainerCreate) { r.HostConfig.Memory, r.HostConfig.MemorySwap = 64<<20, -1 }},
	"MemorySwappiness":  {set: func(r *worker.ContainerCreate) { r.HostConfig.MemorySwappiness = ptr(int64(3)) }},
	"OomKillDisable":    {set: func(r *worker.ContainerCreate) { r.HostConfig.OomKillDisable = ptr(true) }},
	"PidsLimit":         {set: func(r *worker.ContainerCreate) { r.HostConfig.PidsLimit = ptr(int64(9)) }},
	"Ulimits": {set: func(r *worker.ContainerCreate) {
		r.HostConfig.Ulimits = []*container.Ulimit{{Name: "core", Soft: 1, Hard: 2}}
	}},
	"CPUCount":           {set: func(r *worker.ContainerCreate) { r.HostConfig.CPUCount = 1 }, refused: "Linux does not support CpuCount"},
	"CPUPercent":         {elsewhere: "TestDiscard"},
	"IOMaximumIOps":      {set: func(r *worker.ContainerCreate) { r.HostConfig.IOMaximumIOps = 1 }, refused: "Linux does not support IOMaximumIOps"},
	"IOMaximumBandwidth": {set: func(r *worker.ContainerCreate) { r.HostConfig.IOMaximumBandwidth = 1 }, refused: "Linux does not support IOMaximumBandwidth"},
}

// Every field of a request for a container is honoured or refused by its name, and a field that is new in the API is one
// that somebody has to decide on: it is in no table.
func TestFields(t *testing.T) {
	f := newFixture(t)
	plain := f.sandboxOf(request("sleep"))
	for _, c := range []struct {
		of    any
		table map[string]field
	}{{container.Config{}, configFields}, {container.HostConfig{}, hostFields}, {container.Resources{}, resourceFields}} {
		typ := reflect.TypeOf(c.of)
		for i := range typ.NumField() {
			name := typ.Field(i).Name
			d, ok := c.table[name]
			if !ok {
				t.Errorf("%s.%s: nothing is decided", typ.Name(), name)
				continue
			}
			req := request("sleep")
			switch {
			case d.refused != "":
				d.set(req)
				_, err := f.Create(t.Context(), req)
				f.want(err, d.refused)
			case d.set != nil:
				d.set(req)
				if f.sandboxOf(req) == plain {
					t.Errorf("%s.%s: the sandbox is as without it", typ.Name(), name)
				}
			case d.elsewhere == "":
				t.Errorf("%s.%s: nothing is said of it", typ.Name(), name)
			}
		}
		for name := range c.table {
			if _, ok := typ.FieldByName(name); !ok {
				t.Errorf("%s.%s: there is no such field", typ.Name(), name)
			}
		}
	}
}

// sandboxOf runs a request and returns the sandbox that was made of it, as text without what differs each time.
func (f *fixture) sandboxOf(req *worker.ContainerCreate) string {
	f.Helper()
	if req.Hostname == "" && !req.HostConfig.UTSMode.IsHost() {
		req.Hostname = "h"
	}
	id := f.run(req)
	s := *f.host.Spec(f.Manager.dir(id))
	s.ID, s.Root = "", nil
	mounts := s.Mounts
	s.Mounts = nil
	b, err := json.Marshal(s)
	f.must(err)
	text := string(b)
	for _, m := range mounts {
		text += " " + m.Target
	}
	f.must(f.Remove(f.Context(), id, worker.RemoveContainerOptions{Force: true, Volumes: true}))
	return strings.ReplaceAll(text, id, "ID")
}

// The mask of new files is what was asked for, else docker's, for the first process and for those of exec.
func TestRealUmask(t *testing.T) {
	f := newReal(t)
	for want, mask := range map[string]*uint32{"0022": nil, "0077": ptr(uint32(0o77)), "0000": ptr(uint32(0))} {
		req := sh("umask; while [ ! -e /end ]; do sleep 0.05; done")
		req.HostConfig.Umask = mask
		id := f.run(req)
		waitSaid(f, id, want+"\n")
		e, err := f.ExecCreate(t.Context(), id, &container.ExecCreateRequest{Cmd: []string{"sh", "-c", "umask > /end"}})
		f.must(err)
		_, err = f.ExecStart(t.Context(), e, &container.ExecStartRequest{Detach: true}, executor.Streams{})
		f.must(err)
		f.await(id)
		if got := f.get(id, "/end"); got != "end="+want+"\n" {
			t.Errorf("in an exec it is %q, want %q", got, want)
		}
	}
}
