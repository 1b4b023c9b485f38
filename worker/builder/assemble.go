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
)

// A built is an image that a build has made: what is to be exported.
type built struct {
	*image.Image
	top   snapshot.ID // the whole tree
	epoch *time.Time
}

// assemble makes an image of the tree whose top snapshot is given: the layers are the snapshots below it, and their
// diff IDs, which have been computed while later steps ran, complete the configuration.
func (b *Builder) assemble(ctx context.Context, img *frontend.Image, top snapshot.ID) (*built, error) {
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
	out := &built{Image: &image.Image{Platform: img.Platform}, top: top, epoch: img.Epoch}
	draft := imagedoc.Draft{Epoch: img.Epoch}
	if img.BaseConfig != nil {
		draft.Base = img.BaseConfig.History
	}
	for i, info := range chain {
		derived, err := b.deps.Layers.DiffIDs.Wait(ctx, info.ID)
		if err != nil {
			return nil, err
		}
		l := imagedoc.Layer{DiffID: derived.DiffID}
		if i >= len(baseIDs) {
			created := info.Created.UTC()
			l.Created = &created
		}
		draft.Layers = append(draft.Layers, l)
		out.Layers = append(out.Layers, image.Layer{
			DiffID: derived.DiffID, Snapshot: info.ID, Size: derived.Size, Files: derived.Files,
		})
	}
	if draft.JSON, err = json.Marshal(img.Config); err != nil {
		return nil, fmt.Errorf("writing the image's configuration: %w", err)
	}
	if out.Config, err = imagedoc.Config(draft); err != nil {
		return nil, err
	}
	out.ID = digest.FromBytes(out.Config)
	var final frontend.ImageConfig
	if err := json.Unmarshal(out.Config, &final); err == nil && final.Created != nil {
		out.Created = *final.Created
	}
	return out, nil
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
