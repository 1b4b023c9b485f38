package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// maxQuestions is how often the client may answer with a question of its own before it decides.
const maxQuestions = 10

// definition makes a definition of one operation.
func definition(text []byte) *pb.Definition {
	last := &pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(text))}}}
	end, err := last.MarshalVT()
	if err != nil {
		panic(err) // a message of one digest can be written
	}
	return &pb.Definition{Def: [][]byte{text, end}}
}

// verify asks the client about o, and changes its source as the client says.
func (p *Policy) verify(ctx context.Context, o *pb.Op, look frontend.Resolver) error {
	src := o.GetSource()
	client := policysession.NewPolicyVerifierClient(p.verifier)
	req := &policysession.CheckPolicyRequest{
		Platform: o.GetPlatform(), Source: &gatewaypb.ResolveSourceMetaResponse{Source: src},
	}
	for range maxQuestions {
		resp, err := client.CheckPolicy(ctx, req)
		if err != nil {
			return fmt.Errorf("asking the client's source policy about %s: %w", src.GetIdentifier(), err)
		}
		if q := resp.GetRequest(); q != nil {
			if q.GetSource().GetIdentifier() != src.GetIdentifier() || !maps.Equal(q.GetSource().GetAttrs(), src.GetAttrs()) {
				return fmt.Errorf("the client's source policy asks about %s instead of %s", q.GetSource().GetIdentifier(), src.GetIdentifier())
			}
			if req.Source, err = resolve(ctx, q, look); err != nil {
				return fmt.Errorf("error resolving source metadata from policy request: %w", err)
			}
			continue
		}
		d := resp.GetDecision()
		switch {
		case d == nil:
			return errors.New("no decision in policy response")
		case d.GetAction() == spb.PolicyAction_ALLOW:
			return nil
		case d.GetAction() != spb.PolicyAction_CONVERT:
			err := fmt.Errorf("source %q not allowed by policy: action %s: %w", src.GetIdentifier(), d.GetAction(), ErrDenied)
			return policysession.WrapDenyMessages(err, d.GetDenyMessages())
		case d.GetUpdate() == nil:
			return errors.New("convert action requires updated source")
		}
		src.Identifier, src.Attrs = d.GetUpdate().GetIdentifier(), d.GetUpdate().GetAttrs()
		if err := p.convert(src); err != nil {
			return err
		}
		req.Source = &gatewaypb.ResolveSourceMetaResponse{Source: src}
	}
	return fmt.Errorf("too many policy requests: %w", ErrLoop)
}

// algorithms are those of sums that a client may ask for.
var algorithms = map[gatewaypb.ChecksumRequest_ChecksumAlgo]digest.Algorithm{
	gatewaypb.ChecksumRequest_CHECKSUM_ALGO_SHA256: digest.SHA256,
	gatewaypb.ChecksumRequest_CHECKSUM_ALGO_SHA384: digest.SHA384,
	gatewaypb.ChecksumRequest_CHECKSUM_ALGO_SHA512: digest.SHA512,
}

// resolve answers a question of the client's about a source.
func resolve(ctx context.Context, q *gatewaypb.ResolveSourceMetaRequest, look frontend.Resolver) (*gatewaypb.ResolveSourceMetaResponse, error) {
	src, err := decode(&pb.Op{Op: &pb.Op_Source{Source: q.GetSource()}, Platform: q.GetPlatform()})
	if err != nil {
		return nil, err
	}
	out := &gatewaypb.ResolveSourceMetaResponse{Source: q.GetSource()}
	switch s := src.(type) {
	case *op.Image, *op.OCILayout:
		if img, ok := s.(*op.Image); ok && q.GetResolveMode() == pb.AttrImageResolveModeForcePull {
			img.Resolve = op.ResolveForcePull
		}
		if out.Image, err = ResolveImage(ctx, look, src, q.GetImage()); err != nil {
			return nil, err
		}
	case *op.Git:
		m, err := look.ResolveGit(ctx, s, q.GetGit().GetReturnObject())
		if err != nil {
			return nil, err
		}
		out.Git = &gatewaypb.ResolveSourceGitResponse{
			Checksum: m.Checksum, Ref: m.Ref, CommitChecksum: m.CommitChecksum, CommitObject: m.Commit, TagObject: m.Tag,
		}
	case *op.HTTP:
		out.HTTP, err = resolveHTTP(ctx, q.GetHTTP().GetChecksumRequest(), s, look)
		return out, err
	}
	return out, nil
}

func resolveHTTP(
	ctx context.Context, sum *gatewaypb.ChecksumRequest, s *op.HTTP, look frontend.Resolver,
) (*gatewaypb.ResolveSourceHTTPResponse, error) {
	var want *frontend.SumRequest
	if sum != nil {
		a, ok := algorithms[sum.GetAlgo()]
		if !ok {
			return nil, fmt.Errorf("unknown checksum algorithm %s", sum.GetAlgo())
		}
		want = &frontend.SumRequest{Algorithm: a, Suffix: sum.GetSuffix()}
	}
	m, err := look.ResolveHTTP(ctx, s, want)
	if err != nil {
		return nil, err
	}
	out := &gatewaypb.ResolveSourceHTTPResponse{Checksum: m.Digest.String(), Filename: m.Filename}
	if !m.Modified.IsZero() {
		out.LastModified = timestamppb.New(m.Modified)
	}
	if want != nil {
		out.ChecksumResponse = &gatewaypb.ChecksumResponse{Digest: m.Sum.String(), Suffix: want.Suffix}
	}
	return out, nil
}
