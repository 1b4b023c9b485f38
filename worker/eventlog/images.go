package eventlog

import (
	"context"
	"io"
	"strconv"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// Images returns images that tell to what is done with them, whoever does it.
func Images(next worker.Images, to worker.Events) worker.Images { return &images{next, to} }

// Builder returns a builder that tells to which images it has made.
func Builder(next worker.Builder, to worker.Events) worker.Builder { return &builder{next, to} }

type images struct {
	worker.Images
	to worker.Events
}

type builder struct {
	next worker.Builder
	to   worker.Events
}

// told publishes an event of an image, which is known by an ID or a reference. Its name is an attribute.
func told(to worker.Events, action events.Action, id, name string) {
	attrs := map[string]string{}
	if name != "" {
		attrs["name"] = name
	}
	to.Publish(events.Message{Type: events.ImageEventType, Action: action, Actor: events.Actor{ID: id, Attributes: attrs}})
}

// familiar is a reference as docker shows it, with the tag that is meant.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// id is the ID of an image, or its name where that cannot be had.
func (i *images) id(ctx context.Context, ref string) string {
	img, err := i.Images.Inspect(ctx, ref, nil)
	if err != nil {
		return ref
	}
	return img.ID.String()
}

// Tag implements worker.Images.
func (i *images) Tag(ctx context.Context, src, dst string) error {
	err := i.Images.Tag(ctx, src, dst)
	if err == nil {
		told(i.to, events.ActionTag, i.id(ctx, dst), familiar(dst))
	}
	return err
}

// Remove implements worker.Images. What was removed before an error is told of too.
func (i *images) Remove(ctx context.Context, ref string, opt worker.RemoveOptions) ([]worker.Removed, error) {
	id := i.id(ctx, ref)
	out, err := i.Images.Remove(ctx, ref, opt)
	removed(i.to, id, out)
	return out, err
}

// removed tells of effects of a removal.
func removed(to worker.Events, id string, list []worker.Removed) {
	for _, r := range list {
		if r.Deleted != "" {
			told(to, events.ActionDelete, r.Deleted, r.Deleted)
		} else {
			told(to, events.ActionUnTag, id, r.Untagged)
		}
	}
}

// Pull implements worker.Images.
func (i *images) Pull(ctx context.Context, ref string, opt worker.TransferOptions) (*worker.PullResult, error) {
	res, err := i.Images.Pull(ctx, ref, opt)
	if err == nil {
		told(i.to, events.ActionPull, familiar(ref), repository(ref))
	}
	return res, err
}

// Push implements worker.Images.
func (i *images) Push(ctx context.Context, ref string, opt worker.TransferOptions) (ocispec.Descriptor, error) {
	desc, err := i.Images.Push(ctx, ref, opt)
	if err == nil {
		told(i.to, events.ActionPush, familiar(ref), repository(ref))
	}
	return desc, err
}

// Load implements worker.Images.
func (i *images) Load(ctx context.Context, r io.Reader, opt worker.LoadOptions) ([]worker.Loaded, error) {
	list, err := i.Images.Load(ctx, r, opt)
	for _, l := range list {
		told(i.to, events.ActionLoad, l.ID.String(), l.Name)
	}
	return list, err
}

// Save implements worker.Images.
func (i *images) Save(ctx context.Context, refs []string, platforms []op.Platform, w io.Writer) error {
	err := i.Images.Save(ctx, refs, platforms, w)
	if err == nil {
		for _, ref := range refs {
			told(i.to, events.ActionSave, i.id(ctx, ref), ref)
		}
	}
	return err
}

// Import implements worker.Images.
func (i *images) Import(ctx context.Context, r io.Reader, opt worker.ImportOptions) (digest.Digest, error) {
	id, err := i.Images.Import(ctx, r, opt)
	if err == nil {
		told(i.to, events.ActionImport, id.String(), opt.Name)
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
		removed(i.to, "", rep.Images)
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
		told(b.to, events.ActionCreate, img.ID.String(), "")
		for _, n := range img.Names {
			told(b.to, events.ActionTag, img.ID.String(), familiar(n))
		}
	}
	return res, nil
}
