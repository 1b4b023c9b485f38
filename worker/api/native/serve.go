package native

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto" // registers it
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// maxMessage bounds a message in bytes: an inline Dockerfile, a list of thousands of images, or one message of package
// filesync, which can have 64 MiB.
const maxMessage = 65 << 20

// GRPCOptions are the options of a gRPC server for this service and others beside it: it learns who connects, turns a
// handler's panic into an error of that call, and every error into one that survives the wire.
func GRPCOptions(log *slog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(peerCredentials{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ForceServerCodecV2(textCodec{encoding.GetCodecV2(protocodec.Name)}),
		// A large window lets an archive pass at the speed of the disk; it is used only where there is a reader.
		grpc.InitialWindowSize(1 << 20),
		grpc.InitialConnWindowSize(4 << 20),
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (resp any, err error) {
			defer recovered(log, info.FullMethod, &err)
			if resp, err = handler(ctx, req); ours(info.FullMethod) {
				err = fail(err)
			}
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
		) (err error) {
			defer recovered(log, info.FullMethod, &err)
			if err = handler(srv, stream); ours(info.FullMethod) {
				err = fail(err)
			}
			return err
		}),
	}
}

// ours says whether a method is one of this package's services. Others have errors of their own.
func ours(method string) bool { return strings.HasPrefix(method, "/boxbuild.") }

// A textCodec is the codec of gRPC, except that a message with text that is not UTF-8 is sent with U+FFFD in its place
// rather than not at all. Nothing is looked at that can be sent as it is.
type textCodec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c textCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.CodecV2.Marshal(v)
	if err == nil {
		return data, nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, err
	}
	return c.CodecV2.Marshal(boxbuildv1.ValidText(m))
}

// recovered makes *err of a panic.
func recovered(log *slog.Logger, method string, err *error) {
	if r := recover(); r != nil {
		log.Error("handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = failure(boxbuildv1.ErrorKind_ERROR_KIND_INTERNAL, "internal error in %s: %v", method, r)
	}
}
