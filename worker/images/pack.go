package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// Docker's media types of layers. That for zstd is containerd's: Docker's own list has none.
const (
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"

	dockerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Layer returns the layer that snapshot id is the top of. diffID is what it is known to be; empty to have it computed.
func (l *Layers) Layer(id snapshot.ID, diffID digest.Digest) exporter.Layer {
	return &stored{l: l, id: id, diffID: diffID}
}

// A stored is an exporter.Layer of the store.
type stored struct {
	l  *Layers
	id snapshot.ID

	mu     sync.Mutex
	diffID digest.Digest // guarded by mu; empty until it is known
}

// DiffID implements exporter.Layer.
func (s *stored) DiffID(ctx context.Context) (digest.Digest, error) {
	s.mu.Lock()
	d := s.diffID
	s.mu.Unlock()
	if d != "" {
		return d, nil
	}
	got, err := s.l.DiffIDs.Wait(ctx, s.id)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.diffID = got.DiffID
	s.mu.Unlock()
	return got.DiffID, nil
}

// Blob implements exporter.Layer.
func (s *stored) Blob(ctx context.Context, form exporter.Form) (exporter.Descriptor, error) {
	d, err := s.DiffID(ctx)
	if err != nil {
		return exporter.Descriptor{}, err
	}
	if desc, ok, err := s.find(ctx, d, form); err != nil || ok {
		return desc, err
	}
	if desc, ok := s.virtual(ctx, d); ok && form.Compression == exporter.Uncompressed {
		return typed(desc, form), nil
	}
	key := packKey{diffID: d, form: form}
	key.form.Docker, key.form.Force, key.form.Nondist = false, false, false
	for {
		desc, err := s.l.packs.do(ctx, key, func(fctx context.Context) (exporter.Descriptor, error) {
			return s.pack(fctx, lease.From(ctx), d, form)
		})
		if err != nil {
			return exporter.Descriptor{}, fmt.Errorf("packing layer %s: %w", d, err)
		}
		if err := reserve(ctx, blobItem(desc.Digest)); err != nil {
			return exporter.Descriptor{}, err
		}
		// Who began holds the blob while it is made; if he has left, it may have been collected before we came to hold it.
		if s.l.Blobs.Has(desc) {
			return typed(desc, form), nil
		}
	}
}

// virtual describes the uncompressed tar, which is not kept as a blob: Open makes it from what there is.
func (s *stored) virtual(ctx context.Context, d digest.Digest) (exporter.Descriptor, bool) {
	got, err := s.l.DiffIDs.Wait(ctx, s.id)
	return exporter.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: got.Size}, err == nil && got.DiffID == d
}

// find returns a blob that is there and will do.
func (s *stored) find(ctx context.Context, d digest.Digest, form exporter.Form) (exporter.Descriptor, bool, error) {
	blobs, _, err := s.l.Images.Blobs(d)
	if err != nil {
		return exporter.Descriptor{}, false, err
	}
	var other *exporter.Descriptor
	for _, b := range blobs {
		c, ok := compressionOf(b.MediaType)
		if !ok || !s.l.Blobs.Has(b) || hold(ctx, blobItem(b.Digest)) != nil {
			continue
		}
		if c == form.Compression {
			return typed(b, form), true, nil
		}
		if other == nil {
			other = &b
		}
	}
	if other != nil && !form.Force {
		return typed(*other, form), true, nil
	}
	return exporter.Descriptor{}, false, nil
}

// compressionOf reads a layer's media type, OCI's or Docker's.
func compressionOf(mediaType string) (exporter.Compression, bool) {
	switch {
	case strings.HasSuffix(mediaType, "+gzip"), strings.HasSuffix(mediaType, ".tar.gzip"):
		return exporter.Gzip, true
	case strings.HasSuffix(mediaType, "+zstd"), strings.HasSuffix(mediaType, ".tar.zstd"):
		return exporter.Zstd, true
	case strings.HasSuffix(mediaType, ".tar"):
		return exporter.Uncompressed, true
	}
	return 0, false
}

// typed returns desc with the media type of its compression, and with its addresses if form keeps these.
func typed(desc exporter.Descriptor, form exporter.Form) exporter.Descriptor {
	c, _ := compressionOf(desc.MediaType)
	out := exporter.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	foreign := form.Nondist && len(desc.URLs) > 0
	if foreign {
		out.URLs = desc.URLs
	}
	switch {
	case c == exporter.Gzip && form.Docker:
		out.MediaType = pick(foreign, dockerForeignGzip, dockerLayerGzip)
	case c == exporter.Gzip:
		out.MediaType = pick(foreign, ocispec.MediaTypeImageLayerNonDistributableGzip, ocispec.MediaTypeImageLayerGzip) //nolint:staticcheck // deprecated, and asked for
	case c == exporter.Uncompressed && form.Docker:
		out.MediaType = pick(foreign, dockerForeign, dockerLayer)
	case c == exporter.Uncompressed:
		out.MediaType = pick(foreign, ocispec.MediaTypeImageLayerNonDistributable, ocispec.MediaTypeImageLayer) //nolint:staticcheck // deprecated, and asked for
	case foreign: // Docker has no name for one of zstd, and BuildKit leaves OCI's
		out.MediaType = ocispec.MediaTypeImageLayerNonDistributableZstd //nolint:staticcheck // deprecated, and asked for
	case c == exporter.Zstd:
		out.MediaType = pick(form.Docker, dockerLayerZstd, ocispec.MediaTypeImageLayerZstd)
	}
	return out
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// pack makes a blob of the layer, held by held until something refers to it.
func (s *stored) pack(ctx context.Context, held *lease.Lease, d digest.Digest, form exporter.Form) (exporter.Descriptor, error) {
	if desc, ok, err := s.find(ctx, d, exporter.Form{Compression: form.Compression, Force: true}); err != nil || ok {
		return desc, err // made by the one before us
	}
	format, mediaType := layer.Gzip, ocispec.MediaTypeImageLayerGzip
	switch form.Compression {
	case exporter.Zstd:
		format, mediaType = layer.Zstd, ocispec.MediaTypeImageLayerZstd
	case exporter.Uncompressed:
		format, mediaType = layer.Uncompressed, ocispec.MediaTypeImageLayer
	case exporter.Gzip:
	}
	w, err := s.l.Blobs.Create()
	if err != nil {
		return exporter.Descriptor{}, err
	}
	defer w.Close()
	z, err := s.l.Compressor.NewWriter(ctx, w, format, form.Level)
	if err != nil {
		return exporter.Descriptor{}, err
	}
	werr := s.writeTar(ctx, d, z)
	if werr != nil {
		z.Abort(werr)
	}
	if err := z.Close(); werr != nil || err != nil {
		return exporter.Descriptor{}, cmp.Or(werr, err) // where one failed because of the other, the first one says so
	}
	if held != nil {
		_ = held.Reserve(ctx, blobItem(w.Digest())) // one that is released has left it to the others who wait
	}
	desc, err := w.Commit(exporter.Descriptor{MediaType: mediaType})
	if err != nil {
		return exporter.Descriptor{}, err
	}
	return desc, s.l.Images.SetBlob(d, desc, "")
}

// writeTar writes the uncompressed tar and makes sure that it is the one with diff ID d.
func (s *stored) writeTar(ctx context.Context, d digest.Digest, w io.Writer) error {
	h := &countHash{h: d.Algorithm().Hash()}
	src, err := s.original(d)
	if err != nil {
		return err
	}
	if src != nil {
		defer src.Close()
		err = copyContext(ctx, io.MultiWriter(w, h), src)
	} else {
		err = layer.DiffSnapshot(ctx, s.l.Snapshots, s.id, io.MultiWriter(w, h), layer.DiffOptions{})
	}
	if err != nil {
		return err
	}
	if got := digest.NewDigest(d.Algorithm(), h.h); got != d {
		// A tar that was not made here cannot be made again from the files: only its own blob has its bytes.
		return fmt.Errorf("%w: snapshot %s gives %s instead of %s, and no blob of the layer is left", layer.ErrDiffID, s.id, got, d)
	}
	return nil
}

// original opens the tar inside a blob of the layer; nil if there is none.
func (s *stored) original(d digest.Digest) (io.ReadCloser, error) {
	blobs, _, err := s.l.Images.Blobs(d)
	if err != nil {
		return nil, err
	}
	for _, b := range blobs {
		r, err := s.l.Blobs.Open(b.Digest)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		dec, _, err := layer.Decompress(r)
		if err != nil {
			r.Close()
			return nil, err
		}
		return &tarReader{ReadCloser: dec, below: r}, nil
	}
	return nil, nil
}

type tarReader struct {
	io.ReadCloser
	below io.Closer
}

func (r *tarReader) Close() error { return errors.Join(r.ReadCloser.Close(), r.below.Close()) }

// Open implements exporter.Layer.
func (s *stored) Open(ctx context.Context, desc exporter.Descriptor) (io.ReadCloser, error) {
	r, err := s.l.Blobs.Open(desc.Digest)
	if errors.Is(err, blob.ErrNotFound) {
		if d, derr := s.DiffID(ctx); derr == nil && d == desc.Digest {
			return s.Tar(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Tar implements exporter.Layer.
func (s *stored) Tar(ctx context.Context) (io.ReadCloser, error) {
	d, err := s.DiffID(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	p := &pipe{PipeReader: pr, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		pw.CloseWithError(s.writeTar(ctx, d, pw))
	}()
	return p, nil
}

// A pipe is the reading end of a tar that a goroutine writes; Close ends it and waits for it.
type pipe struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (p *pipe) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// Origins implements exporter.Layer.
func (s *stored) Origins() []string {
	s.mu.Lock()
	d := s.diffID
	s.mu.Unlock()
	if d == "" {
		return nil
	}
	_, origins, err := s.l.Images.Blobs(d)
	if err != nil {
		return nil // a hint
	}
	return origins
}

// countHash hashes and counts.
type countHash struct {
	h hash.Hash
	n int64
}

func (c *countHash) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.h.Write(p)
}

// copyContext copies until the end of r or of ctx.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
