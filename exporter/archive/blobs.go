package archive

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
)

// WriteBlobs gives put the blobs of an OCI layout one by one, those that others name before these, for who keeps blobs in a
// way of its own. What index.json would have is the descriptor that it returns. A blob that put has already it need not read.
func WriteBlobs(
	ctx context.Context, put func(context.Context, ocispec.Descriptor, io.Reader) error, opt Options, images ...*exporter.Image,
) (Descriptor, error) {
	l, err := plan(ctx, opt, images)
	if err != nil {
		return Descriptor{}, err
	}
	var layers, documents []string
	for _, name := range l.names() {
		switch {
		case !strings.HasPrefix(name, ocispec.ImageBlobsDir+"/"):
		case l.files[name].id != "":
			layers = append(layers, name)
		case name != blobName(l.top.Digest):
			documents = append(documents, name)
		}
	}
	for _, name := range append(append(layers, documents...), blobName(l.top.Digest)) {
		if err := putBlob(ctx, put, name, l.files[name]); err != nil {
			return Descriptor{}, fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return l.top, nil
}

func putBlob(ctx context.Context, put func(context.Context, ocispec.Descriptor, io.Reader) error, name string, e entry) error {
	algorithm, hex, _ := strings.Cut(strings.TrimPrefix(name, ocispec.ImageBlobsDir+"/"), "/")
	r, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	return put(ctx, Descriptor{Digest: digest.Digest(algorithm + ":" + hex), Size: e.size}, r)
}
