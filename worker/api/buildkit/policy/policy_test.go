package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

func image(ref string) *op.Image { return &op.Image{Ref: "docker.io/library/" + ref} }

// rules makes a policy of lines: "deny|allow [wildcard|exact|regex] pattern" or "convert kind pattern destination [key=value]".
func rules(t *testing.T, lines ...string) *Policy {
	t.Helper()
	p := &spb.Policy{Version: 1}
	for _, l := range lines {
		f := strings.Fields(l)
		r := &spb.Rule{
			Action:   spb.PolicyAction(spb.PolicyAction_value[strings.ToUpper(f[0])]),
			Selector: &spb.Selector{MatchType: spb.MatchType(spb.MatchType_value[strings.ToUpper(f[1])]), Identifier: f[2]},
		}
		if r.Action == spb.PolicyAction_CONVERT {
			r.Updates = &spb.Update{Identifier: f[3]}
			for _, kv := range f[4:] {
				k, v, _ := strings.Cut(kv, "=")
				r.Updates.Attrs = map[string]string{k: v}
			}
		}
		p.Rules = append(p.Rules, r)
	}
	out, err := New(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRules checks what becomes of docker.io/library/app:1.
func TestRules(t *testing.T) {
	const id = "docker-image://docker.io/library/"
	for name, c := range map[string]struct {
		rules []string
		want  string // the reference, or a part of the error after "!"
	}{
		"no rules":           {nil, "app:1"},
		"denied":             {[]string{"deny wildcard " + id + "*"}, "!denied by policy"},
		"last match wins":    {[]string{"deny wildcard *", "allow exact " + id + "app:1"}, "app:1"},
		"last match denies":  {[]string{"allow exact " + id + "app:1", "deny wildcard *"}, "!denied by policy"},
		"exact is exact":     {[]string{"deny exact " + id + "app:*"}, "app:1"},
		"text is no pattern": {[]string{"deny wildcard " + id + "app.1"}, "app:1"},
		"convert":            {[]string{"convert exact " + id + "app:1 " + id + "other:2"}, "other:2"},
		"wildcard group":     {[]string{"convert wildcard " + id + "app:* " + id + "mirror:${1}-x"}, "mirror:1-x"},
		"regex group":        {[]string{`convert regex ^` + id + `(\w+):(\d)$ ` + id + "${1}:9${2}"}, "app:91"},
		"regex once":         {[]string{`convert regex ^` + id + `(app):(\d)$ ` + id + "${1}y:${2}"}, "appy:1"},
		"conversion is looked at again": {
			[]string{"convert exact " + id + "app:1 " + id + "b:1", "deny exact " + id + "b:1"}, "!denied by policy",
		},
		"denied before it is converted": {
			[]string{"deny exact " + id + "app:1", "convert exact " + id + "app:1 " + id + "b:1"}, "b:1",
		},
		"circle":        {[]string{"convert exact " + id + "app:1 " + id + "b:1", "convert exact " + id + "b:1 " + id + "app:1"}, "!too many mutations"},
		"bad pattern":   {[]string{"deny regex ("}, "!error matching source policy"},
		"two stars":     {[]string{"deny wildcard a**b"}, "!two stars"},
		"other source":  {[]string{"convert exact " + id + "app:1 nothing://x"}, "!converting a source"},
		"other content": {[]string{"convert exact " + id + "app:1 " + id + "app:1@sha256:" + strings.Repeat("a", 64)}, "app:1"},
	} {
		src := image("app:1")
		got, err := rules(t, c.rules...).Apply(t.Context(), src, nil)
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, %v, want %q", name, got, err, want)
			}
			continue
		}
		img, ok := got.(*op.Image)
		if err != nil || !ok || img.Ref != "docker.io/library/"+c.want {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, c.want)
		}
		if src.Ref != image("app:1").Ref || src.Digest != "" {
			t.Errorf("%s: the source was changed", name)
		}
	}
}

// TestMerge checks the policies that a call adds to its build's: each denies for itself, and the order decides which
// conversion is the first.
func TestMerge(t *testing.T) {
	const id = "docker-image://docker.io/library/"
	to := func(ref string) *spb.Policy {
		return &spb.Policy{Rules: []*spb.Rule{{
			Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: id + "app:1"}, Updates: &spb.Update{Identifier: id + ref},
		}}}
	}
	all := func(a spb.PolicyAction) *spb.Policy {
		return &spb.Policy{Rules: []*spb.Rule{{Action: a, Selector: &spb.Selector{Identifier: "*"}}}}
	}
	for name, c := range map[string]struct {
		own, added *spb.Policy // no own one for nil
		order      Order
		want       string
	}{
		"no own":       {nil, to("b:1"), OwnFirst, "b:1"},
		"own first":    {to("own:1"), to("added:1"), OwnFirst, "own:1"},
		"added first":  {to("own:1"), to("added:1"), AddedFirst, "added:1"},
		"added denies": {all(spb.PolicyAction_ALLOW), all(spb.PolicyAction_DENY), OwnFirst, ""},
		"own denies":   {all(spb.PolicyAction_DENY), all(spb.PolicyAction_ALLOW), OwnFirst, ""},
		"and also so":  {all(spb.PolicyAction_DENY), all(spb.PolicyAction_ALLOW), AddedFirst, ""},
	} {
		var own worker.SourcePolicy
		if c.own != nil {
			p, err := New(c.own, nil)
			if err != nil {
				t.Fatal(err)
			}
			own = p
		}
		merged, err := Merge(own, []*spb.Policy{c.added}, c.order)
		if err != nil {
			t.Fatal(err)
		}
		got, err := merged.Apply(t.Context(), image("app:1"), nil)
		if c.want == "" {
			if !errors.Is(err, ErrDenied) {
				t.Errorf("%s: got %v, %v", name, got, err)
			}
			continue
		}
		if err != nil || got.(*op.Image).Ref != image(c.want).Ref {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, c.want)
		}
	}
	if _, err := Merge(nil, []*spb.Policy{nil}, OwnFirst); err == nil {
		t.Error("a policy that is none was merged")
	}
}

// TestAttributes checks constraints on attributes, and conversions of them.
func TestAttributes(t *testing.T) {
	get := &op.HTTP{URL: "https://example.com/f"}
	p, err := New(&spb.Policy{Rules: []*spb.Rule{{
		Action:   spb.PolicyAction_CONVERT,
		Selector: &spb.Selector{Identifier: get.URL, Constraints: []*spb.AttrConstraint{{Key: pb.AttrHTTPChecksum, Condition: spb.AttrMatch_EQUAL}}},
		Updates:  &spb.Update{Attrs: map[string]string{pb.AttrHTTPChecksum: "sha256:" + strings.Repeat("b", 64)}},
	}, {
		Action: spb.PolicyAction_DENY,
		Selector: &spb.Selector{Identifier: get.URL, Constraints: []*spb.AttrConstraint{
			{Key: pb.AttrHTTPChecksum, Condition: spb.AttrMatch_MATCHES, Value: "^sha256:a"},
			{Key: pb.AttrHTTPChecksum, Condition: spb.AttrMatch_NOTEQUAL, Value: "x"},
		}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Apply(t.Context(), get, nil)
	if h, ok := got.(*op.HTTP); err != nil || !ok || !strings.HasSuffix(string(h.Checksum), strings.Repeat("b", 64)) {
		t.Errorf("got %+v, %v", got, err)
	}
	bad := *get
	bad.Checksum = digest.Digest("sha256:" + strings.Repeat("a", 64))
	if got, err := p.Apply(t.Context(), &bad, nil); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestInvalid checks the policies that are refused when they are read.
func TestInvalid(t *testing.T) {
	for name, r := range map[string]*spb.Rule{
		"nil":         nil,
		"no selector": {},
		"constraint":  {Selector: &spb.Selector{Constraints: []*spb.AttrConstraint{nil}}},
		"action":      {Action: 9, Selector: &spb.Selector{}},
		"match":       {Selector: &spb.Selector{MatchType: 9}},
	} {
		var use *frontend.UsageError
		if _, err := New(&spb.Policy{Rules: []*spb.Rule{r}}, nil); !errors.As(err, &use) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A verifier answers with what its function says.
type verifier struct {
	policysession.UnimplementedPolicyVerifierServer
	answer func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse
}

func (v *verifier) CheckPolicy(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
	return v.answer(req), nil
}

// dial returns a connection to a client with that verifier.
func dial(t *testing.T, answer func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse) grpc.ClientConnInterface {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	policysession.RegisterPolicyVerifierServer(srv, &verifier{answer: answer})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		srv.Stop()
		<-done
	})
	return cc
}

func decide(d *policysession.DecisionResponse) *policysession.CheckPolicyResponse {
	return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Decision{Decision: d}}
}

// A resolver knows every image.
type resolver struct{ frontend.Resolver }

func (resolver) ResolveImage(_ context.Context, src op.Source) (*frontend.ImageMeta, error) {
	return &frontend.ImageMeta{Digest: "sha256:known", Config: []byte(src.String())}, nil
}

func (resolver) Attestations(_ context.Context, m *frontend.ImageMeta, predicates []string) (*frontend.AttestationChain, error) {
	if strings.Contains(string(m.Config), "plain") {
		return nil, nil
	}
	d := digest.FromString(strings.Join(predicates, " "))
	return &frontend.AttestationChain{
		Root: "sha256:root", ImageManifest: "sha256:image", Attestation: "sha256:attestation", Signatures: []digest.Digest{"sha256:signature"},
		Blobs: map[digest.Digest]frontend.AttestationBlob{d: {
			Descriptor: ocispec.Descriptor{MediaType: "a/b", Digest: d, Size: 5, Annotations: map[string]string{"k": "v"}}, Data: []byte("bytes"),
		}},
	}, nil
}

// TestResolveImage checks the answer to a question about an image, and that what was not asked for is not in it.
func TestResolveImage(t *testing.T) {
	d := string(digest.FromString("p q"))
	whole := &gatewaypb.AttestationChain{
		Root: "sha256:root", ImageManifest: "sha256:image", AttestationManifest: "sha256:attestation", SignatureManifests: []string{"sha256:signature"},
		Blobs: map[string]*gatewaypb.Blob{d: {
			Descriptor_: &gatewaypb.Descriptor{MediaType: "a/b", Digest: d, Size: 5, Annotations: map[string]string{"k": "v"}}, Data: []byte("bytes"),
		}},
	}
	for _, tt := range []struct {
		src  op.Source
		q    *gatewaypb.ResolveSourceImageRequest
		want *gatewaypb.AttestationChain
	}{
		{image("app:1"), nil, nil},
		{image("app:1"), &gatewaypb.ResolveSourceImageRequest{NoConfig: true}, nil},
		{image("app:1"), &gatewaypb.ResolveSourceImageRequest{ResolveAttestations: []string{"p", "q"}}, whole},
		{image("app:1"), &gatewaypb.ResolveSourceImageRequest{NoConfig: true, AttestationChain: true, ResolveAttestations: []string{"p", "q"}}, whole},
		{image("plain:1"), &gatewaypb.ResolveSourceImageRequest{AttestationChain: true}, nil},
		{&op.OCILayout{Ref: "app:1"}, &gatewaypb.ResolveSourceImageRequest{AttestationChain: true}, nil},
	} {
		got, err := ResolveImage(t.Context(), resolver{}, tt.src, tt.q)
		if err != nil || got.GetDigest() != "sha256:known" || (len(got.GetConfig()) == 0) != tt.q.GetNoConfig() {
			t.Errorf("%v: got %v, %v", tt.q, got, err)
		}
		if c := got.GetAttestationChain(); !proto.Equal(c, tt.want) {
			t.Errorf("%v: got the chain %v, want %v", tt.q, c, tt.want)
		}
	}
}

// TestVerifier checks the conversation with the client's service.
func TestVerifier(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse
		want   string // as in TestRules
	}{
		"allow": {func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			return decide(&policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW})
		}, "app:1"},
		"deny": {func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			return decide(&policysession.DecisionResponse{
				Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: "too old"}},
			})
		}, "!not allowed by policy: action DENY"},
		"convert": {func(r *policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			if strings.HasSuffix(r.GetSource().GetSource().GetIdentifier(), "b:2") {
				return decide(&policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW})
			}
			return decide(&policysession.DecisionResponse{
				Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: "docker-image://docker.io/library/b:2"},
			})
		}, "b:2"},
		"asks": {func(r *policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			if img := r.GetSource().GetImage(); img != nil {
				if img.GetDigest() != "sha256:known" || len(img.GetConfig()) == 0 {
					return decide(nil)
				}
				return decide(&policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW})
			}
			return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{
				Request: &gatewaypb.ResolveSourceMetaRequest{Source: r.GetSource().GetSource()},
			}}
		}, "app:1"},
		"asks about another": {func(r *policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{
				Request: &gatewaypb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: "docker-image://x"}},
			}}
		}, "!asks about docker-image://x"},
		"asks for ever": {func(r *policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{
				Request: &gatewaypb.ResolveSourceMetaRequest{Source: r.GetSource().GetSource()},
			}}
		}, "!too many policy requests"},
		"says nothing": {func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse {
			return &policysession.CheckPolicyResponse{}
		}, "!no decision"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(nil, dial(t, c.answer))
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Apply(t.Context(), image("app:1"), resolver{})
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, %v, want %q", got, err, want)
				}
			} else if img, ok := got.(*op.Image); err != nil || !ok || img.Ref != "docker.io/library/"+c.want {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
			if name == "deny" && fmt.Sprint(policysession.DenyMessages(err)) != `[message:"too old"]` {
				t.Errorf("the messages are %v", policysession.DenyMessages(err))
			}
		})
	}
}
