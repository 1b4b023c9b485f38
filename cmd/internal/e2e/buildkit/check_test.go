package buildkit

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/opencontainers/go-digest"
)

// TestCheckDefinition checks that the findings of a check say where the Dockerfile is from, as the same definition that
// BuildKit's frontend has for it, and that the list of subrequests is BuildKit's.
func TestCheckDefinition(t *testing.T) {
	d := start(t)
	opt := opts(t, map[string]string{"sub/Dockerfile": "FROM scratch\nmaintainer x\n"})
	var found lint.LintResults
	var list, session string
	_, err := d.c.Build(t.Context(), opt, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		session = c.BuildOpts().SessionID
		for id, take := range map[string]func(map[string][]byte) error{
			"frontend.lint": func(md map[string][]byte) error { return json.Unmarshal(md["result.json"], &found) },
			"frontend.subrequests.describe": func(md map[string][]byte) error {
				list = string(md["result.txt"])
				return nil
			},
		} {
			res, err := c.Solve(ctx, gateway.SolveRequest{
				Frontend: "dockerfile.v0", FrontendOpt: map[string]string{"requestid": id, "filename": "sub/Dockerfile"},
			})
			if err != nil {
				return nil, err
			}
			if err := take(res.Metadata); err != nil {
				return nil, err
			}
		}
		return gateway.NewResult(), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(list, "lint") || strings.Count(list, "\n") != 4 {
		t.Errorf("the list is\n%s", list)
	}

	const name = "sub/Dockerfile"
	want, err := llb.Local("dockerfile",
		llb.FollowPaths([]string{name, name + ".dockerignore", "sub/dockerfile"}), llb.SessionID(session),
		llb.SharedKeyHint("dockerfile"), llb.Differ(llb.DiffNone, false),
		llb.WithCustomName("[internal] load build definition from "+name),
	).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Sources) != 1 || len(found.Warnings) == 0 {
		t.Fatalf("found %+v", found)
	}
	got := found.Sources[0].Definition
	if len(got.GetDef()) != 2 || digest.FromBytes(got.GetDef()[0]) != digest.FromBytes(want.Def[0]) {
		t.Fatalf("the definition is %v, want %v", got, want.ToPB())
	}
	for dgst, m := range want.ToPB().Metadata {
		for c := range m.GetCaps() {
			if !got.GetMetadata()[dgst].GetCaps()[c] {
				t.Errorf("%s does not say that it needs %s", dgst, c)
			}
		}
	}
}
