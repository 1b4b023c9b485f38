package failure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
)

type step string

func (s step) WriteKey(h *solver.Hasher) { h.Str("step", string(s)) }
func (s step) String() string            { return string(s) }

// TestDetails checks that a client makes of a status what the error had: every type, in the usual nesting.
func TestDetails(t *testing.T) {
	v := solver.NewVertex(step("RUN"), nil, solver.Meta{})
	err := error(&frontend.SourceError{
		File: "Dockerfile", Text: []byte("a\nb\n"), Ranges: []solver.Range{{Start: 2, End: 2}},
		Err: &solver.VertexError{Vertex: v, Err: &executor.ExitError{Args: []string{"false"}, Exit: executor.Exit{Code: 3}}},
	})
	got := grpcerrors.FromGRPC(Status(fmt.Errorf("outer: %w", err)))
	if want := `outer: process "false" did not complete successfully: exit code: 3`; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var exit *gatewaypb.ExitError
	if !errors.As(got, &exit) || exit.ExitCode != 3 {
		t.Errorf("the exit code is in %#v", exit)
	}
	var vertex *errdefs.VertexError
	if !errors.As(got, &vertex) || vertex.Digest != progress.Digest(v).String() {
		t.Errorf("the vertex is %v", vertex)
	}
	src := errdefs.Sources(got)
	if len(src) != 1 || src[0].Info.Filename != "Dockerfile" || string(src[0].Info.Data) != "a\nb\n" || src[0].Ranges[0].Start.Line != 2 {
		t.Errorf("the sources are %v", src)
	}
	var text strings.Builder
	if err := src[0].Print(&text); err != nil || !strings.Contains(text.String(), ">>> b") {
		t.Errorf("the source is printed as %q, %v", text.String(), err)
	}
}

// TestTypes checks the errors of BuildKit's own types.
func TestTypes(t *testing.T) {
	var call *errdefs.UnsupportedSubrequestError
	if err := grpcerrors.FromGRPC(Status(errdefs.NewUnsupportedSubrequestError("x"))); !errors.As(err, &call) || call.Name != "x" {
		t.Errorf("got %v", err)
	}
	var missing *errdefs.UnsupportedFrontendCapError
	err := grpcerrors.FromGRPC(Status(errdefs.NewUnsupportedFrontendCapError("y")))
	if !errors.As(err, &missing) || missing.Name != "y" || grpcerrors.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
	denied := policysession.WrapDenyMessages(errors.New("no"), []*policysession.DenyMessage{{Message: "old"}})
	if m := policysession.DenyMessages(grpcerrors.FromGRPC(Status(denied))); len(m) != 1 || m[0].Message != "old" {
		t.Errorf("got %v", m)
	}
}

// TestCodes checks which code an error has.
func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("x"), codes.Unknown},
		{fmt.Errorf("x: %w", context.Canceled), codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{fmt.Errorf("x: %w", worker.ErrDraining), codes.Unavailable},
		{fmt.Errorf("x: %w", fs.ErrNotExist), codes.NotFound},
		{errdefs.NewUnknownJobError("j"), codes.NotFound},
		{fmt.Errorf("x: %w", status.Error(codes.PermissionDenied, "y")), codes.PermissionDenied},
		{&frontend.UsageError{Message: "x"}, codes.Unknown},
	} {
		if got := status.Code(Status(c.err)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
	if Status(nil) != nil {
		t.Error("nil is an error")
	}
	if err := Status(status.Error(codes.NotFound, "y")); status.Convert(err).Message() != "y" {
		t.Errorf("got %v", err)
	}
}
