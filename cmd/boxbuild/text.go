package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// fieldFlags are the flags that fields of a request have their text from. A file name is that of the Dockerfile.
var fieldFlags = map[string]string{
	"attrs":           "--output",
	"build_args":      "--build-arg",
	"cgroup_parent":   "--cgroup-parent",
	"contexts":        "--build-context",
	"entitlements":    "--allow",
	"filename":        "--file",
	"host":            "--add-host",
	"labels":          "--label",
	"no_cache_stages": "--no-cache-filter",
	"tags":            "--tag",
	"target":          "--target",
}

// checkText refuses what the daemon cannot be asked: all text of a request is UTF-8.
func checkText(req *boxbuildv1.BuildRequest) error {
	field, text := boxbuildv1.InvalidText(req)
	switch flag := fieldFlags[field]; {
	case field == "":
		return nil
	case flag != "":
		return usagef("invalid %s: %q is not UTF-8", flag, text)
	default:
		return usagef("invalid %s of the build: %q is not UTF-8", field, text)
	}
}

// validCall refuses to ask for anything whose name is not UTF-8, which gRPC would not say as clearly.
func validCall(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if m, ok := req.(proto.Message); ok {
		if field, text := boxbuildv1.InvalidText(m); field != "" {
			return usagef("invalid name %q: it is not UTF-8", text)
		}
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}
