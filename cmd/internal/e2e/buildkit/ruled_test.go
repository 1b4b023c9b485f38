package buildkit

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// ruling is a policy of one rule, which converts if there is something to convert to.
func ruling(action spb.PolicyAction, selector, to string) *spb.Policy {
	r := &spb.Rule{Action: action, Selector: &spb.Selector{Identifier: selector}}
	if to != "" {
		r.Updates = &spb.Update{Identifier: to}
	}
	return &spb.Policy{Version: 1, Rules: []*spb.Rule{r}}
}

// TestCallPolicies checks the policies of one solve and of one question beside those of the build: none can allow what
// another denies, and of two that convert the build's counts in a solve, the call's in a question. Each case is what
// BuildKit 0.32.2 does.
func TestCallPolicies(t *testing.T) {
	const busybox, missing, wrong = "docker-image://docker.io/library/busybox:latest",
		"docker-image://docker.io/library/missing:1", "docker-image://docker.io/library/wrong:1"
	deny := ruling(spb.PolicyAction_DENY, "*", "")
	allow := ruling(spb.PolicyAction_ALLOW, "*", "")
	mend := ruling(spb.PolicyAction_CONVERT, missing, busybox)
	spoil := ruling(spb.PolicyAction_CONVERT, missing, wrong)
	d := start(t)
	d.load()
	for _, c := range []struct {
		name          string
		own           *spb.Policy
		call          []*spb.Policy
		ref           string
		solve, answer string // "" for busybox, or a part of the error
	}{
		{"none", nil, nil, "busybox", "", ""},
		{"denied by the call", nil, []*spb.Policy{deny}, "busybox", "denied by policy", "due to policy"},
		{"allowed by the call only", deny, []*spb.Policy{allow}, "busybox", "denied by policy", "due to policy"},
		{"converted by the call", nil, []*spb.Policy{mend}, "missing:1", "", ""},
		{"converted by the second", allow, []*spb.Policy{allow, mend}, "missing:1", "", ""},
		{"converted by both", mend, []*spb.Policy{spoil}, "missing:1", "", "wrong"},
		{"converted, then denied", mend, []*spb.Policy{ruling(spb.PolicyAction_DENY, busybox, "")}, "missing:1", "denied by policy", "due to policy"},
		{"half a rule", nil, []*spb.Policy{{Rules: []*spb.Rule{{}}}}, "busybox", "selects nothing", "selects nothing"},
	} {
		_, _, err := d.direct(t.Context(), client.SolveOpt{SourcePolicy: c.own}, func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			def, err := shell(llb.Image(c.ref), "true").Marshal(ctx)
			if err != nil {
				return nil, err
			}
			_, err = g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true, SourcePolicies: c.call})
			if (err == nil) != (c.solve == "") || err != nil && !strings.Contains(err.Error(), c.solve) {
				t.Errorf("%s: solve: got %v, want %q", c.name, err, c.solve)
			}
			ref, _, _, err := g.ResolveImageConfig(ctx, c.ref, sourceresolver.Opt{SourcePolicies: c.call, ImageOpt: &sourceresolver.ResolveImageOpt{}})
			if (err == nil) != (c.answer == "") || err != nil && !strings.Contains(err.Error(), c.answer) {
				t.Errorf("%s: question: got %v, want %q", c.name, err, c.answer)
			}
			if err == nil && ref != strings.TrimPrefix(busybox, "docker-image://") {
				t.Errorf("%s: the answer is about %q", c.name, ref)
			}
			m, err := g.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: "docker-image://" + c.ref}, sourceresolver.Opt{SourcePolicies: c.call})
			if (err == nil) != (c.answer == "") || err == nil && m.Op.GetIdentifier() != busybox {
				t.Errorf("%s: metadata: got %+v, %v, want %q", c.name, m, err, c.answer)
			}
			return gateway.NewResult(), nil
		})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWarn checks that a client's warning comes back as it was given, with the vertex that it is about, live and from the
// history.
func TestWarn(t *testing.T) {
	d := start(t)
	d.load()
	at := []*pb.Range{{Start: &pb.Position{Line: 2, Character: 3}, End: &pb.Position{Line: 2, Character: 7}}}
	info := &pb.SourceInfo{Filename: "f.lang", Language: "lang", Data: []byte("one\ntwo\n")}
	build := func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		def, err := shell(llb.Image("busybox"), "echo about me").Marshal(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true}); err != nil {
			return nil, err
		}
		head, err := def.Head()
		if err != nil {
			return nil, err
		}
		for _, w := range []struct {
			text string
			opt  gateway.WarnOpts
		}{
			{"full", gateway.WarnOpts{Level: 3, URL: "http://u", Detail: [][]byte{[]byte("a\nb"), []byte("c")}, Range: at, SourceInfo: info}},
			{"bare", gateway.WarnOpts{}},
		} {
			if err := g.Warn(ctx, head, w.text, w.opt); err != nil {
				return nil, err
			}
		}
		return gateway.NewResult(), g.Warn(ctx, "sha256:00", "of nothing", gateway.WarnOpts{})
	}
	_, p, err := d.direct(t.Context(), client.SolveOpt{Ref: "warned"}, build)
	if err != nil {
		t.Fatal(err)
	}
	check := func(p *progress) {
		t.Helper()
		if len(p.warnings) != 3 {
			t.Fatalf("got %d warnings", len(p.warnings))
		}
		full, bare, lone := p.warnings[0], p.warnings[1], p.warnings[2]
		for _, w := range []*client.VertexWarning{full, bare} {
			if !strings.Contains(p.names[w.Vertex.String()], "echo about me") {
				t.Errorf("%s: it is of %q", w.Short, p.names[w.Vertex.String()])
			}
		}
		if full.Level != 3 || full.URL != "http://u" || len(full.Detail) != 2 || string(full.Detail[0]) != "a\nb" {
			t.Errorf("got %+v", full)
		}
		if s := full.SourceInfo; s.GetFilename() != "f.lang" || s.GetLanguage() != "lang" || string(s.GetData()) != "one\ntwo\n" {
			t.Errorf("got the source %v", s)
		}
		if r := full.Range; len(r) != 1 || r[0].GetStart().GetCharacter() != 3 || r[0].GetEnd().GetLine() != 2 || r[0].GetEnd().GetCharacter() != 7 {
			t.Errorf("got the ranges %v", r)
		}
		if bare.Level != 1 || bare.SourceInfo != nil || len(bare.Range) != 0 {
			t.Errorf("got %+v", bare)
		}
		if lone.Vertex != "sha256:00" {
			t.Errorf("got %+v", lone)
		}
		if slices.Contains(p.order, "[internal] load build definition") {
			t.Errorf("the steps are %q", p.order)
		}
	}
	check(p)
	check(d.replay("warned"))
}
