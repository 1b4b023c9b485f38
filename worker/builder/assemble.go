package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	imagedoc "github.com/boxbuild/boxbuild/exporter/image"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker/images"
)

// A built is an image that a build has made: what is to be exported.
type built struct {
	*image.Image
	top   snapshot.ID // the whole tree
	epoch *time.Time
	draft imagedoc.Draft // of the configuration
	base  int            // how many layers are the base image's
}

// assemble makes an image of the tree whose top snapshot is given: the layers are the snapshots below it, and their
// diff IDs, which have been computed while later steps ran, complete the configuration.
func (b *Builder) assemble(ctx context.Context, img *frontend.Image, top snapshot.ID, em *emitter) (*built, error) {
	chain, err := b.chain(ctx, top)
	if err != nil {
		return nil, err
	}
	var baseIDs []digest.Digest
	if img.BaseConfig != nil {
		baseIDs = img.BaseConfig.RootFS.DiffIDs
	}
	if len(chain) < len(baseIDs) {
		return nil, fmt.Errorf("the result has %d layers, and its base image %d", len(chain), len(baseIDs))
	}
	out := &built{Image: &image.Image{Platform: img.Platform}, top: top, epoch: img.Epoch, base: len(baseIDs)}
	draft := imagedoc.Draft{Epoch: img.Epoch}
	if img.BaseConfig != nil {
		draft.Base = img.BaseConfig.History
	}
	made := makers(img, len(chain)-len(baseIDs))
	for i, info := range chain {
		derived, err := b.deps.Layers.DiffIDs.Wait(ctx, info.ID)
		if err != nil {
			return nil, err
		}
		l := imagedoc.Layer{DiffID: derived.DiffID}
		if i >= len(baseIDs) {
			created := info.Created.UTC()
			v := made[i-len(baseIDs)]
			l.Created, l.CreatedBy = &created, createdBy(v)
			if derived.LeftOut != "" && v != nil {
				em.leftOut(v, derived.LeftOut)
			}
		}
		draft.Layers = append(draft.Layers, l)
		out.Layers = append(out.Layers, image.Layer{
			DiffID: derived.DiffID, Snapshot: info.ID, Size: derived.Size, Files: derived.Files,
		})
	}
	if draft.JSON = img.Raw; draft.JSON != nil {
		out.draft = draft
		return out, out.finish()
	}
	if draft.JSON, err = json.Marshal(img.Config); err != nil {
		return nil, fmt.Errorf("writing the image's configuration: %w", err)
	}
	out.draft = draft
	return out, out.finish()
}

// finish makes the configuration of the draft.
func (img *built) finish() (err error) {
	if img.Config, err = imagedoc.Config(img.draft); err != nil {
		return err
	}
	img.ID = digest.FromBytes(img.Config)
	var final frontend.ImageConfig
	if err := json.Unmarshal(img.Config, &final); err == nil && final.Created != nil {
		img.Created = *final.Created
	}
	return nil
}

// variants returns the images as an output wants them: with other times than the build's, if it says so.
func (b *Builder) variants(ctx context.Context, images []*built, p *plan) ([]*built, error) {
	if !p.clock.set && !p.rewrite {
		return images, nil
	}
	out := make([]*built, len(images))
	for i, img := range images {
		v := *img
		v.Image = &image.Image{Platform: img.Platform, Layers: slices.Clone(img.Layers)}
		v.epoch = p.clock.of(img.epoch)
		v.draft.Epoch, v.draft.Layers = v.epoch, slices.Clone(img.draft.Layers)
		if p.rewrite && v.epoch != nil {
			var err error
			if v.Layers, err = b.deps.Layers.Clamp(ctx, img.Layers, img.clamping(*v.epoch, p)); err != nil {
				return nil, err
			}
			for n, l := range v.Layers {
				v.draft.Layers[n].DiffID, v.top = l.DiffID, l.Snapshot
			}
		}
		if err := v.finish(); err != nil {
			return nil, err
		}
		out[i] = &v
	}
	return out, nil
}

// clamping says how the layers are rewritten that an image has beyond its base.
func (img *built) clamping(epoch time.Time, p *plan) images.Clamping {
	return images.Clamping{From: img.base, Epoch: epoch, Form: p.form, Windows: img.Platform.OS == images.Windows}
}

// chain returns the snapshots from the lowest up to top.
func (b *Builder) chain(ctx context.Context, top snapshot.ID) ([]snapshot.Info, error) {
	var out []snapshot.Info
	for id := top; id != ""; {
		info, err := b.deps.Snapshots.Stat(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("looking at the layers of the result: %w", err)
		}
		out = append(out, info)
		id = info.Parent
	}
	slices.Reverse(out)
	return out, nil
}
