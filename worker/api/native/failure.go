package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/history"
)

// failure makes an error of a kind.
func failure(kind boxbuildv1.ErrorKind, format string, args ...any) error {
	return &boxbuildv1.Failure{Wire: &boxbuildv1.Error{Kind: kind, Message: fmt.Sprintf(format, args...)}}
}

func usage(format string, args ...any) error {
	return failure(boxbuildv1.ErrorKind_ERROR_KIND_USAGE, format, args...)
}

// fail makes of any error one that survives the wire; nil stays nil.
func fail(err error) error {
	if err == nil {
		return nil
	}
	return &boxbuildv1.Failure{Wire: wireError(err)}
}

// wireError classifies err. Of several kinds that it has, the one wins on which a user acts first.
func wireError(err error) *boxbuildv1.Error {
	var own *boxbuildv1.Failure // what the client itself has said
	if errors.As(err, &own) {
		return own.Wire
	}
	var src *frontend.SourceError
	placed := errors.As(err, &src) // also what a frontend in an image has returned, which is a status
	if f := boxbuildv1.AsFailure(err); f != nil && !placed {
		return f.Wire
	}
	if past := recorded(err); past != nil {
		return past
	}
	out := &boxbuildv1.Error{Kind: kindOf(err), Message: err.Error()}
	if placed {
		// The quote says where; the message need not say it again.
		out.Message = strings.Replace(out.Message, src.Error(), src.Err.Error(), 1)
		out.Source = &boxbuildv1.SourceError{File: src.File, Ranges: ranges(src.Ranges), Quote: src.Quote()}
	}
	var exit *executor.ExitError
	if errors.As(err, &exit) {
		out.Step = &boxbuildv1.StepError{ExitCode: int32(exit.Exit.Code)}
		var vertex *solver.VertexError
		if errors.As(err, &vertex) && vertex.Vertex != nil {
			out.Step.Name = vertex.Vertex.Name()
		}
	}
	return out
}

func kindOf(err error) boxbuildv1.ErrorKind {
	var (
		exit *executor.ExitError
		src  *frontend.SourceError
		use  *frontend.UsageError
		resp *registry.StatusError
	)
	switch {
	case errors.Is(err, ErrDraining), errors.Is(err, history.ErrDaemonEnded), errors.Is(err, history.ErrClosed):
		return boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return boxbuildv1.ErrorKind_ERROR_KIND_CANCELED
	case errors.As(err, &exit):
		return boxbuildv1.ErrorKind_ERROR_KIND_STEP
	case errors.As(err, &resp) && resp.Status == http.StatusForbidden:
		return boxbuildv1.ErrorKind_ERROR_KIND_DENIED
	case errors.Is(err, registry.ErrUnauthorized):
		return boxbuildv1.ErrorKind_ERROR_KIND_UNAUTHENTICATED
	case errors.As(err, &src):
		return boxbuildv1.ErrorKind_ERROR_KIND_SOURCE
	case errors.As(err, &use):
		return boxbuildv1.ErrorKind_ERROR_KIND_USAGE
	case errors.Is(err, worker.ErrNotFound), errors.Is(err, registry.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND
	case errors.Is(err, worker.ErrInUse), errors.Is(err, worker.ErrAmbiguous), errors.Is(err, worker.ErrRunning),
		errors.Is(err, worker.ErrRecorded), errors.Is(err, history.ErrAmbiguous):
		return boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT
	}
	return boxbuildv1.ErrorKind_ERROR_KIND_INTERNAL
}

func ranges(in []solver.Range) []*boxbuildv1.LineRange {
	out := make([]*boxbuildv1.LineRange, len(in))
	for i, r := range in {
		out[i] = &boxbuildv1.LineRange{Start: int32(r.Start), End: int32(r.End)}
	}
	return out
}
