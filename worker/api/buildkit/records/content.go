package records

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/snapshot/blob"
)

const (
	// readChunk is how many bytes of a blob are one message.
	readChunk = 1 << 20
	// listChunk is how many blobs are one message of a list.
	listChunk = 100
)

// errReadOnly is the error of whatever would change the content.
var errReadOnly = status.Error(codes.PermissionDenied, "the content of this daemon can be read only")

// A contentServer implements containerd's content service.
type contentServer struct {
	contentapi.UnimplementedContentServer
	s *Server
}

// content is one blob.
type content interface {
	io.ReaderAt
	io.Closer
}

// open opens a blob: of the store, or else of the history.
func (c *contentServer) open(text string) (content, *contentapi.Info, error) {
	d, err := digest.Parse(text)
	if err == nil {
		err = blob.Validate(d)
	}
	if err != nil {
		return nil, nil, status.Errorf(codes.InvalidArgument, "%q is not a digest: %v", text, err)
	}
	info := &contentapi.Info{Digest: d.String()}
	if st, err := c.s.opt.Blobs.Stat(d); err == nil {
		r, err := c.s.opt.Blobs.ReaderAt(d)
		if err == nil {
			info.Size, info.CreatedAt = st.Size, timestamppb.New(st.Written)
			info.UpdatedAt = info.CreatedAt
			return r, info, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return nil, nil, wire(err)
		}
	}
	f, err := c.s.opt.History.OpenBlob(d)
	if err != nil {
		return nil, nil, status.Errorf(codes.NotFound, "content %s: not found", d)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close() // it was only read
		return nil, nil, wire(err)
	}
	info.Size, info.CreatedAt = fi.Size(), timestamppb.New(fi.ModTime())
	info.UpdatedAt = info.CreatedAt
	return f, info, nil
}

// Info implements the service.
func (c *contentServer) Info(_ context.Context, req *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	r, info, err := c.open(req.GetDigest())
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: info}, r.Close()
}

// Read implements the service: a Size of 0 is all from the offset on.
func (c *contentServer) Read(req *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	r, info, err := c.open(req.GetDigest())
	if err != nil {
		return err
	}
	defer r.Close()
	at, end := req.GetOffset(), info.GetSize()
	if at < 0 || req.GetSize() < 0 || at > end {
		return status.Errorf(codes.OutOfRange, "%s has %d bytes, of which %d from %d on cannot be read", req.GetDigest(), end, req.GetSize(), at)
	}
	if n := req.GetSize(); n > 0 && n < end-at {
		end = at + n
	}
	for at < end {
		buf := make([]byte, min(readChunk, end-at))
		n, err := r.ReadAt(buf, at)
		if n < len(buf) {
			return wire(fmt.Errorf("reading %s: %w", req.GetDigest(), errors.Join(err, io.ErrUnexpectedEOF)))
		}
		if err := stream.Send(&contentapi.ReadContentResponse{Offset: at, Data: buf}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// List implements the service.
func (c *contentServer) List(req *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	filter, err := filters.ParseAll(req.GetFilters()...)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	var out []*contentapi.Info
	add := func(d digest.Digest, size int64, at time.Time) error {
		info := &contentapi.Info{Digest: d.String(), Size: size}
		if !at.IsZero() {
			info.CreatedAt = timestamppb.New(at)
			info.UpdatedAt = info.CreatedAt
		}
		if !filter.Match(adaptInfo(info)) {
			return nil
		}
		if out = append(out, info); len(out) < listChunk {
			return nil
		}
		err := stream.Send(&contentapi.ListContentResponse{Info: out})
		out = nil
		return err
	}
	seen := map[digest.Digest]bool{}
	for b, err := range c.s.opt.Blobs.All(stream.Context()) {
		if err != nil {
			return wire(err)
		}
		seen[b.Digest] = true
		if err := add(b.Digest, b.Size, b.Written); err != nil {
			return err
		}
	}
	for _, b := range c.s.opt.History.Blobs() {
		if seen[b.Digest] {
			continue
		}
		seen[b.Digest] = true
		if err := add(b.Digest, b.Size, time.Time{}); err != nil {
			return err
		}
	}
	if len(out) == 0 {
		return nil
	}
	return stream.Send(&contentapi.ListContentResponse{Info: out})
}

// adaptInfo is a blob as containerd's filters see it.
func adaptInfo(info *contentapi.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "digest":
			return info.GetDigest(), true
		case "size":
			return fmt.Sprint(info.GetSize()), true
		}
		return "", false
	})
}

// Status implements the service: nothing is being written.
func (c *contentServer) Status(_ context.Context, req *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	return nil, status.Errorf(codes.NotFound, "%s: not found", req.GetRef())
}

// ListStatuses implements the service.
func (c *contentServer) ListStatuses(context.Context, *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	return &contentapi.ListStatusesResponse{}, nil
}

// Update implements the service.
func (c *contentServer) Update(context.Context, *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	return nil, errReadOnly
}

// Delete implements the service.
func (c *contentServer) Delete(context.Context, *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	return nil, errReadOnly
}

// Abort implements the service.
func (c *contentServer) Abort(context.Context, *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return nil, errReadOnly
}

// Write implements the service.
func (c *contentServer) Write(contentapi.Content_WriteServer) error { return errReadOnly }
