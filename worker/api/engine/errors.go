package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/worker"
)

// status is the code that docker answers an error with.
func status(err error) int {
	var (
		usage  *frontend.UsageError
		source *frontend.SourceError
		large  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err), errors.As(err, &usage), errors.As(err, &source):
		return http.StatusBadRequest
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotFound(err), errors.Is(err, worker.ErrNotFound), errors.Is(err, worker.ErrAmbiguous),
		errors.Is(err, registry.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err), errdefs.IsAborted(err),
		errors.Is(err, worker.ErrInUse), errors.Is(err, worker.ErrRunning):
		return http.StatusConflict
	case errors.Is(err, registry.ErrUnauthorized):
		return http.StatusUnauthorized
	case errdefs.IsNotImplemented(err), errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotImplemented
	case errdefs.IsUnavailable(err), errors.Is(err, worker.ErrDraining), errors.Is(err, errClosing):
		return http.StatusServiceUnavailable
	case errdefs.IsResourceExhausted(err):
		return http.StatusTooManyRequests
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// writeError answers with an error, as docker does.
func writeError(w http.ResponseWriter, err error, body bool) {
	code := status(err)
	w.Header().Del("Content-Length")
	if code == http.StatusNotModified || !body {
		w.WriteHeader(code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(common.ErrorResponse{Message: err.Error()}) // the client may be gone
}

// missing is the answer to what this daemon does not have.
func missing(what string) error {
	return worker.Errorf(errdefs.ErrNotImplemented, "%s", what)
}
