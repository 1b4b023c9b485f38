package buildkit

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// TestPlacesOfDefinitions checks that a failed operation is said to come from where the client's definition says: every place,
// with its file, lines and characters, the last one first; whether the client solves the definition, or hears of it as a
// frontend and returns the error.
func TestPlacesOfDefinitions(t *testing.T) {
	d := start(t)
	at := func(line, character, end, endCharacter int32) *pb.Range {
		r := &pb.Range{Start: &pb.Position{Line: line, Character: character}}
		if end > 0 {
			r.End = &pb.Position{Line: end, Character: endCharacter}
		}
		return r
	}
	state := llb.Scratch().File(llb.Mkfile("foo", 0o600, []byte("data")))
	one := llb.NewSourceMap(nil, "one", "", []byte("1\n2\n3\n"))
	two := llb.NewSourceMap(&state, "two", "lang", []byte("a\nb\nc\n"))
	failing := llb.Scratch().File(llb.Mkdir("a/b", 0o700),
		one.Location([]*pb.Range{at(7, 0, 0, 0)}),
		two.Location([]*pb.Range{at(1, 3, 2, 4), at(3, 1, 0, 0)}),
		one.Location([]*pb.Range{at(2, 0, 2, 9)}),
	)
	want := []string{
		`one "" "1\n2\n3\n" false 2:0-2:9`, `two "lang" "a\nb\nc\n" true 1:3-2:4 3:1-0:0`, `one "" "1\n2\n3\n" false 7:0-0:0`,
	}
	check := func(name string, err error) {
		t.Helper()
		var got []string
		for _, s := range errdefs.Sources(err) {
			text := fmt.Sprintf("%s %q %q %v", s.Info.Filename, s.Info.Language, s.Info.Data, s.Info.Definition != nil)
			for _, r := range s.Ranges {
				text += fmt.Sprintf(" %d:%d-%d:%d", r.GetStart().GetLine(), r.GetStart().GetCharacter(), r.GetEnd().GetLine(), r.GetEnd().GetCharacter())
			}
			got = append(got, text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v: got\n%q, want\n%q", name, err, got, want)
		}
	}
	def, err := failing.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.c.Solve(t.Context(), def, client.SolveOpt{}, nil)
	check("a definition", err)
	_, _, err = d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		_, err := solved(ctx, c, failing, true)
		check("a solve of a frontend's", err)
		return nil, err
	})
	check("what a frontend returns", err)
	_, _, err = d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, err := solved(ctx, c, failing, false)
		if err != nil {
			return nil, err
		}
		later, err := ref.ToState()
		if err != nil {
			return nil, err
		}
		_, err = solved(ctx, c, llb.Scratch().File(llb.Copy(later, "foo", "foo2")), true)
		return nil, err
	})
	check("what is made of a result", err)
}
