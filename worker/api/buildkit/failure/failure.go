// Package failure turns errors into those that BuildKit's clients understand: a gRPC status with typed details, from which
// its errdefs packages make errors again. A client prints the lines of a Dockerfile from one of them, and takes the exit
// code of a command from another.
//
// A detail is a message of BuildKit's as JSON, under the name that it is registered by with containerd's typeurl; a client
// puts them around the status one by one, the last one outermost.
package failure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/typeurl/v2"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
)

// Status returns err as a gRPC status; nil stays nil. One that is a status already keeps its code and its details.
func Status(err error) error {
	if err == nil {
		return nil
	}
	// Text that is not UTF-8, as a Dockerfile may have, could not be sent, and would take the details along.
	p := status.New(Code(err), strings.ToValidUTF8(Message(err), "\uFFFD")).Proto()
	var have interface{ GRPCStatus() *status.Status }
	if errors.As(err, &have) {
		p.Details = have.GRPCStatus().Proto().GetDetails()
	}
	for _, d := range details(err) {
		if a, aerr := detail(d); aerr == nil {
			p.Details = append(p.Details, a)
		}
	}
	return status.FromProto(p).Err()
}

// detail encodes a message as BuildKit's clients expect it.
func detail(m proto.Message) (*anypb.Any, error) {
	url, err := typeurl.TypeURL(m)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: url, Value: value}, nil
}

// details are the messages for what is known of err, the most particular one first.
func details(err error) []proto.Message {
	var out []proto.Message
	var exit *executor.ExitError
	if errors.As(err, &exit) {
		out = append(out, &gatewaypb.ExitMessage{Code: uint32(exit.Exit.Code)})
	}
	var vertex *solver.VertexError
	if errors.As(err, &vertex) && vertex.Vertex != nil {
		out = append(out, &errdefs.Vertex{Digest: progress.Digest(cmp.Or(vertex.Shown, vertex.Vertex)).String()})
	}
	var step *errdefs.SolveError
	if errors.As(err, &step) {
		out = append(out, step.Solve)
	}
	for _, src := range sources(err) {
		out = append(out, src)
	}
	var call *errdefs.UnsupportedSubrequestError
	if errors.As(err, &call) {
		out = append(out, call.Subrequest)
	}
	var missing *errdefs.UnsupportedFrontendCapError
	if errors.As(err, &missing) {
		out = append(out, missing.FrontendCap)
	}
	var old *errdefs.UnsupportedCompatibilityFeatureError
	if errors.As(err, &old) {
		out = append(out, old.CompatibilityFeature)
	}
	if m := policysession.DenyMessages(err); len(m) > 0 {
		out = append(out, &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: m})
	}
	return out
}

// sources are the places that err names, the outermost first, as BuildKit sends them: its client, and each who passes an error
// on, turns them round. Those of a vertex of a client's are in the client's words, the last one first; what else err has of
// them is less.
func sources(err error) (out []*errdefs.Source) {
	var exact []*errdefs.Source
	var m solver.Meta
	var vertex *solver.VertexError
	if errors.As(err, &vertex) && vertex.Vertex != nil {
		m = vertex.Vertex.Meta()
		for _, p := range slices.Backward(llb.Places(vertex.Vertex)) {
			exact = append(exact, place(p))
		}
	}
	var src *frontend.SourceError
	for inner := err; errors.As(inner, &src); inner = src.Err {
		if len(exact) == 0 || src.File != m.File || !slices.Equal(src.Ranges, m.Source) {
			out = append(out, Source(src))
		}
	}
	return append(out, exact...)
}

// place returns a place in a client's file as BuildKit's message.
func place(p llb.Place) *errdefs.Source {
	short := frontend.SourceError{Text: p.File.Text}
	for _, r := range p.Ranges {
		start := int(r.GetStart().GetLine())
		short.Ranges = append(short.Ranges, solver.Range{Start: start, End: max(start, int(r.GetEnd().GetLine()))})
	}
	return &errdefs.Source{
		Info: &pb.SourceInfo{
			Filename: p.File.Name, Language: p.File.Language, Data: short.Excerpt(), Definition: p.File.Definition,
		},
		Ranges: p.Ranges,
	}
}

// Returned makes an error of what somebody else has returned, who may know places in files; nil if st is none. rename says
// what is called here what is called so there, of what a failed step has read and left; nil leaves it.
func Returned(st *status.Status, rename func(id string) string) error {
	if st.Code() == codes.OK {
		return nil
	}
	p := st.Proto()
	var places []*errdefs.Source
	p.Details = slices.DeleteFunc(slices.Clone(p.GetDetails()), func(d *anypb.Any) bool {
		if !typeurl.Is(d, (*errdefs.Source)(nil)) {
			return false
		}
		var src errdefs.Source
		if typeurl.UnmarshalTo(d, &src) != nil || src.GetInfo() == nil {
			return false
		}
		places = append(places, &src)
		return true
	})
	renameIn(p.Details, rename)
	err := error(&returnedError{status.FromProto(p)})
	for _, src := range places {
		at := &frontend.SourceError{File: src.GetInfo().GetFilename(), Text: src.GetInfo().GetData(), Err: &placedError{src, err}}
		for _, r := range src.GetRanges() {
			at.Ranges = append(at.Ranges, solver.Range{Start: int(r.GetStart().GetLine()), End: int(r.GetEnd().GetLine())})
		}
		err = at
	}
	return err
}

// renameIn replaces the IDs that are in details, which it changes in place.
func renameIn(in []*anypb.Any, rename func(id string) string) {
	if rename == nil {
		return
	}
	for i, d := range in {
		var step errdefs.Solve
		if !typeurl.Is(d, &step) || typeurl.UnmarshalTo(d, &step) != nil {
			continue
		}
		for _, ids := range [][]string{step.InputIDs, step.MountIDs} {
			for k, id := range ids {
				if id != "" {
					ids[k] = rename(id)
				}
			}
		}
		if a, err := detail(&step); err == nil {
			in[i] = a
		}
	}
}

// A placedError is an error with its place as it came, which is inside of the frontend.SourceError made of it.
type placedError struct {
	at  *errdefs.Source
	err error
}

func (e *placedError) Error() string { return e.err.Error() }
func (e *placedError) Unwrap() error { return e.err }

// A returnedError is an error in the words of who returned it.
type returnedError struct{ st *status.Status }

func (e *returnedError) Error() string { return e.st.Message() }

// GRPCStatus returns it with its code and details.
func (e *returnedError) GRPCStatus() *status.Status { return e.st }

// Source returns the place of an error as BuildKit's message.
func Source(src *frontend.SourceError) *errdefs.Source {
	if have, ok := src.Err.(*placedError); ok { //nolint:errorlint // of this place, not of one within
		return have.at
	}
	out := &errdefs.Source{Info: &pb.SourceInfo{Filename: src.File, Data: src.Excerpt(), Language: "Dockerfile"}}
	out.Ranges = progress.Ranges(src.Ranges)
	return out
}

// Message is the text of err without the places in files, and the names of steps, that the details have: clients print
// these from there.
func Message(err error) string {
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) && err.Error() == st.GRPCStatus().Err().Error() {
		return st.GRPCStatus().Message()
	}
	text := err.Error()
	var src *frontend.SourceError
	for inner := err; errors.As(inner, &src) && src.Err != nil; inner = src.Err {
		text = strings.Replace(text, src.Error(), src.Err.Error(), 1)
	}
	var vertex *solver.VertexError
	if errors.As(err, &vertex) && vertex.Err != nil {
		text = strings.Replace(text, vertex.Error(), vertex.Err.Error(), 1)
	}
	return text
}

// Code classifies err. Of several kinds that it has, the one wins on which a client acts first.
func Code(err error) codes.Code {
	var coded interface{ Code() codes.Code }
	var st interface{ GRPCStatus() *status.Status }
	var resp *registry.StatusError
	switch {
	case errors.As(err, &coded):
		return coded.Code()
	case errors.As(err, &st) && st.GRPCStatus().Code() != codes.OK:
		return st.GRPCStatus().Code()
	case is[*errdefs.UnsupportedFrontendCapError](err):
		return codes.Unimplemented
	case errors.Is(err, worker.ErrDraining):
		return codes.Unavailable
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case is[*executor.ExitError](err):
		return codes.Unknown
	case errors.As(err, &resp) && resp.Status == http.StatusForbidden:
		return codes.PermissionDenied
	case errors.Is(err, registry.ErrUnauthorized):
		return codes.Unauthenticated
	case errors.Is(err, worker.ErrNotFound), errors.Is(err, registry.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return codes.NotFound
	}
	// What a user wrote is wrong in too many ways for a code; BuildKit has this one for all of them.
	return codes.Unknown
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}
