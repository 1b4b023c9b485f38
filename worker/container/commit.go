package container

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/worker"
)

// Commit implements worker.Containers.
func (m *Manager) Commit(ctx context.Context, ref string, opt worker.CommitOptions) (_ string, err error) {
	begin := time.Now()
	defer func() { m.meter("commit", begin, err) }()
	c, err := m.find(ref)
	if err != nil {
		return "", err
	}
	switch c.status().Phase {
	case Dead, Removing, Gone:
		return "", worker.Conflictf("You cannot commit container %s which is %s", c.id, c.status().Phase)
	case Created, Running, Paused, Restarting, Exited:
	}
	if err := c.lock(ctx); err != nil {
		return "", err
	}
	defer c.unlock()
	id, err := c.commit(ctx, &opt)
	if err != nil {
		return "", err
	}
	c.publish(events.ActionCommit, map[string]string{"comment": opt.Message, "imageID": string(id), "imageRef": familiar(opt.Name)})
	return string(id), nil
}

// commit makes the image. The turn is held, so that the container is not run or paused by others meanwhile.
func (c *ctr) commit(ctx context.Context, opt *worker.CommitOptions) (id digest.Digest, err error) {
	rec := c.get()
	d := &worker.Derivation{Parent: rec.Snapshot, Name: opt.Name}
	if rec.Image != "" {
		if d.Base, err = c.m.deps.Images.Get(string(rec.Image), nil); errors.Is(err, image.ErrNotFound) {
			return "", worker.NotFoundf("No such image: %s", rec.Image)
		}
		if err != nil {
			return "", err
		}
	}
	now := c.m.now().UTC()
	file, args := rec.command()
	d.History = ocispec.History{
		Created: &now, CreatedBy: strings.Join(append([]string{file}, args...), " "), Author: opt.Author, Comment: opt.Message,
	}
	d.Edit = func(to *frontend.ImageConfig) error { return c.m.edit(to, rec, opt, now) }
	d.Tar = func(ctx context.Context, w io.Writer) error { return c.writeLayer(ctx, w) }
	if !opt.NoPause && rec.Status.Phase == Running {
		s, err := c.Pause(ctx, rec.Status)
		if err != nil {
			return "", err
		}
		c.change(func(rec *record) { rec.Status = s })
		defer func() {
			s, rerr := c.Resume(context.WithoutCancel(ctx), c.status())
			c.change(func(rec *record) { rec.Status = s })
			err = errors.Join(err, rerr)
		}()
	}
	return c.m.deps.Maker.Derive(ctx, d)
}

// edit makes the config of the container that of the image, with the changes that are asked for.
func (m *Manager) edit(to *frontend.ImageConfig, rec *record, opt *worker.CommitOptions, now time.Time) error {
	config := *rec.Config
	if own := opt.Config; own != nil {
		override(&config, own)
	}
	i := &to.Config
	i.User, i.WorkingDir, i.StopSignal, i.Healthcheck = config.User, config.WorkingDir, config.StopSignal, config.Healthcheck
	i.Env, i.Cmd, i.Entrypoint = slices.Clone(config.Env), slices.Clone(config.Cmd), slices.Clone(config.Entrypoint)
	i.Labels, i.Volumes = maps.Clone(config.Labels), maps.Clone(config.Volumes)
	i.OnBuild, i.Shell, i.ArgsEscaped = slices.Clone(config.OnBuild), slices.Clone(config.Shell), config.ArgsEscaped //nolint:staticcheck // it is part of the API
	i.ExposedPorts = nil
	for port := range config.ExposedPorts {
		if i.ExposedPorts == nil {
			i.ExposedPorts = make(map[string]struct{})
		}
		i.ExposedPorts[port.String()] = struct{}{}
	}
	to.Author, to.Created = opt.Author, &now
	if to.OS == "" {
		to.Platform = rec.Platform
	}
	if err := m.deps.Maker.ApplyChanges(to, opt.Changes); err != nil {
		return worker.Invalidf("%v", err)
	}
	return nil
}

// override puts what own sets over c.
func override(c, own *container.Config) {
	set(&c.User, own.User)
	set(&c.WorkingDir, own.WorkingDir)
	set(&c.StopSignal, own.StopSignal)
	if own.Healthcheck != nil {
		c.Healthcheck = own.Healthcheck
	}
	if len(own.Env) > 0 {
		c.Env = replaceEnv(c.Env, own.Env)
	}
	for to, from := range map[*[]string][]string{
		&c.Cmd: own.Cmd, &c.Entrypoint: own.Entrypoint, &c.OnBuild: own.OnBuild, &c.Shell: own.Shell,
	} {
		if len(from) > 0 {
			*to = from
		}
	}
	c.Labels, c.Volumes, c.ExposedPorts = under(own.Labels, c.Labels), under(own.Volumes, c.Volumes), under(own.ExposedPorts, c.ExposedPorts)
}

// writeLayer writes the layer tar of the container. That a file is left out of it is told to whoever runs the daemon: the
// answer to a commit has no room for it, and docker's layer, which has the file, removes another one wherever it is unpacked.
func (c *ctr) writeLayer(ctx context.Context, w io.Writer) error {
	t, release, err := c.target(ctx)
	if err != nil {
		return err
	}
	defer release()
	var leftOut string
	if err := layer.Diff(ctx, t, w, layer.DiffOptions{LeftOut: &leftOut}); err != nil {
		return err
	}
	if leftOut != "" {
		c.m.log.Warn("a file is left out of an image: in a layer, a name that begins with \".wh.\" removes another file",
			"container", c.id, "file", leftOut)
	}
	return nil
}

// familiar is how docker's events write the name of an image.
func familiar(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name // "" for none
	}
	return reference.FamiliarString(ref)
}
