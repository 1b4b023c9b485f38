package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor/cdi"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/api/buildkit"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/bridge"
)

// dockerfileVersion is the version of BuildKit's Dockerfile frontend whose language ours is.
const dockerfileVersion = "1.26"

// buildkit returns the server of BuildKit's API for the daemon that d is of.
func (w *wiring) buildkit(d *daemon, devices *cdi.Devices, fronts *bridge.Bridge) (*buildkit.Server, error) {
	id, err := w.workerID()
	if err != nil {
		return nil, err
	}
	rules, err := w.workerGC()
	if err != nil {
		return nil, err
	}
	sessions := bksession.New(bksession.Options{Store: w.received})
	opt := buildkit.Options{
		Builder: d.Gate, Images: d.Images, Sessions: sessions,
		Watch: w.history.Watch, History: w.records, Platform: d.Platform, Platforms: d.Platforms, Entitlements: w.cfg.Entitlements,
		Worker: buildkit.Worker{
			ID: id, Labels: w.workerLabels(), GC: rules, HostGateway: w.hostGateway,
			Devices: func() []*apitypes.CDIDevice { return w.workerDevices(devices) },
			Package: "github.com/boxbuild/boxbuild", Version: version, Dockerfile: dockerfileVersion,
		},
		FreeSpace: w.freeSpace,
		Log:       w.log,
		Direct:    fronts.Direct,
		Inputs:    fronts.Dockerfile,
	}
	if w.cfg.Frontends.Gateway.On() {
		opt.Gateway = fronts.Gateway
	}
	bk := buildkit.New(opt)
	w.engine(d, id, bk, sessions)
	w.workers = func(ctx context.Context) []*apitypes.WorkerRecord {
		list, err := bk.ListWorkers(ctx, &controlapi.ListWorkersRequest{})
		if err != nil {
			return nil // the daemon is going down
		}
		return list.GetRecord()
	}
	return bk, nil
}

// frontends makes what frontends are run by that are not the daemon's own.
func (w *wiring) frontends(host op.Platform) (*bridge.Bridge, error) {
	gateway := w.cfg.Frontends.Gateway
	return bridge.New(bridge.Options{
		Dockerfile: dockerfile.New(), Platform: host, AllowedRepositories: gateway.AllowedRepositories, NoImages: !gateway.On(),
		Workers: func(ctx context.Context) []*apitypes.WorkerRecord { return w.workers(ctx) }, Log: w.log,
	})
}

// freeSpace is how many bytes are free where the store is.
func (w *wiring) freeSpace() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(w.cfg.Root, &st); err != nil {
		return 0, fmt.Errorf("asking how much space is free: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// workerID is what the daemon of this root is called among workers. It is made up once.
func (w *wiring) workerID() (string, error) {
	b, err := os.ReadFile(w.path("workerid"))
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := strings.ToLower(rand.Text())[:25] // as long as BuildKit's
	return id, os.WriteFile(w.path("workerid"), []byte(id), 0o600)
}

// workerLabels describe the daemon by the names that BuildKit has for that.
func (w *wiring) workerLabels() map[string]string {
	const prefix = "org.mobyproject.buildkit.worker."
	hostname, _ := os.Hostname() // empty if it has none
	snapshotter := map[string]string{"overlay": "overlayfs"}[w.snapshotter]
	if snapshotter == "" {
		snapshotter = w.snapshotter
	}
	labels := map[string]string{
		prefix + "executor": "oci", prefix + "hostname": hostname, prefix + "network": "bridge",
		prefix + "oci.process-mode": "sandbox", prefix + "selinux.enabled": "false", prefix + "snapshotter": snapshotter,
	}
	maps.Copy(labels, w.cfg.Worker.OCI.Labels)
	return labels
}

func (w *wiring) workerDevices(devices *cdi.Devices) []*apitypes.CDIDevice {
	list, err := devices.List()
	if err != nil {
		w.log.Warn("listing devices", "error", err)
	}
	var out []*apitypes.CDIDevice
	for _, d := range list {
		out = append(out, &apitypes.CDIDevice{Name: d.Name, AutoAllow: d.AutoAllowed, Annotations: d.Annotations})
	}
	return out
}
