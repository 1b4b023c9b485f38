package builder

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/transfer"
)

// Keys of the metadata of a result, as BuildKit's exporters name them.
const (
	metaDigest     = "containerimage.digest"
	metaConfig     = "containerimage.config.digest"
	metaDescriptor = "containerimage.descriptor"
	metaName       = "image.name"
)

// A result is what a build has made, on its way out.
type result struct {
	images []*built
	multi  bool // an index, also of one
	em     *emitter
	said   map[string][]byte // by the frontend
	out    *worker.BuildResult
	place  int // of the output in hand, see worker.BuildResult
}

// saidPrefix begins what of a frontend's metadata is for whoever asked for the build.
const saidPrefix = "frontend."

// export puts the images where the request wants them.
func (b *Builder) export(ctx context.Context, r *result, plans []plan) (*worker.BuildResult, error) {
	r.out = &worker.BuildResult{Metadata: make(map[string]string)}
	for k, v := range r.said {
		if strings.HasPrefix(k, saidPrefix) {
			r.out.Metadata[k] = string(v)
		}
	}
	r.note(r.images)
	for i := range plans {
		if err := b.exportOne(ctx, *r, &plans[i]); err != nil {
			return &worker.BuildResult{Exports: r.out.Exports, Documents: r.out.Documents}, err
		}
		if plans[i].Type != worker.OutputNone {
			r.place++
		}
	}
	return r.out, nil
}

// keep notes that the output in hand has exported what desc describes, whose documents stay with the record of the build.
func (b *Builder) keep(ctx context.Context, r *result, desc exporter.Descriptor, docs []exporter.Document) error {
	if err := b.deps.Transfer.Keep(ctx, docs); err != nil {
		return fmt.Errorf("keeping what was exported: %w", err)
	}
	if r.out.Exports == nil {
		r.out.Exports = make(map[int]exporter.Descriptor)
	}
	r.out.Exports[r.place] = desc
	for _, doc := range docs {
		if d := doc.Descriptor.Digest; !slices.Contains(r.out.Documents, d) {
			r.out.Documents = append(r.out.Documents, d)
		}
	}
	return describe(r.out, desc)
}

// note says which images the build made. The last output that wanted others than those before it counts.
func (r *result) note(images []*built) {
	names := r.out.Images
	r.out.Images = nil
	for i, img := range images {
		b := worker.BuiltImage{Platform: img.Platform, ID: img.ID}
		if i < len(names) {
			b.Names = names[i].Names
		}
		r.out.Images = append(r.out.Images, b)
	}
	if !r.multi && len(images) == 1 {
		r.out.Metadata[metaConfig] = string(images[0].ID)
	}
}

func (b *Builder) exportOne(ctx context.Context, r result, p *plan) error {
	switch p.Type {
	case worker.OutputNone:
		return nil
	case worker.OutputLocal, worker.OutputTar:
		return b.exportFiles(ctx, &r, p)
	case worker.OutputDocker:
		if r.multi {
			return errors.New("docker exporter does not currently support exporting manifest lists")
		}
	case worker.OutputImage, worker.OutputOCI:
	}
	if p.Attested && annotatesIndex(p.annotations) && !r.multi {
		r.multi = true
		delete(r.out.Metadata, metaConfig)
	}
	if p.Type == worker.OutputImage {
		return b.exportImage(ctx, &r, p)
	}
	return b.exportArchive(ctx, &r, p)
}

// finish makes the images what the output wants, in the words in which BuildKit tells it.
func (b *Builder) finish(ctx context.Context, r *result, p *plan, pr *progress) error {
	if p.rewrite {
		epoch := p.clock.of(r.images[0].epoch)
		if epoch == nil {
			r.em.emit(solver.Event{Kind: solver.Warned, Vertex: pr.v, Warning: solver.Warning{
				Short: "rewrite-timestamp is specified, but no source-date-epoch was found",
			}})
		} else {
			pr.begin("exporting layers")() // it goes on when they have their times
			defer pr.begin(fmt.Sprintf("rewriting layers with source-date-epoch %d (%s)", epoch.Unix(), epoch.UTC()))()
		}
	}
	images, err := b.variants(ctx, r.images, p)
	if err != nil {
		return err
	}
	r.images = images
	r.note(images)
	return nil
}

// exportImage puts the images into the store, which moves no bytes, and pushes them if asked.
//
// A single image without wishes as to its manifest gets none before it leaves the store: its ID is enough to know it by.
// Several get an index, since only that stands for all of them: the store has it even if there is no name for it.
func (b *Builder) exportImage(ctx context.Context, r *result, p *plan) error {
	u := image.Update{Names: p.names}
	if p.byDigest {
		u.Names = nil
	}
	documented := r.multi || p.documented()
	err := r.em.step(ctx, "exporting to image", func(ctx context.Context, pr *progress) error {
		if err := b.finish(ctx, r, p, pr); err != nil {
			return err
		}
		for _, img := range r.images {
			u.Images = append(u.Images, img.Image)
		}
		if documented && !p.Push {
			if err := b.document(ctx, r, p, &u, pr); err != nil {
				return err
			}
		}
		if p.store {
			if err := b.name(ctx, &u, pr, documented || p.Push); err != nil {
				return err
			}
		}
		if p.Push {
			return b.push(ctx, r, p, &u, pr)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !documented && !p.Push {
		r.out.Metadata[metaDigest] = string(r.images[0].ID)
	}
	r.named(p)
	return nil
}

// name puts the images of u into the store. What is exported is told elsewhere of one that has documents.
func (b *Builder) name(ctx context.Context, u *image.Update, pr *progress, told bool) error {
	layers := func() {}
	if !told {
		layers = pr.begin("exporting layers")
	}
	err := b.storeImages(ctx, u)
	layers()
	if err != nil {
		return err
	}
	for _, img := range u.Images {
		pr.begin("writing image " + string(img.ID))()
	}
	for _, n := range u.Names {
		pr.begin("naming to " + n)()
	}
	return nil
}

// document makes the manifests of an image, and its index if it has one, and adds them to u.
func (b *Builder) document(ctx context.Context, r *result, p *plan, u *image.Update, pr *progress) error {
	out, err := b.exported(ctx, r, p)
	if err != nil {
		return err
	}
	var docs *transfer.Documents
	err = pr.part("exporting layers", func() (err error) {
		docs, err = b.deps.Transfer.Documents(ctx, out, p.form)
		return err
	})
	if err != nil {
		return err
	}
	pr.made(docs.Contents)
	u.Index, u.Documents = docs.Index, docs.Manifests
	return b.keep(ctx, r, docs.Top, docs.Contents.Documents)
}

// push pushes the images. What the registry then has is what a later push of the name pushes, too.
func (b *Builder) push(ctx context.Context, r *result, p *plan, u *image.Update, pr *progress) error {
	out, err := b.exported(ctx, r, p)
	if err != nil {
		return err
	}
	layers, sent := pr.begin("exporting layers"), func() {}
	defer layers()
	defer func() { sent() }()
	var made exporter.Contents
	desc, err := b.deps.Transfer.Export(ctx, out, transfer.ExportOptions{
		Form: p.form, ByDigest: p.byDigest, Insecure: p.insecure,
		Made: func(c exporter.Contents) {
			layers()
			pr.made(c)
			made = c
			sent = pr.begin("pushing layers") // some are on their way already
		},
		Sent: func() { sent() },
		Status: func(s solver.Status) {
			if s.ID, s.Action = s.Action+" "+s.ID, ""; strings.Contains(s.ID, " manifest for ") {
				s.Current, s.Total = 0, 0 // BuildKit's clients are used to none
			}
			pr.status(s)
		},
	})
	if err != nil {
		if ctx.Err() == nil {
			b.keepUnpushed(ctx, r, out, p)
		}
		return err
	}
	if (r.multi || p.documented()) && p.store {
		docs, err := b.deps.Transfer.Documents(ctx, out, p.form)
		if err != nil {
			return err
		}
		u.Index, u.Documents = docs.Index, docs.Manifests
		if !p.byDigest {
			u.Served = &image.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
		}
		if err := b.storeImages(ctx, u); err != nil {
			return err
		}
	}
	return b.keep(ctx, r, desc, made.Documents)
}

// keepUnpushed has the record of the build show what was to be pushed, as BuildKit's does, which pushes what it has exported
// before. What compressing is left for that the next push finds done. That it cannot be is not what the user is to hear of.
func (b *Builder) keepUnpushed(ctx context.Context, r *result, out *exporter.Image, p *plan) {
	if docs, err := b.deps.Transfer.Documents(ctx, out, p.form); err == nil {
		_ = b.keep(ctx, r, docs.Top, docs.Contents.Documents)
	}
}

// named notes under which names the images are known.
func (r *result) named(p *plan) {
	names := p.names
	if p.dangling != "" && (len(names) == 0 || !p.danglingEmptyOnly) {
		names = append(slices.Clone(names), p.dangling+"@"+r.out.Metadata[metaDigest])
	}
	for i := range r.out.Images {
		img := &r.out.Images[i]
		for _, n := range names {
			if !slices.Contains(img.Names, n) {
				img.Names = append(img.Names, n)
			}
		}
		if len(img.Names) > 0 {
			r.out.Metadata[metaName] = strings.Join(img.Names, ",")
		}
	}
	if len(names) == 0 {
		return
	}
	r.out.LastNamed = strings.Join(names, ",")
	if p.said != "" && p.Type == worker.OutputImage && len(names) == len(p.names) {
		r.out.LastNamed = p.said
	}
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
		if err != nil || !sameImages(name, u) || !sameDocuments(name, u) {
			return false
		}
	}
	if len(u.Names) > 0 || u.Index == nil {
		return true
	}
	indices, err := b.deps.Store.Unnamed()
	return err == nil && slices.ContainsFunc(indices, func(n *image.Name) bool { return sameImages(n, u) && sameDocuments(n, u) })
}

func sameImages(name *image.Name, u *image.Update) bool {
	return slices.EqualFunc(name.Images, u.Images, func(id digest.Digest, img *image.Image) bool { return id == img.ID })
}

func sameDocuments(name *image.Name, u *image.Update) bool {
	if (name.Index == nil) != (u.Index == nil) || len(name.Documents) != len(u.Documents) {
		return false
	}
	for i := range u.Documents {
		if name.Documents[i].Digest != u.Documents[i].Digest {
			return false
		}
	}
	return u.Index == nil || u.Index.Digest == name.Index.Digest
}

// exported makes the images ready for an exporter.
func (b *Builder) exported(ctx context.Context, r *result, p *plan) (*exporter.Image, error) {
	out := &exporter.Image{Names: p.names, Multi: r.multi}
	for _, img := range r.images {
		m, err := b.deps.Transfer.Manifest(ctx, img.Image)
		if err != nil {
			return nil, err
		}
		markRewritten(&m, img, p.rewrite)
		if m.Raw != nil && saysForeign(m.Raw.Bytes) != p.form.Nondist {
			m.Raw = nil // the layers are to be called by other names
		}
		out.Manifests = append(out.Manifests, m)
	}
	return out, annotate(out, p.annotations)
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
