package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path"
	"time"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker/container"
	"github.com/boxbuild/boxbuild/worker/eventlog"
	"github.com/boxbuild/boxbuild/worker/images"
	containernet "github.com/boxbuild/boxbuild/worker/network"
	"github.com/boxbuild/boxbuild/worker/network/ipam"
	"github.com/boxbuild/boxbuild/worker/telemetry"
	"github.com/boxbuild/boxbuild/worker/volume"
)

// runtime opens the containers with all that they stand on, and finds those that run on from before.
func (w *wiring) runtime(ctx context.Context, svc *images.Service, emulators executor.Emulators) (err error) {
	w.counters = telemetry.NewEngine()
	w.events = w.counters.Events(new(eventlog.Log))
	if w.volumes, err = volume.Open(w.meta, w.path("volumes"), w.events); err != nil {
		return err
	}
	binary, err := w.shimBinary()
	if err != nil {
		return err
	}
	nopts, err := w.networkOptions()
	if err != nil {
		return err
	}
	nopts.Connected = func(took time.Duration) { w.counters.NetworkAction("connect", took) }
	nopts.PortsCommand = func() *exec.Cmd { return exec.Command(binary, "ports") }
	if w.networks, err = containernet.Open(nopts); err != nil {
		return err
	}
	w.onClose(w.networks.Close)
	// Builds have another cgroup, which is emptied when a daemon starts.
	host, err := shim.NewHost(ctx, shim.Options{
		Binary: binary, Dir: w.cfg.Root, CgroupParent: w.cgroupParent() + "-containers", Network: w.network, Log: os.Stderr,
	})
	if err != nil {
		return fmt.Errorf("getting ready for containers: %w", err)
	}
	w.onClose(host.Close)
	var devices executor.Devices // nil, not a nil *cdi.Devices, if there are none
	if w.devices.Enabled() {
		devices = w.devices
	}
	w.containers, err = container.New(container.Deps{
		Dir: w.path("containers"), DB: w.meta, Host: host, Snapshots: w.snapshots, Driver: w.snapshotter, Images: w.images,
		Leases: w.leases, Maker: eventlog.Maker(svc, svc, w.events), Volumes: w.volumes, Network: w.networks, Events: w.events, Meter: w.counters,
		Devices: devices, Emulators: emulators,
		Platform: platforms.Normalize(platforms.DefaultSpec()), Log: w.log,
	})
	if err != nil {
		return err
	}
	w.onClose(w.containers.Close)
	w.networks.SetContainers(w.containers)
	return w.containers.Restore(ctx)
}

// networkOptions are what the configuration says of containers' networks.
func (w *wiring) networkOptions() (_ containernet.Options, err error) {
	b := &w.cfg.Bridge
	opts := containernet.Options{
		ID: w.id, Dir: w.path("netns"), DB: w.meta, Events: w.events, Log: w.log,
		Bridge: b.Name, MTU: b.MTU, NoICC: b.ICC != nil && !*b.ICC,
	}
	if opts.Subnet, err = b.Prefix(); err != nil {
		return opts, err
	}
	if opts.HostGateway, err = b.Gateways(); err != nil {
		return opts, err
	}
	for i := range b.Pools {
		base, err := b.Pools[i].Range()
		if err != nil {
			return opts, err
		}
		opts.Pools = append(opts.Pools, ipam.Pool{Base: base, Size: b.Pools[i].Size})
	}
	opts.ResolvConf, err = w.resolvConf()
	return opts, err
}

// cgroupParent is the cgroup that builds have theirs in. It is nobody else's, since what is found in it is removed.
func (w *wiring) cgroupParent() string { return path.Join("/", w.cfg.CgroupParent, "boxbuild-"+w.id) }

// containerLeases is what containers stand on. The leases are there before the containers, and nothing is collected before
// both are.
func (w *wiring) containerLeases() lease.Source {
	return lease.Source{Kind: lease.Container, Class: lease.Pinned, List: func(ctx context.Context) iter.Seq2[lease.Info, error] {
		return w.containers.Source().List(ctx)
	}}
}
