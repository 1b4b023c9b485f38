package boxbuildv1

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A Failure is an Error as a Go error. It is what both sides make of an error of the other.
type Failure struct{ Wire *Error }

func (f *Failure) Error() string { return f.Wire.GetMessage() }

// codeOf is the gRPC code that clients see which know nothing of Error.
var codeOf = map[ErrorKind]codes.Code{
	ErrorKind_ERROR_KIND_INTERNAL:        codes.Internal,
	ErrorKind_ERROR_KIND_USAGE:           codes.InvalidArgument,
	ErrorKind_ERROR_KIND_SOURCE:          codes.InvalidArgument,
	ErrorKind_ERROR_KIND_NOT_FOUND:       codes.NotFound,
	ErrorKind_ERROR_KIND_CONFLICT:        codes.FailedPrecondition,
	ErrorKind_ERROR_KIND_UNAUTHENTICATED: codes.Unauthenticated,
	ErrorKind_ERROR_KIND_DENIED:          codes.PermissionDenied,
	ErrorKind_ERROR_KIND_CANCELED:        codes.Canceled,
	ErrorKind_ERROR_KIND_STEP:            codes.Aborted,
	ErrorKind_ERROR_KIND_UNAVAILABLE:     codes.Unavailable,
}

// GRPCStatus makes a Failure that a handler returns arrive whole at the client.
func (f *Failure) GRPCStatus() *status.Status {
	code, ok := codeOf[f.Wire.GetKind()]
	if !ok {
		code = codes.Internal
	}
	wire := f.Wire
	if valid, ok := ValidText(wire).(*Error); ok {
		wire = valid // what is not UTF-8 does not pass
	}
	st := status.New(code, wire.GetMessage())
	if with, err := st.WithDetails(wire); err == nil {
		return with
	}
	return st
}

// AsFailure returns what the other side reported with err, or, for an error without details, what its gRPC code says.
// It returns nil for an error that is not of a call.
func AsFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	st, ok := status.FromError(err)
	if !ok || err == nil {
		return nil
	}
	for _, d := range st.Details() {
		if e, ok := d.(*Error); ok {
			return &Failure{Wire: e}
		}
	}
	return &Failure{Wire: &Error{Kind: kindOf(st.Code()), Message: st.Message()}}
}

// kindOf is the kind of an error that gRPC itself made.
func kindOf(c codes.Code) ErrorKind {
	switch c {
	case codes.Canceled, codes.DeadlineExceeded:
		return ErrorKind_ERROR_KIND_CANCELED
	case codes.Unavailable:
		return ErrorKind_ERROR_KIND_UNAVAILABLE
	case codes.PermissionDenied:
		return ErrorKind_ERROR_KIND_DENIED
	case codes.Unauthenticated:
		return ErrorKind_ERROR_KIND_UNAUTHENTICATED
	case codes.NotFound:
		return ErrorKind_ERROR_KIND_NOT_FOUND
	case codes.InvalidArgument:
		return ErrorKind_ERROR_KIND_USAGE
	case codes.AlreadyExists, codes.FailedPrecondition:
		return ErrorKind_ERROR_KIND_CONFLICT
	case codes.OK, codes.Unknown, codes.ResourceExhausted, codes.Aborted, codes.OutOfRange, codes.Unimplemented,
		codes.Internal, codes.DataLoss:
	}
	return ErrorKind_ERROR_KIND_INTERNAL
}

// KindOf returns the kind of err: INTERNAL for one that has none.
func KindOf(err error) ErrorKind {
	if f := AsFailure(err); f != nil {
		return f.Wire.GetKind()
	}
	return ErrorKind_ERROR_KIND_INTERNAL
}
