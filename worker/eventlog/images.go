package eventlog

import (
	"context"
	"io"
	"maps"
	"strconv"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Images returns images that tell to what is done with them, whoever does it.
func Images(next worker.Images, to worker.Events) worker.Images { return &images{next, to} }

// Builder returns a builder that tells to which images it has made. Their labels are read from among.
func Builder(next worker.Builder, among worker.Images, to worker.Events) worker.Builder {
	return &builder{next, among, to}
}

// Maker returns a maker of images that tells which names they were given. Their labels are read from among.
func Maker(next Deriver, among worker.Images, to worker.Events) Deriver {
	return &maker{next, among, to}
}

// A Deriver makes images of containers.
type Deriver interface {
	Derive(ctx context.Context, d *worker.Derivation) (digest.Digest, error)
	ApplyChanges(c *frontend.ImageConfig, changes []string) error
}

type images struct {
	worker.Images
	to worker.Events
}

type builder struct {
	next  worker.Builder
	among worker.Images
	to    worker.Events
}

type maker struct {
	Deriver
	among worker.Images
	to    worker.Events
}

// A subject is the image that an event is of: its ID, or the reference that it is known by, and its labels.
type subject struct {
	id     string
	labels map[string]string
}

// look returns the image of a reference, which stands for its ID where there is none.
func look(ctx context.Context, among worker.Images, ref string) subject {
	img, err := among.Inspect(ctx, ref, nil)
	if err != nil {
		return subject{id: ref}
	}
	return subject{img.ID.String(), img.Labels}
}

// told publishes an event of an image. Its labels and its name are attributes.
func (s subject) told(to worker.Events, action events.Action, name string) {
	attrs := make(map[string]string, len(s.labels)+1)
	maps.Copy(attrs, s.labels)
	if name != "" {
		attrs["name"] = name
	}
	to.Publish(events.Message{Type: events.ImageEventType, Action: action, Actor: events.Actor{ID: s.id, Attributes: attrs}})
}

// familiar is a reference as docker shows it, with the tag that is meant.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// look returns the image of a reference.
func (i *images) look(ctx context.Context, ref string) subject { return look(ctx, i.Images, ref) }

// Tag implements worker.Images.
func (i *images) Tag(ctx context.Context, src, dst string) error {
	err := i.Images.Tag(ctx, src, dst)
	if err == nil {
		i.look(ctx, dst).told(i.to, events.ActionTag, familiar(dst))
	}
	return err
}

// Remove implements worker.Images. What was removed before an error is told of too.
func (i *images) Remove(ctx context.Context, ref string, opt worker.RemoveOptions) ([]worker.Removed, error) {
	img := i.look(ctx, ref)
	out, err := i.Images.Remove(ctx, ref, opt)
	removed(i.to, img, out)
	return out, err
}

// removed tells of effects of a removal. As with docker, what is deleted has no labels any more.
func removed(to worker.Events, img subject, list []worker.Removed) {
	for _, r := range list {
		if r.Deleted != "" {
			subject{id: r.Deleted}.told(to, events.ActionDelete, r.Deleted)
		} else {
			img.told(to, events.ActionUnTag, r.Untagged)
		}
	}
}

// Pull implements worker.Images.
func (i *images) Pull(ctx context.Context, ref string, opt worker.TransferOptions) (*worker.PullResult, error) {
	res, err := i.Images.Pull(ctx, ref, opt)
	if err == nil {
		subject{familiar(ref), i.look(ctx, ref).labels}.told(i.to, events.ActionPull, repository(ref))
	}
	return res, err
}

// Push implements worker.Images.
func (i *images) Push(ctx context.Context, ref string, opt worker.TransferOptions) (ocispec.Descriptor, error) {
	desc, err := i.Images.Push(ctx, ref, opt)
	if err == nil {
		subject{familiar(ref), i.look(ctx, ref).labels}.told(i.to, events.ActionPush, repository(ref))
	}
	return desc, err
}

// Load implements worker.Images.
func (i *images) Load(ctx context.Context, r io.Reader, opt worker.LoadOptions) ([]worker.Loaded, error) {
	list, err := i.Images.Load(ctx, r, opt)
	for _, l := range list {
		i.look(ctx, l.ID.String()).told(i.to, events.ActionLoad, l.Name)
	}
	return list, err
}

// Save implements worker.Images.
func (i *images) Save(ctx context.Context, refs []string, platforms []op.Platform, w io.Writer) error {
	err := i.Images.Save(ctx, refs, platforms, w)
	if err == nil {
		for _, ref := range refs {
			i.look(ctx, ref).told(i.to, events.ActionSave, ref)
		}
	}
	return err
}

// Import implements worker.Images.
func (i *images) Import(ctx context.Context, r io.Reader, opt worker.ImportOptions) (digest.Digest, error) {
	id, err := i.Images.Import(ctx, r, opt)
	if err == nil {
		i.look(ctx, id.String()).told(i.to, events.ActionImport, opt.Name)
	}
	return id, err
}

// Prune implements worker.Images.
func (i *images) Prune(ctx context.Context, opt worker.PruneOptions) (*worker.PruneReport, error) {
	rep, err := i.Images.Prune(ctx, opt)
	if err != nil {
		return rep, err
	}
	freed := map[string]string{"reclaimed": strconv.FormatInt(rep.Freed, 10)}
	if opt.Images {
		removed(i.to, subject{}, rep.Images)
		i.to.Publish(events.Message{Type: events.ImageEventType, Action: events.ActionPrune, Actor: events.Actor{Attributes: freed}})
	}
	if opt.Cache {
		i.to.Publish(events.Message{Type: events.BuilderEventType, Action: events.ActionPrune, Actor: events.Actor{Attributes: freed}})
	}
	return rep, nil
}

// Build implements worker.Builder.
func (b *builder) Build(ctx context.Context, req *worker.BuildRequest, ev func(solver.Event)) (*worker.BuildResult, error) {
	res, err := b.next.Build(ctx, req, ev)
	if err != nil {
		return res, err
	}
	for _, img := range res.Images {
		of := look(ctx, b.among, img.ID.String())
		of.told(b.to, events.ActionCreate, "")
		for _, n := range img.Names {
			of.told(b.to, events.ActionTag, familiar(n))
		}
	}
	return res, nil
}

// Derive makes an image, and tells of the name that it was given.
func (m *maker) Derive(ctx context.Context, d *worker.Derivation) (digest.Digest, error) {
	id, err := m.Deriver.Derive(ctx, d)
	if err == nil && d.Name != "" {
		look(ctx, m.among, id.String()).told(m.to, events.ActionTag, familiar(d.Name))
	}
	return id, err
}
