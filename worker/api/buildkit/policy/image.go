package policy

import (
	"context"
	"maps"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// ResolveImage answers a client's question about an image. Images in a client's OCI layout have no attestations, as with
// BuildKit.
func ResolveImage(
	ctx context.Context, look frontend.Resolver, src op.Source, q *gatewaypb.ResolveSourceImageRequest,
) (*gatewaypb.ResolveSourceImageResponse, error) {
	m, err := look.ResolveImage(ctx, src)
	if err != nil {
		return nil, err
	}
	out := &gatewaypb.ResolveSourceImageResponse{Digest: m.Digest.String()}
	if !q.GetNoConfig() {
		out.Config = m.Config
	}
	_, registry := src.(*op.Image)
	if !registry || !q.GetAttestationChain() && len(q.GetResolveAttestations()) == 0 {
		return out, nil
	}
	chain, err := look.Attestations(ctx, m, q.GetResolveAttestations())
	if err != nil || chain == nil {
		return out, err
	}
	out.AttestationChain = &gatewaypb.AttestationChain{
		Root: string(chain.Root), ImageManifest: string(chain.ImageManifest), AttestationManifest: string(chain.Attestation),
		Blobs: make(map[string]*gatewaypb.Blob, len(chain.Blobs)),
	}
	for _, d := range chain.Signatures {
		out.AttestationChain.SignatureManifests = append(out.AttestationChain.SignatureManifests, string(d))
	}
	for d, b := range chain.Blobs {
		out.AttestationChain.Blobs[string(d)] = &gatewaypb.Blob{Descriptor_: descriptor(&b.Descriptor), Data: b.Data}
	}
	return out, nil
}

func descriptor(d *ocispec.Descriptor) *gatewaypb.Descriptor {
	return &gatewaypb.Descriptor{
		MediaType: d.MediaType, Size: d.Size, Digest: string(d.Digest), Annotations: maps.Clone(d.Annotations),
	}
}
