package builder

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// Keys of the metadata of a result, as BuildKit's exporters name them.
const (
	metaDigest     = "containerimage.digest"
	metaConfig     = "containerimage.config.digest"
	metaDescriptor = "containerimage.descriptor"
	metaName       = "image.name"
)

// export puts the images where the request wants them.
func (b *Builder) export(ctx context.Context, images []*built, plans []plan, em *emitter) (*worker.BuildResult, error) {
	res := &worker.BuildResult{Metadata: make(map[string]string)}
	for _, img := range images {
		res.Images = append(res.Images, worker.BuiltImage{Platform: img.Platform, ID: img.ID})
	}
	if len(images) == 1 {
		res.Metadata[metaConfig] = string(images[0].ID)
	}
	for _, p := range plans {
		var err error
		switch p.Type {
		case worker.OutputNone:
		case worker.OutputImage:
			err = b.exportImage(ctx, images, &p, em, res)
		case worker.OutputDocker, worker.OutputOCI:
			err = b.exportArchive(ctx, images, &p, em, res)
		case worker.OutputLocal, worker.OutputTar:
			err = b.exportFiles(ctx, images, &p, em)
		}
		if err != nil {
			return nil, err
		}
	}
	return res, nil
}

// exportImage puts the images into the store, which moves no bytes, and pushes them if asked.
func (b *Builder) exportImage(ctx context.Context, images []*built, p *plan, em *emitter, res *worker.BuildResult) error {
	err := em.step(ctx, "exporting to image", func(ctx context.Context, pr *progress) error {
		u := image.Update{Names: p.names}
		for _, img := range images {
			u.Images = append(u.Images, img.Image)
			if err := pr.part("writing image "+string(img.ID), func() error { return nil }); err != nil {
				return err
			}
		}
		if err := b.storeImages(ctx, &u); err != nil {
			return err
		}
		for _, n := range p.names {
			_ = pr.part("naming to "+n, func() error { return nil })
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range images {
		for _, n := range p.names {
			if !slices.Contains(res.Images[i].Names, n) {
				res.Images[i].Names = append(res.Images[i].Names, n)
			}
		}
		if len(p.names) > 0 {
			res.Metadata[metaName] = strings.Join(res.Images[i].Names, ",")
		}
	}
	if !p.Push {
		if len(images) == 1 {
			res.Metadata[metaDigest] = string(images[0].ID)
		}
		return nil
	}
	return em.step(ctx, "pushing "+image.Familiar(p.names[0]), func(ctx context.Context, pr *progress) error {
		out, err := b.exported(ctx, images, p)
		if err != nil {
			return err
		}
		desc, err := b.deps.Transfer.Export(ctx, out, p.form, pr.status)
		if err != nil {
			return err
		}
		return describe(res, desc)
	})
}

// storeImages puts images into the store, unless it has them under these names already.
func (b *Builder) storeImages(ctx context.Context, u *image.Update) error {
	if b.stored(u) {
		return nil
	}
	if err := b.deps.Layers.Sync(ctx, u.Images...); err != nil {
		return err
	}
	return b.deps.Store.Update(*u)
}

// stored says whether an update would change nothing: the usual case of a build that found everything in the cache.
func (b *Builder) stored(u *image.Update) bool {
	for _, img := range u.Images {
		have, err := b.deps.Store.Get(string(img.ID), nil)
		if err != nil || have.ID != img.ID || len(have.Layers) != len(img.Layers) {
			return false
		}
		for i := range img.Layers {
			if have.Layers[i].Snapshot != img.Layers[i].Snapshot {
				return false
			}
		}
	}
	for _, n := range u.Names {
		name, err := b.deps.Store.Name(n)
		if err != nil || len(name.Images) != len(u.Images) {
			return false
		}
		for i, img := range u.Images {
			if name.Images[i] != img.ID {
				return false
			}
		}
	}
	return true
}

// exported makes the images ready for an exporter.
func (b *Builder) exported(ctx context.Context, images []*built, p *plan) (*exporter.Image, error) {
	out := &exporter.Image{Names: p.names}
	for _, img := range images {
		m, err := b.deps.Transfer.Manifest(ctx, img.Image)
		if err != nil {
			return nil, err
		}
		out.Manifests = append(out.Manifests, m)
	}
	return out, nil
}

// describe adds what was exported to the metadata of a result.
func describe(res *worker.BuildResult, desc exporter.Descriptor) error {
	res.Metadata[metaDigest] = string(desc.Digest)
	raw, err := json.Marshal(desc)
	if err != nil {
		return fmt.Errorf("describing what was exported: %w", err)
	}
	res.Metadata[metaDescriptor] = base64.StdEncoding.EncodeToString(raw)
	return nil
}
