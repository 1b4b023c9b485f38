package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// What cannot be is refused with docker's texts, and leaves nothing.
func TestCreateRefuses(t *testing.T) {
	f := newFixture(t)
	first := request("sleep")
	first.Name = "taken"
	other := f.create(first)
	for text, edit := range map[string]func(r *worker.ContainerCreate){
		"config cannot be empty":                   func(r *worker.ContainerCreate) { r.Config = nil },
		"No such image: nothing:latest":            func(r *worker.ContainerCreate) { r.Image = "nothing" },
		"Invalid container name (-x), only [a-zA-": func(r *worker.ContainerCreate) { r.Name = "-x" },
		`Conflict. The container name "/taken" is already in use by container "` + other + `". You have to remove (or rename)`: func(r *worker.ContainerCreate) { r.Name = "/taken" },
		"no command specified":                 func(r *worker.ContainerCreate) { r.Cmd = nil },
		"the working directory 'x' is invalid": func(r *worker.ContainerCreate) { r.WorkingDir = "x" },
		"invalid environment variable: =x":     func(r *worker.ContainerCreate) { r.Env = []string{"=x"} },
		"invalid signal: NOSIG":                func(r *worker.ContainerCreate) { r.StopSignal = "NOSIG" },
		"can't create 'AutoRemove' container with restart policy": func(r *worker.ContainerCreate) {
			r.HostConfig.AutoRemove, r.HostConfig.RestartPolicy.Name = true, "always"
		},
		"maximum retry count can only be used with 'on-failure'": func(r *worker.ContainerCreate) {
			r.HostConfig.RestartPolicy = container.RestartPolicy{Name: "always", MaximumRetryCount: 1}
		},
		"unknown policy 'sometimes'":          func(r *worker.ContainerCreate) { r.HostConfig.RestartPolicy.Name = "sometimes" },
		"Minimum memory limit allowed is 6MB": func(r *worker.ContainerCreate) { r.HostConfig.Memory = 1 << 20 },
		"Minimum memoryswap limit should be larger": func(r *worker.ContainerCreate) {
			r.HostConfig.Memory, r.HostConfig.MemorySwap = 64<<20, 32<<20
		},
		"You should always set the Memory limit":                       func(r *worker.ContainerCreate) { r.HostConfig.MemorySwap = 32 << 20 },
		"range of CPUs is from 0.01":                                   func(r *worker.ContainerCreate) { r.HostConfig.NanoCPUs = 1e15 },
		"Conflicting options: Nano CPUs and CPU Quota cannot both be ": func(r *worker.ContainerCreate) { r.HostConfig.NanoCPUs, r.HostConfig.CPUQuota = 1e8, 5000 },
		"invalid CPU shares (-1): value must be":                       func(r *worker.ContainerCreate) { r.HostConfig.CPUShares = -1 },
		`invalid CapAdd: unknown capability: "CAP_BOGUS"`:              func(r *worker.ContainerCreate) { r.HostConfig.CapAdd = []string{"BOGUS"} },
		`invalid CapDrop: unknown capability: "CAP_NO"`:                func(r *worker.ContainerCreate) { r.HostConfig.CapDrop = []string{"cap_no"} },
		"invalid ulimit type: x":                                       func(r *worker.ContainerCreate) { r.HostConfig.Ulimits = []*container.Ulimit{{Name: "x"}} },
		"ulimit soft limit must be less than or equal to hard limit":   func(r *worker.ContainerCreate) { r.HostConfig.Ulimits = []*container.Ulimit{{Name: "core", Soft: 1}} },
		"is above the kernel's own, ": func(r *worker.ContainerCreate) {
			r.HostConfig.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 1 << 40}}
		},
		"Requested CPUs are not available - requested 4000": func(r *worker.ContainerCreate) { r.HostConfig.CpusetCpus = "4000" },
		"Invalid value x for cpuset cpus":                   func(r *worker.ContainerCreate) { r.HostConfig.CpusetCpus = "x" },
		"Interval in Healthcheck cannot be less than 1ms":   func(r *worker.ContainerCreate) { r.Healthcheck = &container.HealthConfig{Interval: 1} },
		"logger: no log driver named 'x' is registered":     func(r *worker.ContainerCreate) { r.HostConfig.LogConfig.Type = "x" },
		"unknown log opt 'x' for json-file log driver":      func(r *worker.ContainerCreate) { r.HostConfig.LogConfig.Config = map[string]string{"x": ""} },
		"unknown or invalid runtime name: kata":             func(r *worker.ContainerCreate) { r.HostConfig.Runtime = "kata" },
		`invalid --security-opt 2: "x=y"`:                   func(r *worker.ContainerCreate) { r.HostConfig.SecurityOpt = []string{"x=y"} },
		"network nowhere not found": func(r *worker.ContainerCreate) {
			r.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"nowhere": nil}}
		},
		"conflicting options: hostname and the network mode": func(r *worker.ContainerCreate) {
			r.Hostname, r.HostConfig.NetworkMode = "h", "container:taken"
		},
		"conflicting options: mac-address and the network mode": func(r *worker.ContainerCreate) {
			r.HostConfig.NetworkMode = "container:taken"
			r.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
				"container:taken": {MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}},
			}}
		},
		"No such container: gone": func(r *worker.ContainerCreate) { r.HostConfig.NetworkMode = "container:gone" },
		"bad format for add-host": func(r *worker.ContainerCreate) { r.HostConfig.ExtraHosts = []string{"x"} },
		"Duplicate mount point: /a": func(r *worker.ContainerCreate) {
			r.HostConfig.Binds = []string{"v:/a", "w:/a/"}
		},
		"invalid mode: sometimes": func(r *worker.ContainerCreate) { r.HostConfig.Binds = []string{"/x:/y:sometimes"} },
		"invalid volume specification: '/etc/nginx:ro'": func(r *worker.ContainerCreate) {
			r.HostConfig.Binds = []string{"/etc/nginx:ro"}
		},
		"destination can't be '/'": func(r *worker.ContainerCreate) { r.HostConfig.Binds = []string{"/x:/"} },
		"bind source path does not exist: /no/such/path": func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "bind", Source: "/no/such/path", Target: "/x"}}
		},
		`invalid mount config for type "bind": field Source must not be empty`: func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "bind", Target: "/x"}}
		},
		`invalid mount config for type "tmpfs": field Source must not be specified`: func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "tmpfs", Source: "x", Target: "/x"}}
		},
		`invalid mount config for type "none": mount type unknown`: func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "none", Target: "/x"}}
		},
		"field BindOptions must not be specified": func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "volume", Target: "/x", BindOptions: &mount.BindOptions{}}}
		},
		"subpath must be a relative path within the volume": func(r *worker.ContainerCreate) {
			r.HostConfig.Mounts = []mount.Mount{{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "../x"}}}
		},
		"could not get container for gone: No such container: gone": func(r *worker.ContainerCreate) {
			r.HostConfig.Links = []string{"taken:t", "gone:x"}
		},
		`--storage-opt is not supported`:    func(r *worker.ContainerCreate) { r.HostConfig.StorageOpt = map[string]string{"size": "1G"} },
		`invalid tmpfs option ["what"]`:     func(r *worker.ContainerCreate) { r.HostConfig.Tmpfs = map[string]string{"/x": "what"} },
		"No such container: none":           func(r *worker.ContainerCreate) { r.HostConfig.VolumesFrom = []string{"none:ro"} },
		"includes invalid characters for a": func(r *worker.ContainerCreate) { r.HostConfig.Binds = []string{"-bad:/x"} },
		"cannot mount volume over existing file, file exists /etc/motd": func(r *worker.ContainerCreate) {
			r.Volumes = map[string]struct{}{"/etc/motd": {}}
		},
	} {
		req := request("sleep")
		edit(req)
		_, err := f.Create(t.Context(), req)
		f.want(err, text)
		if image := strings.HasPrefix(text, "No such image"); errdefs.IsNotFound(err) != image {
			t.Errorf("%v: docker's clients pull the image: %t, want %t", err, !image, image)
		}
	}
	f.must(f.Remove(t.Context(), other, worker.RemoveContainerOptions{}))
	for _, name := range []string{"v", "w"} {
		_ = f.vols.Remove(t.Context(), name, true) // named ones stay, as in docker
	}
	list, err := f.vols.List(t.Context(), nil)
	f.must(err)
	if len(list.Volumes) != 0 {
		t.Errorf("volumes are left: %v", list.Volumes)
	}
	f.empty()
}

// What the image says is completed by what the user says.
func TestMerge(t *testing.T) {
	f := newFixture(t)
	c := &frontend.ImageConfig{}
	c.Config.Env = []string{"A=image", "B=image"}
	c.Config.Cmd, c.Config.Entrypoint = []string{"arg"}, []string{"say"}
	c.Config.User, c.Config.WorkingDir, c.Config.StopSignal = "1000", "/work", "SIGINT"
	c.Config.Labels = map[string]string{"l": "image", "m": "image"}
	c.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	c.Config.Volumes = map[string]struct{}{"/data": {}}
	c.Config.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "true"}, Interval: time.Minute, Retries: 2}
	f.addImage("full", c, nil)

	req := request()
	req.Image = "full"
	in, err := f.Inspect(t.Context(), f.create(req), false)
	f.must(err)
	got := in.Config
	if in.Path != "say" || !slices.Equal(in.Args, []string{"arg"}) || got.User != "1000" || got.WorkingDir != "/work" || got.StopSignal != "SIGINT" {
		t.Errorf("config is %+v", got)
	}
	if len(in.Mounts) != 1 || in.Mounts[0].Destination != "/data" || len(in.Mounts[0].Name) != 64 {
		t.Errorf("mounts are %+v", in.Mounts)
	}
	if got.Hostname != in.ID[:12] {
		t.Errorf("hostname is %s", got.Hostname)
	}

	req = request("x")
	req.Image, req.Env, req.Labels = "full", []string{"A=user"}, map[string]string{"l": "user"}
	req.Entrypoint, req.User = []string{"cat"}, "root"
	req.Healthcheck = &container.HealthConfig{Interval: time.Second}
	in, err = f.Inspect(t.Context(), f.create(req), false)
	f.must(err)
	got = in.Config
	if in.Path != "cat" || !slices.Equal(in.Args, []string{"x"}) || got.User != "root" || !slices.Equal(got.Env, []string{"A=user", "B=image"}) {
		t.Errorf("config is %+v", got)
	}
	if got.Labels["l"] != "user" || got.Labels["m"] != "image" {
		t.Errorf("labels are %v", got.Labels)
	}
	if h := got.Healthcheck; h.Interval != time.Second || h.Retries != 2 || h.Test[1] != "true" {
		t.Errorf("health check is %+v", h)
	}

	// An entrypoint that is given takes the image's command away; an empty one is none.
	req = request()
	req.Image, req.Entrypoint = "full", []string{"cat"}
	if in, err = f.Inspect(t.Context(), f.create(req), false); err != nil || in.Path != "cat" || len(in.Args) != 0 {
		t.Errorf("%s %v, %v", in.Path, in.Args, err)
	}
	req = request("env")
	req.Image, req.Entrypoint = "full", []string{""}
	if in, err = f.Inspect(t.Context(), f.create(req), false); err != nil || in.Path != "env" || len(in.Args) != 0 || in.Config.Entrypoint != nil {
		t.Errorf("%s %v, %v", in.Path, in.Args, err)
	}
	req = request() // the image has no command
	req.Entrypoint = []string{""}
	f.want(second(f.Create(t.Context(), req)), "no command specified")
}

// An image of another platform is refused if another was asked for, and remarked on if none was.
func TestPlatform(t *testing.T) {
	f := newFixture(t)
	c := &frontend.ImageConfig{}
	c.Platform = ocispec.Platform{OS: "linux", Architecture: "arm64"}
	f.addImage("arm", c, nil)
	req := request("x")
	req.Image = "arm"
	out, err := f.Create(t.Context(), req)
	f.must(err)
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "platform (linux/arm64) does not match the detected host platform (linux/amd64)") {
		t.Errorf("warnings are %q", out.Warnings)
	}
	req = request("x")
	req.Image, req.Platform = "arm", &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	_, err = f.Create(t.Context(), req)
	f.want(err, "image with reference arm was found but does not provide the specified platform (linux/amd64)")
}

// Volumes are made, filled from the image when they are empty, shared, and removed with whom they were made for.
func TestVolumes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	f := newFixture(t)
	ctx := t.Context()
	req := request("sleep")
	req.HostConfig.Binds = []string{"named:/etc", "/anonymous"}
	req.HostConfig.Mounts = []mount.Mount{{Type: "volume", Source: "bare", Target: "/bare", VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: map[string]string{"a": "b"}}}}
	id := f.create(req)
	v, err := f.vols.Inspect(ctx, "named")
	f.must(err)
	if b, err := os.ReadFile(filepath.Join(v.Mountpoint, "motd")); err != nil || string(b) != "hello" {
		t.Errorf("the volume has %q, %v", b, err)
	}
	if v, err := f.vols.Inspect(ctx, "bare"); err != nil || v.Labels["a"] != "b" {
		t.Errorf("the volume is %+v, %v", v, err)
	}
	// What is in a volume already stays.
	f.must(os.WriteFile(filepath.Join(v.Mountpoint, "motd"), []byte("changed"), 0o644))
	from := request("sleep")
	from.HostConfig.VolumesFrom = []string{id + ":ro"}
	second := f.create(from)
	if b, _ := os.ReadFile(filepath.Join(v.Mountpoint, "motd")); string(b) != "changed" {
		t.Errorf("the volume has %q", b)
	}
	in, err := f.Inspect(ctx, second, false)
	f.must(err)
	if len(in.Mounts) != 3 || in.Mounts[0].RW || in.Mounts[0].Name != "named" {
		t.Errorf("mounts are %+v", in.Mounts)
	}
	anonymous := in.Mounts[1].Name
	f.want(f.vols.Remove(ctx, "named", false), "volume is in use")

	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{Volumes: true}))
	if _, err := f.vols.Inspect(ctx, anonymous); err != nil {
		t.Errorf("removed though another container has it: %v", err)
	}
	f.restart()
	f.want(f.vols.Remove(ctx, "named", false), "volume is in use") // it is known again who has it
	f.must(f.Remove(ctx, second, worker.RemoveContainerOptions{Volumes: true}))
	if _, err := f.vols.Inspect(ctx, anonymous); err == nil {
		t.Error("an anonymous volume is left")
	}
	if _, err := f.vols.Inspect(ctx, "named"); err != nil {
		t.Errorf("a named volume is gone: %v", err)
	}
	_, err = f.vols.Prune(ctx, worker.Filters{"all": {"true"}})
	f.must(err)
	if list, _ := f.vols.List(ctx, nil); list == nil || len(list.Volumes) != 0 {
		t.Errorf("volumes are left: %+v", list)
	}
}

// What a run is made of: environment, own files, mounts in the order of their depth.
func TestSpec(t *testing.T) {
	f := newFixture(t)
	req := request("sleep")
	req.Hostname, req.Env, req.Tty = "host", []string{"A=b", "PATH"}, true
	req.HostConfig.Tmpfs = map[string]string{"/a/b": "size=1m,exec"}
	made := filepath.Join(f.dir, "made")
	req.HostConfig.Binds = []string{made + ":/a:ro", f.dir + ":/a/b/c"}
	req.HostConfig.Memory, req.HostConfig.NanoCPUs = 64<<20, 5e8
	id := f.run(req)
	s := f.host.Spec(f.Manager.dir(id))
	if want := []string{"HOSTNAME=host", "TERM=xterm", "A=b"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("environment is %v, want %v", s.Process.Env, want)
	}
	var targets []string
	for _, m := range s.Mounts {
		targets = append(targets, m.Target)
	}
	if got, want := strings.Join(targets, " "), "/a /etc/hostname /etc/hosts /etc/resolv.conf /a/b /a/b/c"; got != want {
		t.Errorf("mounts are at %s, want %s", got, want)
	}
	if tm := s.Mounts[4]; tm.Size != 1<<20 || tm.NoExec || !tm.NoSuid {
		t.Errorf("tmpfs is %+v", tm)
	}
	if l := s.Limits; l.Memory != 64<<20 || l.MemorySwap != 128<<20 || l.CPUQuota != 50_000 || l.CPUPeriod != 100_000 {
		t.Errorf("limits are %+v", l)
	}
	if fi, err := os.Stat(made); err != nil || !fi.IsDir() {
		t.Errorf("the source of -v was not made: %v", err)
	}
	for name, want := range map[string]string{"hostname": "host\n", "hosts": "127.0.0.1 localhost\n", "resolv.conf": "nameserver 127.0.0.11\n"} {
		if b, err := os.ReadFile(filepath.Join(f.Manager.dir(id), name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	f.must(f.Remove(t.Context(), id, worker.RemoveContainerOptions{Force: true}))
}
