package native_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// A warningBuilder warns, and fails.
type warningBuilder struct {
	warning solver.Warning
	err     error
}

func (b warningBuilder) Build(_ context.Context, _ *worker.BuildRequest, emit func(solver.Event)) (*worker.BuildResult, error) {
	emit(solver.Event{Kind: solver.Warned, Time: time.Unix(1, 0), Warning: b.warning})
	return nil, b.err
}

// TestTextPasses checks that a build whose warnings and errors have bytes that are not UTF-8 reports both.
func TestTextPasses(t *testing.T) {
	client := serve(t, warningBuilder{
		warning: solver.Warning{Short: "Jos\xe9"}, err: errors.New("f\xe9: no such file"),
	})
	stream, err := client.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: &boxbuildv1.BuildRequest{
		Frontend: &boxbuildv1.Frontend{Dockerfile: &boxbuildv1.Frontend_Text{Text: []byte("FROM scratch")}},
	}}}); err != nil {
		t.Fatal(err)
	}
	warning := ""
	for {
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if w := out.GetEvent().GetWarning(); w != nil {
			warning = w.GetShort()
		}
		if f := out.GetFinished(); f != nil {
			if got := f.GetError().GetMessage(); warning != "Jos\uFFFD" || got != "f\uFFFD: no such file" {
				t.Errorf("got warning %q, error %q", warning, got)
			}
			return
		}
	}
}
