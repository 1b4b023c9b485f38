package container

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/worker"
)

// mounts decides on what is mounted, makes the volumes that are missing and fills those that are empty. The container's
// turn is held, and its layer is made.
func (cr *creation) mounts(ctx context.Context) error {
	asked, err := cr.asked()
	if err != nil {
		return err
	}
	for i := range asked {
		if err := cr.prepare(ctx, &asked[i]); err != nil {
			return err
		}
	}
	cr.rec.Mounts = make([]mountPoint, len(asked))
	for i := range asked {
		cr.rec.Mounts[i] = asked[i].mountPoint
	}
	return cr.fill(ctx)
}

// An askedMount is a mount that was asked for, with what a volume is to be made of.
type askedMount struct {
	mountPoint
	options *mount.VolumeOptions
}

// asked gathers the mounts from all places where they can be asked for. Of --volumes-from others may take the place; the
// image's volumes are for targets that nothing else has.
func (cr *creation) asked() ([]askedMount, error) {
	host := cr.rec.HostConfig
	inherited, err := cr.inherited(host.VolumesFrom)
	if err != nil {
		return nil, err
	}
	var own []askedMount
	for _, spec := range host.Binds {
		p, err := parseBind(spec)
		if err != nil {
			return nil, err
		}
		p.ReadOnlyTop = p.Type == mount.TypeBind && p.ReadOnly && cr.readOnlyTop
		own = append(own, askedMount{mountPoint: p})
	}
	for i := range host.Mounts {
		p, err := parseMount(&host.Mounts[i])
		if err != nil {
			return nil, err
		}
		own = append(own, askedMount{p, host.Mounts[i].VolumeOptions})
	}
	for _, target := range slices.Sorted(maps.Keys(host.Tmpfs)) {
		p := mountPoint{Type: mount.TypeTmpfs, Target: target, Options: strings.Split(host.Tmpfs[target], ","), Plain: true}
		if err := cleanTarget(&p); err != nil {
			return nil, worker.Invalidf("invalid mount config for type %q: %v", p.Type, err)
		}
		own = append(own, askedMount{mountPoint: p})
	}
	taken := make(map[string]bool)
	for i := range own {
		if taken[own[i].Target] {
			return nil, worker.Invalidf("Duplicate mount point: %s", own[i].Target)
		}
		taken[own[i].Target] = true
		if p := own[i].mountPoint; p.Type == mount.TypeTmpfs { // now, and not when it starts
			if err := tmpfs(new(executor.Mount), p.Options); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range inherited {
		if !taken[p.Target] {
			own = append(own, askedMount{mountPoint: p})
			taken[p.Target] = true
		}
	}
	for _, target := range slices.Sorted(maps.Keys(cr.rec.Config.Volumes)) {
		// A relative path is one below the root.
		p := mountPoint{Type: mount.TypeVolume, Target: path.Join("/", target), Copy: true, Anonymous: true}
		if err := cleanTarget(&p); err != nil {
			return nil, worker.Invalidf("invalid volume specification: '%s': %v", target, err)
		}
		if !taken[p.Target] {
			own = append(own, askedMount{mountPoint: p})
			taken[p.Target] = true
		}
	}
	return own, nil
}

// inherited are the mounts of the containers that --volumes-from names, the last of each target.
func (cr *creation) inherited(from []string) ([]mountPoint, error) {
	var out []mountPoint
	for _, spec := range from {
		ref, mode, set := strings.Cut(spec, ":")
		if ref == "" {
			return nil, worker.Invalidf("malformed volumes-from specification: %q", spec)
		}
		if set && (!validMode(mode) || strings.Contains(mode, "copy") || hasPropagation(mode)) {
			return nil, worker.Invalidf("invalid mode: %s", mode)
		}
		c, err := cr.m.find(ref)
		if err != nil {
			// Not "not found": clients would pull the image, and try again.
			return nil, worker.Invalidf("%v", err)
		}
		for _, p := range c.get().Mounts {
			if p.Plain {
				continue
			}
			p.ReadOnly = p.ReadOnly || slices.Contains(strings.Split(mode, ","), "ro")
			p.Copy, p.Mode = false, ""
			out = slices.DeleteFunc(out, func(o mountPoint) bool { return o.Target == p.Target })
			out = append(out, p)
		}
	}
	return out, nil
}

func hasPropagation(mode string) bool {
	return slices.ContainsFunc(strings.Split(mode, ","), func(word string) bool { return modes[word] == "propagation" })
}

// prepare makes sure that what is mounted is there, and stays.
func (cr *creation) prepare(ctx context.Context, a *askedMount) error {
	switch a.Type {
	case mount.TypeImage:
		return cr.prepareImage(ctx, &a.mountPoint)
	case mount.TypeVolume:
		return cr.prepareVolume(ctx, a)
	case mount.TypeBind, mount.TypeTmpfs, mount.TypeNamedPipe, mount.TypeCluster:
	}
	return nil
}

func (cr *creation) prepareImage(ctx context.Context, p *mountPoint) error {
	img, err := cr.m.deps.Images.Get(p.Source, nil)
	if errors.Is(err, image.ErrNotFound) {
		return noImage(p.Source)
	}
	if err != nil {
		return err
	}
	if len(img.Layers) == 0 {
		return worker.Invalidf("invalid mount config for type %q: image %s has no files", p.Type, p.Source)
	}
	p.Snapshot = img.Layers[len(img.Layers)-1].Snapshot
	return cr.lease.Hold(ctx, lease.ID(p.Snapshot))
}

func (cr *creation) prepareVolume(ctx context.Context, a *askedMount) error {
	vols, id := cr.m.deps.Volumes, cr.rec.ID
	if a.Name == "" || a.Name != "" && !a.Anonymous {
		req := &volume.CreateRequest{Name: a.Name, Driver: cr.rec.HostConfig.VolumeDriver}
		if o := a.options; o != nil {
			req.Labels = o.Labels
			if o.DriverConfig != nil {
				req.Driver, req.DriverOpts = o.DriverConfig.Name, o.DriverConfig.Options
			}
		}
		if a.Anonymous {
			if err := cr.own(req); err != nil {
				return err
			}
		}
		v, created, err := vols.Ensure(ctx, req)
		if err != nil {
			return err
		}
		a.Name = v.Name
		if created && a.Anonymous {
			cr.undo = append(cr.undo, func() {
				cr.m.warn("removing a volume that was made", vols.Remove(context.WithoutCancel(ctx), v.Name, false))
			})
		}
	}
	if err := vols.Hold(a.Name, id); err != nil {
		return err
	}
	cr.undo = append(cr.undo, func() { vols.Drop(a.Name, id) })
	return nil
}

// contains says whether target is at or below dir.
func contains(dir, target string) bool {
	return dir == "/" || target == dir || strings.HasPrefix(target, path.Clean(dir)+"/")
}
