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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
)

type step string

func (s step) WriteKey(h *solver.Hasher) { h.Str("step", string(s)) }
func (s step) String() string            { return string(s) }

// TestText checks that an error can be sent whatever it quotes, with its details.
func TestText(t *testing.T) {
	err := Status(&frontend.SourceError{
		File: "Dockerfile", Text: []byte("RU\xff\n"), Ranges: []solver.Range{{Start: 1, End: 1}}, Err: errors.New("unknown instruction: RU\xff"),
	})
	p := status.Convert(err).Proto()
	if _, err := proto.Marshal(p); err != nil || len(p.GetDetails()) == 0 || p.GetMessage() != "unknown instruction: RU\uFFFD" {
		t.Errorf("got %q with %d details, %v", p.GetMessage(), len(p.GetDetails()), err)
	}
}

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

// TestReturned checks that an error which somebody has returned as a status is the same to a client, in text, code and
// details; and that the places which it names are such to us as well. Their order turns round with everybody who passes them
// on, as with BuildKit, where the one that was told last is the outermost.
func TestReturned(t *testing.T) {
	if err := Returned(status.New(codes.OK, ""), nil); err != nil {
		t.Errorf("no error is %v", err)
	}
	inner := &frontend.SourceError{
		File: "inner", Text: []byte("a\nb\n"), Ranges: []solver.Range{{Start: 2, End: 2}}, Err: errdefs.NewUnsupportedFrontendCapError("x"),
	}
	sent := Status(&frontend.SourceError{File: "outer", Text: []byte("c\n"), Ranges: []solver.Range{{Start: 1, End: 1}}, Err: inner})
	err := Returned(status.Convert(sent), nil)
	var src *frontend.SourceError
	if !errors.As(err, &src) || src.File != "inner" || !strings.Contains(src.Quote(), ">>> b") || src.Ranges[0] != inner.Ranges[0] {
		t.Errorf("the outermost place is %+v", src)
	}
	if !errors.As(src.Err, &src) || src.File != "outer" || string(src.Text) != "c\n" {
		t.Errorf("the innermost place is %+v", src)
	}
	want, got := grpcerrors.FromGRPC(sent), grpcerrors.FromGRPC(Status(err))
	var missing *errdefs.UnsupportedFrontendCapError
	if got.Error() != want.Error() || grpcerrors.Code(got) != codes.Unimplemented || !errors.As(got, &missing) {
		t.Errorf("got %v with code %s, want %v", got, grpcerrors.Code(got), want)
	}
	if a, b := errdefs.Sources(got), errdefs.Sources(want); len(a) != 2 || len(b) != 2 || a[0].Info.Filename != b[1].Info.Filename {
		t.Errorf("the places are %v, want the reverse of %v", a, b)
	}
	// What cannot be read stays as it is.
	p := status.New(codes.Unknown, "no").Proto()
	p.Details = []*anypb.Any{{TypeUrl: "github.com/moby/buildkit/errdefs.Source+json", Value: []byte("{")}}
	if err := Returned(status.FromProto(p), nil); err.Error() != "no" || len(status.Convert(err).Proto().GetDetails()) != 1 {
		t.Errorf("got %v", err)
	}
}
