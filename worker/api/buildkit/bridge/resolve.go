package bridge

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/policy"
)

// The schemes of images, and the attributes that say where one is looked up.
const (
	schemeImage  = "docker-image://"
	schemeLayout = "oci-layout://"
)

// resolverLayout is the type of resolver, in the older of the two calls, that looks into a client's OCI layout.
const resolverLayout = 1

// ResolveImageConfig looks an image up and returns its configuration.
func (c *conversation) ResolveImageConfig(ctx context.Context, in *pb.ResolveImageConfigRequest) (*pb.ResolveImageConfigResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ResolveImageConfigResponse, error) {
		named, err := reference.ParseNormalizedNamed(in.GetRef())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "could not parse reference %q: %v", in.GetRef(), err)
		}
		named = reference.TagNameOnly(named)
		src := &opspb.SourceOp{Identifier: schemeImage + named.String()}
		if in.GetResolverType() == resolverLayout {
			src = &opspb.SourceOp{Identifier: schemeLayout + named.String(), Attrs: map[string]string{
				opspb.AttrOCILayoutSessionID: in.GetSessionID(), opspb.AttrOCILayoutStoreID: in.GetStoreID(),
			}}
		}
		m, err := c.resolve(ctx, &pb.ResolveSourceMetaRequest{
			Source: src, Platform: in.GetPlatform(), LogName: in.GetLogName(), ResolveMode: in.GetResolveMode(),
			SourcePolicies: in.GetSourcePolicies(),
		})
		if err != nil {
			return nil, err
		}
		id := m.GetSource().GetIdentifier()
		if m.GetImage() == nil {
			return nil, fmt.Errorf("ref mutated by policy to non-image: %s%s -> %s", schemeImage, named, id)
		}
		ref := strings.TrimPrefix(strings.TrimPrefix(id, schemeImage), schemeLayout)
		return &pb.ResolveImageConfigResponse{Ref: ref, Digest: m.GetImage().GetDigest(), Config: m.GetImage().GetConfig()}, nil
	})
}

// ResolveSourceMeta says what a source is at the moment, and from now on in this build.
func (c *conversation) ResolveSourceMeta(ctx context.Context, in *pb.ResolveSourceMetaRequest) (*pb.ResolveSourceMetaResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ResolveSourceMetaResponse, error) {
		if in.GetSource() == nil {
			return nil, status.Error(codes.InvalidArgument, "source is required")
		}
		return c.resolve(ctx, in)
	})
}

func (c *conversation) resolve(ctx context.Context, in *pb.ResolveSourceMetaRequest) (*pb.ResolveSourceMetaResponse, error) {
	r, ok := c.env.(frontend.Resolver)
	if !ok {
		return nil, lacks("resolve sources")
	}
	src, err := source(in)
	if err != nil {
		return nil, err
	}
	ctx, src, told, err := c.allowed(ctx, in, src)
	if err != nil {
		return nil, fmt.Errorf("could not resolve image due to policy: %w", err)
	}
	out := &pb.ResolveSourceMetaResponse{Source: told}
	name := in.GetLogName()
	if name == "" {
		name = "resolve image config for " + in.GetSource().GetIdentifier() // whatever a policy made of it
	}
	switch s := src.(type) {
	case *op.Image, *op.OCILayout:
		err = frontend.AskStep(ctx, c.env, name, s, func(ctx context.Context) (err error) {
			out.Image, err = policy.ResolveImage(ctx, r, s, in.GetImage())
			return err
		})
	case *op.Git:
		m, err := r.ResolveGit(ctx, s, in.GetGit().GetReturnObject())
		if err != nil {
			return nil, err
		}
		out.Git = &pb.ResolveSourceGitResponse{
			Checksum: m.Checksum, Ref: m.Ref, CommitChecksum: m.CommitChecksum, CommitObject: m.Commit, TagObject: m.Tag,
		}
	case *op.HTTP:
		return out, c.resolveHTTP(ctx, r, s, in.GetHTTP().GetChecksumRequest(), out)
	}
	return out, err
}

func (c *conversation) resolveHTTP(
	ctx context.Context, r frontend.Resolver, src *op.HTTP, sum *pb.ChecksumRequest, out *pb.ResolveSourceMetaResponse,
) error {
	var ask *frontend.SumRequest
	if sum != nil {
		ask = &frontend.SumRequest{Suffix: sum.GetSuffix()}
		switch sum.GetAlgo() {
		case pb.ChecksumRequest_CHECKSUM_ALGO_SHA256:
			ask.Algorithm = digest.SHA256
		case pb.ChecksumRequest_CHECKSUM_ALGO_SHA384:
			ask.Algorithm = digest.SHA384
		case pb.ChecksumRequest_CHECKSUM_ALGO_SHA512:
			ask.Algorithm = digest.SHA512
		default:
			return status.Errorf(codes.InvalidArgument, "invalid http checksum algorithm: %d", sum.GetAlgo())
		}
	}
	m, err := r.ResolveHTTP(ctx, src, ask)
	if err != nil {
		return err
	}
	out.HTTP = &pb.ResolveSourceHTTPResponse{Checksum: m.Digest.String(), Filename: m.Filename}
	if !m.Modified.IsZero() {
		out.HTTP.LastModified = &timestamppb.Timestamp{Seconds: m.Modified.Unix()}
	}
	if ask != nil {
		out.HTTP.ChecksumResponse = &pb.ChecksumResponse{Digest: m.Sum.String(), Suffix: ask.Suffix}
	}
	return nil
}

// source reads the source of a question, by having it decoded as the only operation of a definition.
func source(in *pb.ResolveSourceMetaRequest) (op.Source, error) {
	x := &opspb.SourceOp{Identifier: in.GetSource().GetIdentifier(), Attrs: map[string]string{}}
	for k, v := range in.GetSource().GetAttrs() {
		x.Attrs[k] = v
	}
	if mode := in.GetResolveMode(); mode != "" && strings.HasPrefix(x.Identifier, schemeImage) && x.Attrs[opspb.AttrImageResolveMode] == "" {
		if x.Attrs[opspb.AttrImageResolveMode] = mode; mode == "default" {
			x.Attrs[opspb.AttrImageResolveMode] = opspb.AttrImageResolveModeDefault
		}
	}
	raw, err := marshal(&opspb.Op{Op: &opspb.Op_Source{Source: x}, Platform: in.GetPlatform()})
	if err != nil {
		return nil, err
	}
	last, err := marshal(&opspb.Op{Inputs: []*opspb.Input{{Digest: string(digest.FromBytes(raw))}}})
	if err != nil {
		return nil, err
	}
	g, err := llb.Decode(&opspb.Definition{Def: [][]byte{raw, last}})
	if err != nil {
		return nil, err
	}
	src, ok := g.Root.Vertex.Op().(op.Source)
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "%s is no source", x.Identifier)
	}
	return src, nil
}

func marshal(m proto.Message) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding a question: %w", err)
	}
	return raw, nil
}
