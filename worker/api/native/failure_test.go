package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Every error keeps its kind and its message over the wire, whatever it is wrapped in.
func TestFailureSurvives(t *testing.T) {
	exit := executor.Exit{Code: 7}.Err([]string{"make"}, 0)
	for _, c := range []struct {
		err  error
		kind boxbuildv1.ErrorKind
	}{
		{errors.New("anything"), boxbuildv1.ErrorKind_ERROR_KIND_INTERNAL},
		{&frontend.UsageError{Message: "no such target"}, boxbuildv1.ErrorKind_ERROR_KIND_USAGE},
		{&frontend.SourceError{File: "Dockerfile", Err: errors.New("bad")}, boxbuildv1.ErrorKind_ERROR_KIND_SOURCE},
		{fmt.Errorf("%w: x", worker.ErrNotFound), boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND},
		{registry.ErrNotFound, boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}, boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND},
		{worker.ErrInUse, boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT},
		{worker.ErrAmbiguous, boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT},
		{worker.ErrRecorded, boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT},
		{registry.ErrUnauthorized, boxbuildv1.ErrorKind_ERROR_KIND_UNAUTHENTICATED},
		{&registry.StatusError{Host: "x", Status: 403}, boxbuildv1.ErrorKind_ERROR_KIND_DENIED},
		{context.Canceled, boxbuildv1.ErrorKind_ERROR_KIND_CANCELED},
		{ErrDraining, boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE},
		{exit, boxbuildv1.ErrorKind_ERROR_KIND_STEP},
		{&frontend.SourceError{File: "Dockerfile", Err: exit}, boxbuildv1.ErrorKind_ERROR_KIND_STEP},
	} {
		err := fail(fmt.Errorf("doing it: %w", c.err))
		st, ok := status.FromError(err)
		if !ok {
			t.Errorf("%v is no gRPC status", err)
		}
		got := boxbuildv1.AsFailure(st.Err())
		if got.Wire.GetKind() != c.kind || !strings.HasPrefix(got.Error(), "doing it: ") {
			t.Errorf("%v: got %v %q, want %v", c.err, got.Wire.GetKind(), got.Error(), c.kind)
		}
	}
	if fail(nil) != nil {
		t.Error("no error has become one")
	}
}

// A failed step has its exit code, its name and its lines; the message does not repeat the place.
func TestStepFailure(t *testing.T) {
	v := solver.NewVertex(testOp{}, nil, solver.Meta{Name: "[2/2] RUN make"})
	exit := executor.Exit{Code: 7}.Err([]string{"make"}, 0)
	got := wireError(&frontend.SourceError{
		File: "Dockerfile", Text: []byte("FROM scratch\nRUN make\n"), Ranges: []solver.Range{{Start: 2, End: 2}},
		Err: &solver.VertexError{Vertex: v, Err: exit},
	})
	if got.GetStep().GetExitCode() != 7 || got.GetStep().GetName() != "[2/2] RUN make" {
		t.Errorf("the step is %v", got.GetStep())
	}
	if !strings.Contains(got.GetSource().GetQuote(), ">>> RUN make") {
		t.Errorf("the quote is %q", got.GetSource().GetQuote())
	}
	if got.GetMessage() != exit.Error() {
		t.Errorf("the message is %q, want %q", got.GetMessage(), exit)
	}
}

type testOp struct{}

func (testOp) WriteKey(h *solver.Hasher) { h.Version("test", 1) }
func (testOp) String() string            { return "test" }

// A vertex is declared once, before anything else about it, and has one number in a build.
func TestNumbering(t *testing.T) {
	n := numbering{}
	v := solver.NewVertex(testOp{}, nil, solver.Meta{})
	w := solver.NewVertex(testOp{}, []solver.Input{{Vertex: v}}, solver.Meta{})
	var got []string
	for _, ev := range []solver.Event{
		{Kind: solver.Declared, Vertex: v},
		{Kind: solver.Started, Vertex: v},
		{Kind: solver.Started, Vertex: w},
		{Kind: solver.Declared, Vertex: w},
		{Kind: solver.Done, Vertex: w},
		{Kind: solver.Warned},
	} {
		for _, out := range n.outputs(&ev) {
			kind := fmt.Sprintf("%T", out.GetEvent().GetEvent())
			_, kind, _ = strings.Cut(kind, "Event_")
			got = append(got, fmt.Sprint(kind, out.GetEvent().GetVertex()))
		}
	}
	if want := "[Declared1 Started1 Declared2 Started2 Done2 Warning0]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The daemon uses its own rights only on a directory that is the same for both.
func TestSameDirectory(t *testing.T) {
	for _, d := range []*boxbuildv1.Directory{
		{Path: ""},
		{Path: "relative"},
		{Path: "/no/such/directory"},
		{Path: "/dev/null"},
		{Path: t.TempDir(), Device: 1, Inode: 1},
	} {
		if sameDirectory(d) == nil {
			t.Errorf("%v passes for the client's directory", d)
		}
	}
	if trusted(t.Context()) == nil {
		t.Error("a client that nobody knows is trusted")
	}
}
