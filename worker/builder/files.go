package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/archive"
	"github.com/boxbuild/boxbuild/exporter/local"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/worker"
)

// exportArchive writes the images as an archive, or as an OCI layout in a directory.
func (b *Builder) exportArchive(ctx context.Context, r *result, p *plan) error {
	name := "exporting to oci image format"
	if p.Type == worker.OutputDocker {
		name = "exporting to docker image format"
	}
	return r.em.step(ctx, name, func(ctx context.Context, pr *progress) error {
		if err := b.finish(ctx, r, p, pr); err != nil {
			return err
		}
		img, err := b.exported(ctx, r, p)
		if err != nil {
			return err
		}
		at := time.Now()
		if e := r.images[0].epoch; e != nil {
			at = *e
		}
		layers, sent := pr.begin("exporting layers"), func() {}
		defer layers()
		defer func() { sent() }()
		var made exporter.Contents
		opt := archive.Options{Docker: p.Type == worker.OutputDocker, Form: p.form, Created: &at, Made: func(c exporter.Contents) {
			layers()
			pr.made(c)
			made = c
			if p.Dest.Stream != nil {
				sent = pr.begin("sending tarball")
			}
		}}
		var top exporter.Descriptor
		opt.Begin = func(desc exporter.Descriptor) {
			top = desc
			if s, ok := p.Dest.Stream.(worker.Described); ok {
				s.Describe(r.told(p, desc))
			}
		}
		desc, err := writeArchive(ctx, p, opt, img)
		if errors.Is(err, worker.ErrDeclined) {
			desc, err = top, nil
		}
		if err != nil {
			return err
		}
		r.named(p)
		return b.keep(ctx, r, desc, made.Documents)
	})
}

// told is what the metadata of the build's result will say of an archive that desc describes.
func (r *result) told(p *plan, desc exporter.Descriptor) map[string]string {
	res := &worker.BuildResult{Metadata: make(map[string]string)}
	if id := r.out.Metadata[metaConfig]; id != "" {
		res.Metadata[metaConfig] = id
	}
	if len(p.names) > 0 {
		res.Metadata[metaName] = strings.Join(p.names, ",")
	}
	_ = describe(res, desc) // that it cannot be the export itself tells
	return res.Metadata
}

// writeArchive writes an image to where the output goes.
func writeArchive(ctx context.Context, p *plan, opt archive.Options, img *exporter.Image) (exporter.Descriptor, error) {
	switch {
	case p.Dest.Dir != "":
		return archive.NewDir(p.Dest.Dir, opt).Export(ctx, img)
	case p.Dest.Blob != nil:
		return archive.WriteBlobs(ctx, p.Dest.Blob, opt, img)
	}
	desc, err := archive.Write(ctx, p.Dest.Stream, opt, img)
	return desc, closed(p.Dest.Stream, err)
}

// exportFiles writes the files of the images to a directory or as a tar. Several platforms get a directory each, unless
// the user wants them in one.
func (b *Builder) exportFiles(ctx context.Context, r *result, p *plan) error {
	split := r.multi
	if p.split != nil && p.Type == worker.OutputLocal {
		split = *p.split
	}
	return r.em.step(ctx, "exporting to client "+map[worker.OutputType]string{
		worker.OutputLocal: "directory", worker.OutputTar: "tarball",
	}[p.Type], func(ctx context.Context, pr *progress) error {
		var parts []local.Part
		for _, img := range r.images {
			tree, done, err := b.deps.Runner.Open(ctx, run.ResultOf(img.top))
			if err != nil {
				return fmt.Errorf("opening the result: %w", err)
			}
			defer done()
			part := local.Part{Tree: tree, Name: platformID(img.Platform), Epoch: p.clock.of(img.epoch)}
			if split {
				part.Dir = local.PlatformDir(platformID(img.Platform))
			}
			parts = append(parts, part)
		}
		if p.Dest.Files != nil {
			ctx, sent := counting(run.WithStatus(ctx, pr.status), "copying files")
			defer sent()
			return p.Dest.Files(ctx, parts)
		}
		sending := map[worker.OutputType]string{worker.OutputLocal: "copying files", worker.OutputTar: "sending tarball"}
		return pr.part(sending[p.Type], func() error {
			if p.Dest.Dir != "" {
				skipped, err := local.WriteDir(ctx, p.Dest.Dir, parts)
				for _, s := range skipped {
					r.em.emit(solver.Event{Kind: solver.Warned, Vertex: pr.v, Warning: solver.Warning{
						Short: fmt.Sprintf("device %s was left out: a directory is no place for devices", s),
					}})
				}
				return err
			}
			return closed(p.Dest.Stream, local.WriteTar(ctx, p.Dest.Stream, parts))
		})
	})
}

// closed ends a stream that err says how the writing of went. Closing says that all has been written, so a failure
// has to be told otherwise, where the stream can.
func closed(w io.WriteCloser, err error) error {
	if err == nil {
		return w.Close()
	}
	if f, ok := w.(interface{ CloseWithError(error) error }); ok {
		return errors.Join(err, f.CloseWithError(err))
	}
	return err
}
