package bridge

import (
	"context"
	"io/fs"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/filesync"
)

// readable returns a ref that is not the empty tree, made, and what reads it.
func (c *conversation) readable(ctx context.Context, id string) (*ref, frontend.FileReader, error) {
	r, err := c.ref(id)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, status.Errorf(codes.InvalidArgument, "empty ref: %s", id)
	}
	reader, ok := c.env.(frontend.FileReader)
	if !ok {
		return nil, nil, lacks("read files")
	}
	return r, reader, c.evaluate(ctx, r)
}

// ReadFile returns a file of a ref, or a part of it.
func (c *conversation) ReadFile(ctx context.Context, in *pb.ReadFileRequest) (*pb.ReadFileResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ReadFileResponse, error) {
		r, reader, err := c.readable(ctx, in.GetRef())
		if err != nil {
			return nil, err
		}
		if empty(in) {
			_, err := reader.StatFile(ctx, r.in, in.GetFilePath())
			return &pb.ReadFileResponse{}, err
		}
		data, err := reader.ReadRange(ctx, r.in, in.GetFilePath(), in.GetRange().GetOffset(), in.GetRange().GetLength())
		if err != nil {
			return nil, err
		}
		return &pb.ReadFileResponse{Data: data}, nil
	})
}

// empty says whether a range of no bytes is asked for, which is not the same as no range.
func empty(in *pb.ReadFileRequest) bool {
	return in.GetRange() != nil && in.GetRange().GetLength() == 0
}

// ReadDir lists a directory of a ref.
func (c *conversation) ReadDir(ctx context.Context, in *pb.ReadDirRequest) (*pb.ReadDirResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ReadDirResponse, error) {
		r, reader, err := c.readable(ctx, in.GetRef())
		if err != nil {
			return nil, err
		}
		list, err := reader.ReadDir(ctx, r.in, in.GetDirPath(), in.GetIncludePattern())
		if err != nil {
			return nil, err
		}
		return &pb.ReadDirResponse{Entries: stats(list)}, nil
	})
}

// StatFile describes a file of a ref.
func (c *conversation) StatFile(ctx context.Context, in *pb.StatFileRequest) (*pb.StatFileResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.StatFileResponse, error) {
		r, reader, err := c.readable(ctx, in.GetRef())
		if err != nil {
			return nil, err
		}
		info, err := reader.StatFile(ctx, r.in, in.GetPath())
		if err != nil {
			return nil, err
		}
		return &pb.StatFileResponse{Stat: stat(info)}, nil
	})
}

// Evaluate has a ref made.
func (c *conversation) Evaluate(ctx context.Context, in *pb.EvaluateRequest) (*pb.EvaluateResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.EvaluateResponse, error) {
		r, err := c.ref(in.GetRef())
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, status.Error(codes.InvalidArgument, "empty ref: ")
		}
		return &pb.EvaluateResponse{}, c.evaluate(ctx, r)
	})
}

func (c *conversation) evaluate(ctx context.Context, r *ref) error {
	ev, ok := c.env.(frontend.Evaluator)
	if !ok {
		return lacks("evaluate results")
	}
	return r.make(ctx, func(ctx context.Context) error { return ev.Evaluate(ctx, r.in) })
}

func stats(list []frontend.FileInfo) []*fstypes.Stat {
	out := make([]*fstypes.Stat, 0, len(list))
	for i := range list {
		out = append(out, stat(&list[i]))
	}
	return out
}

// stat describes a file as the protocol does: the mode is that of Go's package fs, and a directory has no size.
func stat(f *frontend.FileInfo) *fstypes.Stat {
	st := &fstypes.Stat{
		Path: f.Path, Mode: uint32(fileMode(f.Mode)), Uid: f.UID, Gid: f.GID, ModTime: f.MTime.UnixNano(),
		Linkname: f.Link, Xattrs: f.Xattr,
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		st.Size = int64(len(f.Link))
	case unix.S_IFBLK, unix.S_IFCHR:
		st.Devmajor, st.Devminor = int64(unix.Major(f.Rdev)), int64(unix.Minor(f.Rdev))
	default:
		st.Size = f.Size
	}
	return st
}

// fileMode returns a st_mode as Go has it. A socket looks like a regular file, as with BuildKit: archives have none.
func fileMode(m uint32) fs.FileMode { return filesync.FileMode(m) &^ fs.ModeSocket }
