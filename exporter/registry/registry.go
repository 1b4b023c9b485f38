// Package registry pushes images to registries.
//
// An Exporter is made for one form of layers and one set of credentials, which come with the context, and lives for one
// build. Export makes sure that every repository that the image is named in has all blobs, in parallel: a blob that is
// there is left alone, one that the registry has in another repository is mounted, and the rest is uploaded, compressed
// while others go out. Then come the manifests, by digest, and last, when nothing is missing any more, the tags.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/image"
	dist "github.com/boxbuild/boxbuild/proto/registry"
)

// Options say how to push.
type Options struct {
	Form exporter.Form
	// ByDigest pushes no tags: the result is found by its digest only.
	ByDigest bool
	Progress exporter.Progress // may be nil
	// Came, if not nil, is told how a part of the image came to be in the first of its repositories, before Progress is
	// told that it is done; from is the repository that it was mounted from. It is called by several goroutines.
	Came func(id string, how dist.How, from dist.Repo)
	// Made, if not nil, is told what the image consists of once its layers are there in the form asked for, and Sent is
	// called once, after that, when all repositories have all blobs.
	Made func(exporter.Contents)
	Sent func()
	// Pushed, if not nil, is told of every manifest and index that a repository ("localhost:5000/app") has been given.
	// It is called by several goroutines.
	Pushed func(repo string, doc image.Document)
}

// An Exporter pushes images. It is safe for concurrent use.
type Exporter struct {
	client *dist.Client
	opts   Options
}

var _ exporter.Exporter = (*Exporter)(nil)

// New returns an Exporter that pushes with c.
func New(c *dist.Client, opts Options) *Exporter {
	if opts.Progress == nil {
		opts.Progress = func(string, int64, int64, bool) {}
	}
	if opts.Made == nil {
		opts.Made = func(exporter.Contents) {}
	}
	if opts.Sent == nil {
		opts.Sent = func() {}
	}
	return &Exporter{client: c, opts: opts}
}

// Export implements exporter.Exporter. The image needs a name; its names may be in several repositories and on several
// registries. If one of them fails, no tag has been set anywhere unless it was the tags that failed.
func (e *Exporter) Export(ctx context.Context, img *exporter.Image) (exporter.Descriptor, error) {
	to, err := e.destinations(img.Names)
	if err != nil {
		return exporter.Descriptor{}, err
	}
	if len(img.Manifests) == 0 {
		return exporter.Descriptor{}, errors.New("pushing: the image has no manifest")
	}
	p := &push{Exporter: e, to: to, blobs: map[digest.Digest]*pushing{}}
	all, top, err := p.content(ctx, img)
	if err != nil {
		return exporter.Descriptor{}, err
	}
	e.opts.Sent()
	for i := range img.Manifests {
		if err := checkDiffIDs(ctx, &img.Manifests[i]); err != nil {
			return exporter.Descriptor{}, err
		}
	}
	single := len(all) == 1 && all[0].Manifest.Descriptor.Digest == top.Descriptor.Digest
	if !single {
		if err := p.store(ctx, all); err != nil {
			return exporter.Descriptor{}, err
		}
	}
	if err := p.tag(ctx, top); err != nil {
		return exporter.Descriptor{}, err
	}
	return top.Descriptor, nil
}

// A destination is a repository and the tags to set in it.
type destination struct {
	repo dist.Repo
	tags []string
}

func (e *Exporter) destinations(names []string) ([]destination, error) {
	if len(names) == 0 {
		return nil, errors.New("pushing: the image has no name, which would say where to")
	}
	var to []destination
	for _, name := range names {
		ref, err := dist.ParseRef(name)
		if err != nil {
			return nil, fmt.Errorf("pushing: %w", err)
		}
		i := slices.IndexFunc(to, func(d destination) bool { return d.repo == ref.Repo })
		if i < 0 {
			i = len(to)
			to = append(to, destination{repo: ref.Repo})
		}
		if ref.Tag != "" && !e.opts.ByDigest && !slices.Contains(to[i].tags, ref.Tag) {
			to[i].tags = append(to[i].tags, ref.Tag)
		}
	}
	return to, nil
}

// A push is one Export.
type push struct {
	*Exporter
	to    []destination
	mu    sync.Mutex // guards blobs
	blobs map[digest.Digest]*pushing
}

// content pushes the layers and configs of all manifests, and returns the documents that name them. A layer goes out as
// soon as its blob is made, while other blobs are still being made.
func (p *push) content(ctx context.Context, img *exporter.Image) (all []*image.Assembled, top image.Document, err error) {
	out := *img
	out.Manifests = slices.Clone(img.Manifests)
	g, gctx := errgroup.WithContext(ctx)
	for i := range out.Manifests {
		m := &out.Manifests[i]
		layers := m.Layers
		m.Layers = make([]exporter.Layer, len(layers))
		for j, l := range layers {
			m.Layers[j] = &pushedLayer{l, p}
		}
		g.Go(func() error { return p.config(gctx, m) })
	}
	g.Go(func() (err error) {
		if all, top, err = image.AssembleAll(gctx, &out, p.opts.Form); err != nil {
			return err
		}
		p.opts.Made(image.Contents(all, top))
		return p.layers(gctx, all)
	})
	err = g.Wait()
	return all, top, err
}

// store pushes manifests by digest, which an index will name.
func (p *push) store(ctx context.Context, all []*image.Assembled) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range p.to {
		for _, a := range all {
			g.Go(func() error { return p.put(ctx, d.repo, "", a.Manifest) })
		}
	}
	return g.Wait()
}

// tag pushes the document that the names stand for.
func (p *push) tag(ctx context.Context, doc image.Document) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range p.to {
		tags := d.tags
		if len(tags) == 0 {
			tags = []string{""}
		}
		for _, t := range tags {
			g.Go(func() error { return p.put(ctx, d.repo, t, doc) })
		}
	}
	return g.Wait()
}

// put stores doc in a repository, under its digest if there is no tag.
func (p *push) put(ctx context.Context, repo dist.Repo, tag string, doc image.Document) error {
	desc, err := dist.FromOCI(doc.Descriptor)
	if err != nil {
		return err
	}
	ref := repo.At(desc.Digest)
	id := "manifest for " + ref.String()
	if tag != "" {
		ref = repo.Tag(tag)
		id = "manifest for " + ref.String() + "@" + string(doc.Descriptor.Digest)
	}
	p.opts.Progress(id, 0, desc.Size, false)
	if _, err := p.client.PushManifest(ctx, ref, desc.MediaType, doc.Bytes); err != nil {
		return err
	}
	p.opts.Progress(id, desc.Size, desc.Size, true)
	if p.opts.Pushed != nil {
		p.opts.Pushed(repo.String(), doc)
	}
	return nil
}

// checkDiffIDs holds the config to the layers that go out with it: an image whose config names others would be refused,
// or worse, taken for another, by whoever pulls it.
func checkDiffIDs(ctx context.Context, m *exporter.Manifest) error {
	want, err := configDiffIDs(m.Config)
	if err != nil {
		return err
	}
	if len(want) != len(m.Layers) {
		return fmt.Errorf("pushing: the config names %d layers and the image has %d", len(want), len(m.Layers))
	}
	for i, l := range m.Layers {
		var got digest.Digest
		if got, err = l.DiffID(ctx); err != nil {
			return err
		}
		if got != want[i] {
			return fmt.Errorf("pushing: layer %d is %s, and the config says %s", i, got, want[i])
		}
	}
	return nil
}

// configDiffIDs returns the layers that a config names.
func configDiffIDs(config []byte) ([]digest.Digest, error) {
	var c struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("reading the config of an image: %w", err)
	}
	return c.RootFS.DiffIDs, nil
}
