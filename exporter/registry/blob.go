package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/image"
	dist "github.com/boxbuild/boxbuild/proto/registry"
)

// A blob is what goes to every destination.
type blob struct {
	desc    exporter.Descriptor
	id      string // in progress lines
	origins []string
	open    func(context.Context) (io.ReadCloser, error)
}

// A pushedLayer is a layer whose blob is pushed when it is made.
type pushedLayer struct {
	exporter.Layer
	push *push
}

// Blob implements exporter.Layer.
func (l *pushedLayer) Blob(ctx context.Context, form exporter.Form) (exporter.Descriptor, error) {
	desc, err := l.Layer.Blob(ctx, form)
	if err != nil {
		return exporter.Descriptor{}, fmt.Errorf("compressing a layer: %w", err)
	}
	return desc, l.push.layer(ctx, l, desc)
}

// layers pushes the blobs that were there already, as those of a manifest that was pulled, and so were not made.
func (p *push) layers(ctx context.Context, all []*image.Assembled) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range all {
		for i, desc := range a.Blobs {
			g.Go(func() error { return p.layer(ctx, a.Layers[i], desc) })
		}
	}
	return g.Wait()
}

func (p *push) layer(ctx context.Context, l exporter.Layer, desc exporter.Descriptor) error {
	if p.opts.Form.Nondist && exporter.Nondistributable(desc.MediaType) {
		return nil // whoever pulls it gets it from where it says
	}
	return p.blob(ctx, blob{
		desc: desc, id: "layer " + string(desc.Digest), origins: l.Origins(),
		open: func(ctx context.Context) (io.ReadCloser, error) { return l.Open(ctx, desc) },
	})
}

// config pushes the config of an image.
func (p *push) config(ctx context.Context, m *exporter.Manifest) error {
	doc := image.ConfigDocument(m.Config, p.opts.Form.Docker)
	return p.blob(ctx, blob{
		desc: doc.Descriptor, id: "config " + string(doc.Descriptor.Digest),
		open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(doc.Bytes)), nil },
	})
}

// blob pushes b to every destination, once for all manifests that have it.
func (p *push) blob(ctx context.Context, b blob) error {
	mine, push := p.claim(b.desc.Digest)
	if !mine {
		select {
		case <-push.done:
			return push.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	push.err = p.blobTo(ctx, b)
	close(push.done)
	return push.err
}

// blobTo pushes b to one repository after the other, so that later ones on the same registry can mount it.
func (p *push) blobTo(ctx context.Context, b blob) error {
	desc, err := dist.FromOCI(b.desc)
	if err != nil {
		return err
	}
	var from []dist.Repo
	for _, s := range b.origins {
		if r, err := dist.ParseRepo(s); err == nil { // a name from elsewhere that is none cannot help
			from = append(from, r)
		}
	}
	p.opts.Progress(b.id, 0, desc.Size, false)
	var source dist.Repo
	ctx = dist.WithTrace(ctx, &dist.Trace{
		Bytes:   func(_ v1.Hash, done, total int64) { p.opts.Progress(b.id, done, total, false) },
		Mounted: func(_ v1.Hash, from dist.Repo) { source = from },
	})
	for i, d := range p.to {
		open := func() (io.ReadCloser, error) { return b.open(ctx) }
		how, err := p.client.PushBlob(ctx, d.repo, desc, open, from)
		if err != nil {
			return err
		}
		if i == 0 && p.opts.Came != nil {
			p.opts.Came(b.id, how, source)
		}
		from = append([]dist.Repo{d.repo}, from...)
	}
	p.opts.Progress(b.id, desc.Size, desc.Size, true)
	return nil
}

// pushing is the push of one blob.
type pushing struct {
	done chan struct{} // closed once err is set
	err  error
}

// claim returns the push of a blob, and whether it is the caller's to do.
func (p *push) claim(d digest.Digest) (mine bool, b *pushing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.blobs[d]; ok {
		return false, b
	}
	b = &pushing{done: make(chan struct{})}
	p.blobs[d] = b
	return true, b
}
