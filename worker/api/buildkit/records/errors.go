package records

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/failure"
	"github.com/boxbuild/boxbuild/worker/history"
)

// ErrorForm is the name under which the history keeps errors as EncodeError makes them.
const ErrorForm = "buildkit"

// EncodeError returns err as BuildKit's clients get it: a gRPC status with typed details, as a protocol buffer.
func EncodeError(err error) []byte {
	st, ok := status.FromError(failure.Status(err))
	if !ok {
		return nil
	}
	b, merr := proto.Marshal(st.Proto())
	if merr != nil {
		return nil // text that is not UTF-8: there is the message at least
	}
	return b
}

// decodeError returns the status of a recorded error. That of a build that was cancelled says so in the words that clients
// look for.
func decodeError(e *history.Error) *spb.Status {
	st := &spb.Status{}
	if form := e.Form(ErrorForm); form == nil || proto.Unmarshal(form, st) != nil {
		st = &spb.Status{Code: int32(codes.Unknown), Message: e.Message}
	}
	if e.Canceled {
		st.Code = int32(codes.Canceled)
		if !strings.Contains(st.Message, context.Canceled.Error()) {
			st.Message = context.Canceled.Error() + ": " + st.Message
		}
	}
	return st
}

// wire returns err with the code that BuildKit's clients know.
func wire(err error) error {
	code := codes.Unknown
	switch {
	case err == nil:
		return nil
	case errors.Is(err, history.ErrNotFound), errors.Is(err, blob.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		code = codes.NotFound
	case errors.Is(err, worker.ErrRunning):
		code = codes.FailedPrecondition
	case errors.Is(err, history.ErrClosed):
		code = codes.Unavailable
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	default:
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
	}
	return status.Error(code, err.Error())
}
