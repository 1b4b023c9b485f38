package buildkit

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/worker"
)

// sources are the directories of the client's session, and of others that the request names.
type sources struct {
	manager *bksession.Manager
	own     *lateSession
}

var (
	_ worker.SessionSources = (*sources)(nil)
	_ worker.LayoutSources  = (*sources)(nil)
	_ worker.Uploads        = (*sources)(nil)
)

// Directory implements worker.Sources.
func (s *sources) Directory(ctx context.Context, name string) (filesync.Source, error) {
	own, err := s.own.get(ctx)
	if err != nil {
		return nil, err
	}
	return own.Directory(ctx, name)
}

// SessionDirectory implements worker.SessionSources.
func (s *sources) SessionDirectory(ctx context.Context, session, name string) (filesync.Source, error) {
	if session == s.own.id {
		return s.Directory(ctx, name)
	}
	other, err := s.manager.Get(ctx, session)
	if err != nil {
		return nil, err
	}
	return other.Directory(ctx, name)
}

// Upload implements worker.Uploads.
func (s *sources) Upload(ctx context.Context, id string) (io.ReadCloser, error) {
	own, err := s.own.get(ctx)
	if err != nil {
		return nil, err
	}
	return own.Upload(ctx, id)
}

// Layout implements worker.LayoutSources.
func (s *sources) Layout(ctx context.Context, session, store string) (worker.Layout, error) {
	var sess *bksession.Session
	var err error
	if session == "" || session == s.own.id {
		sess, err = s.own.get(ctx)
	} else {
		sess, err = s.manager.Get(ctx, session)
	}
	if err != nil {
		return nil, err
	}
	return layout{sess.ContentStore("oci:" + store)}, nil
}

// A layout is an OCI layout in a content store of the client's, which has blobs and no names.
type layout struct{ store *bksession.ContentStore }

// Open implements worker.Layout.
func (l layout) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	rest, ok := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/")
	if !ok {
		return nil, fmt.Errorf("opening %s: %w", name, fs.ErrNotExist)
	}
	d, err := frontend.ParseDigest(strings.Replace(rest, "/", ":", 1))
	if err != nil {
		return nil, err
	}
	size, err := l.store.Size(ctx, d)
	if err != nil {
		return nil, err
	}
	return l.store.Open(ctx, ocispec.Descriptor{Digest: d, Size: size})
}
