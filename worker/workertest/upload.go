package workertest

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// fetched reads the Dockerfile of a context that is one file: a tar that the client sends. What is at a URL is made up.
func (p *performance) fetched(ctx context.Context, get *op.HTTP, file string) ([]byte, error) {
	id, ok := get.Upload()
	if !ok {
		return []byte("FROM scratch\nRUN echo fetched " + get.URL + "\nRUN request\n"), nil
	}
	up, ok := p.req.Sources.(worker.Uploads)
	if !ok {
		return nil, &frontend.UsageError{Message: "the client sends no build context"}
	}
	body, err := up.Upload(ctx, id)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var text []byte
	found := false
	for r := tar.NewReader(body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the build context: %w", err)
		}
		if path.Clean(h.Name) == path.Clean(file) {
			if text, err = io.ReadAll(r); err != nil {
				return nil, err
			}
			found = true
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil { // what comes after the archive is part of what was sent
		return nil, err
	}
	if !found {
		return nil, &frontend.UsageError{Message: "failed to read dockerfile: open " + file + ": no such file or directory"}
	}
	return text, nil
}
