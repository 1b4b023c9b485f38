package builder

import (
	"context"
	"errors"
	"fmt"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/worker"
)

// directory opens the client's directory of that name, once. session is the ID of the client's, if not the build's own.
func (e *env) directory(ctx context.Context, session, name string) (filesync.Source, error) {
	key := session + "\x00" + name
	e.mu.Lock()
	d, ok := e.dirs[key]
	e.mu.Unlock()
	if ok {
		return d, nil
	}
	if e.req.Sources == nil {
		return nil, &frontend.UsageError{Message: fmt.Sprintf("the build has no directory %q", name)}
	}
	d, err := e.openDirectory(ctx, session, name)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	have, ok := e.dirs[key]
	closed := e.closed
	if !ok && !closed {
		if e.dirs == nil {
			e.dirs = make(map[string]filesync.Source)
		}
		e.dirs[key] = d
	}
	e.mu.Unlock()
	switch {
	case ok: // another goroutine was quicker
		d.Close()
		return have, nil
	case closed:
		return nil, errors.Join(errOver, d.Close())
	}
	return d, nil
}

func (e *env) openDirectory(ctx context.Context, session, name string) (filesync.Source, error) {
	if others, ok := e.req.Sources.(worker.SessionSources); ok && session != "" {
		return others.SessionDirectory(ctx, session, name)
	}
	return e.req.Sources.Directory(ctx, name)
}
