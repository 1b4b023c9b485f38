package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// A creation is one call of Create.
type creation struct {
	m        *Manager
	rec      *record
	image    *image.Image // nil for none
	lease    *lease.Lease
	warnings []string
	undo     []func()
	// readOnlyTop is ContainerCreate.ReadOnlyTop.
	readOnlyTop bool
}

// Create implements worker.Containers.
func (m *Manager) Create(ctx context.Context, req *worker.ContainerCreate) (_ *container.CreateResponse, err error) {
	begin := time.Now()
	defer func() { m.meter("create", begin, err) }()
	cr := &creation{m: m, lease: m.deps.Leases.Acquire("container create")}
	defer cr.lease.Release()
	c, err := cr.make(ctx, req)
	if err != nil {
		return nil, err
	}
	c.publish(events.ActionCreate, nil)
	if cr.warnings == nil {
		cr.warnings = []string{}
	}
	return &container.CreateResponse{ID: c.id, Warnings: cr.warnings}, nil
}

func (cr *creation) make(ctx context.Context, req *worker.ContainerCreate) (_ *ctr, err error) {
	if err := cr.take(ctx, req); err != nil {
		return nil, err
	}
	if err := cr.complete(); err != nil {
		return nil, err
	}
	c := newCtr(cr.m, cr.rec)
	c.turn <- struct{}{} // nobody starts it before it is whole
	defer c.unlock()
	defer func() {
		if err != nil {
			cr.takeBack(c)
		}
	}()
	if err := cr.m.enter(c); err != nil {
		return nil, err
	}
	cr.undo = append(cr.undo, func() { cr.m.leave(c) })
	cr.rec = c.get()
	if err := cr.network(ctx); err != nil {
		return nil, err
	}
	if err := cr.base(ctx); err != nil {
		return nil, err
	}
	if err := cr.layer(ctx); err != nil {
		return nil, err
	}
	if err := cr.mounts(ctx); err != nil {
		return nil, err
	}
	// No error: the root of a foreign image may hold programs for this machine.
	if why := cr.m.foreign(ctx, cr.rec); why != "" {
		cr.warnings = append(cr.warnings, why)
	}
	// All that it stands on is there; from here on the record keeps it.
	cr.undo = append(cr.undo, func() { cr.m.records.forget(c.id) })
	if err := c.save(func(rec *record) { *rec = *cr.rec }); err != nil {
		return nil, err
	}
	return c, nil
}

// takeBack undoes what was made of c, whose turn is held: who has found it meanwhile, and waits, learns that it is none.
func (cr *creation) takeBack(c *ctr) {
	for _, undo := range slices.Backward(cr.undo) {
		undo()
	}
	c.change(func(rec *record) { rec.Status.Phase = Gone })
	c.failPending(nil)
	c.tell(true)
}

// take checks the request and makes the record of it, with the image's defaults.
func (cr *creation) take(ctx context.Context, req *worker.ContainerCreate) error {
	if req.Config == nil {
		return worker.Invalidf("config cannot be empty in order to create a container")
	}
	if req.Name != "" {
		if err := checkName(trimSlash(req.Name)); err != nil {
			return err
		}
	}
	config, host := cloneConfig(req.Config), cloneHostConfig(req.HostConfig)
	if host.NetworkMode.IsContainer() && len(config.ExposedPorts) > 0 { // what an image exposes is no wish of the user's
		return worker.Invalidf("conflicting options: port exposing and the container type network mode")
	}
	given := string(host.NetworkMode)
	host = cr.m.joinsByID(host)
	cr.readOnlyTop = req.ReadOnlyTop
	cr.rec = &record{
		ID: newID(), Name: trimSlash(req.Name), Created: cr.m.now().UTC(), Config: config, HostConfig: host,
		Platform: cr.m.deps.Platform, Status: Status{Phase: Created},
	}
	if req.NetworkingConfig != nil {
		cr.rec.Endpoints = make(map[string]*network.EndpointSettings, len(req.NetworkingConfig.EndpointsConfig))
		for name, e := range req.NetworkingConfig.EndpointsConfig {
			if e == nil {
				e = new(network.EndpointSettings)
			}
			if name == given {
				name = string(host.NetworkMode)
			}
			cr.rec.Endpoints[name] = e.Copy()
		}
	}
	for _, e := range cr.rec.Endpoints {
		if host.NetworkMode.IsContainer() && len(e.MacAddress) > 0 {
			return worker.Invalidf("conflicting options: mac-address and the network mode")
		}
	}
	if err := cr.findImage(ctx, req.Platform); err != nil {
		return err
	}
	if cr.image != nil {
		if err := merge(config, cr.image); err != nil {
			return err
		}
	}
	if e := config.Entrypoint; len(e) == 1 && e[0] == "" {
		config.Entrypoint = nil // it was there to take the image's away
	}
	warnings, err := cr.m.validate(config, host)
	cr.warnings = append(cr.warnings, warnings...)
	return err
}

// findImage finds the image and holds what the container stands on.
func (cr *creation) findImage(ctx context.Context, p *ocispec.Platform) error {
	ref := cr.rec.Config.Image
	if ref == "" {
		return nil // docker allows it: an empty root
	}
	if p != nil && p.OS == "" {
		p = nil
	}
	img, err := cr.m.deps.Images.Get(ref, p)
	if p != nil && (errors.Is(err, image.ErrNotFound) || err == nil && !platforms.Only(*p).Match(img.Platform)) {
		if _, other := cr.m.deps.Images.Get(ref, nil); other == nil {
			return worker.NotFoundf("image with reference %s was found but does not provide the specified platform (%s)",
				ref, platforms.FormatAll(*p))
		}
	}
	switch {
	case errors.Is(err, image.ErrNotFound):
		return noImage(ref)
	case err != nil:
		return err
	}
	if own := cr.m.deps.Platform; p == nil && !platforms.Only(own).Match(img.Platform) {
		cr.warnings = append(cr.warnings, fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) "+
			"and no specific platform was requested", platforms.FormatAll(img.Platform), platforms.FormatAll(own)))
	}
	cr.image, cr.rec.Image, cr.rec.Platform = img, img.ID, img.Platform
	if n := len(img.Layers); n > 0 {
		cr.rec.Snapshot = img.Layers[n-1].Snapshot
		if err := cr.lease.Hold(ctx, lease.ID(cr.rec.Snapshot)); err != nil {
			if errors.Is(err, snapshot.ErrNotFound) {
				return noImage(ref)
			}
			return err
		}
	}
	return nil
}

func noImage(ref string) error {
	if canonical, err := image.Normalize(ref); err == nil && digest.Digest(ref).Validate() != nil {
		ref = image.Familiar(canonical)
	}
	return worker.NotFoundf("No such image: %s", ref)
}

// network checks what the network is asked for.
func (cr *creation) network(ctx context.Context) error {
	host, err := cr.m.linksByID(cr.rec.HostConfig)
	if err != nil {
		return err
	}
	cr.rec.HostConfig = host
	r, err := cr.m.networkRequest(cr.rec)
	if err != nil {
		return err
	}
	if err := cr.m.deps.Network.Check(ctx, r); err != nil {
		return err
	}
	cr.rec.Endpoints = r.Endpoints
	return nil
}

// layer makes the directory and the writable layer.
func (cr *creation) layer(ctx context.Context) error {
	dir := cr.m.dir(cr.rec.ID)
	cr.undo = append(cr.undo, func() { cr.m.warn("removing what was made of a container", os.RemoveAll(dir)) })
	if err := os.Mkdir(dir, 0o710); err != nil {
		return fmt.Errorf("making the directory of the container: %w", err)
	}
	d := snapshot.Draft(cr.rec.ID)
	cr.undo = append(cr.undo, func() {
		cr.m.warn("removing what was made of a container", cr.m.deps.Snapshots.Discard(context.WithoutCancel(ctx), d))
	})
	if err := cr.m.keeper.Keep(ctx, d, cr.rec.Base); err != nil {
		return fmt.Errorf("making the writable layer: %w", err)
	}
	return cr.workingDir(ctx, d)
}

func (m *Manager) dir(id string) string { return filepath.Join(m.deps.Dir, id) }

// warn logs what is no reason to fail.
func (m *Manager) warn(what string, err error) {
	if err != nil && !errdefs.IsNotFound(err) {
		m.log.Warn(what, "error", err)
	}
}

// complete sets what depends on the ID.
func (cr *creation) complete() error {
	c, h := cr.rec.Config, cr.rec.HostConfig
	switch {
	case h.NetworkMode.IsContainer() && c.Hostname == "":
		joined, err := cr.m.find(h.NetworkMode.ConnectedContainer())
		if err != nil {
			return worker.Invalidf("%v", err) // "not found" would have clients pull the image
		}
		other := joined.get().Config
		c.Hostname, c.Domainname = other.Hostname, other.Domainname
	case c.Hostname == "" && (h.NetworkMode.IsHost() || h.UTSMode.IsHost()):
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("asking for the name of the host: %w", err)
		}
		c.Hostname = name
	case c.Hostname == "":
		c.Hostname = short(cr.rec.ID)
	}
	return nil
}
