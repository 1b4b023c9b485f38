package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// newWorker chooses the drivers and builds the worker on them.
func newWorker(context.Context, *config.Daemon, *slog.Logger) (*daemon, error) {
	return nil, errors.New("this boxbuildd was built without a worker")
}
