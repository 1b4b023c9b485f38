// Command frontend is a frontend in an image, for the tests: what it does is the attribute "mode".
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/pb"
)

func main() {
	fmt.Fprintln(os.Stderr, "the frontend speaks")
	if err := grpcclient.RunFromEnvironment(context.Background(), build); err != nil {
		fmt.Fprintln(os.Stderr, "frontend:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	opts := c.BuildOpts().Opts
	mode := opts["mode"]
	if mode == "" {
		mode = opts["build-arg:mode"]
	}
	switch mode {
	case "describe":
		return describe(ctx, c)
	case "run":
		ran := llb.Image("busybox").Run(llb.Args([]string{"/bin/sh", "-c", "echo ran > /o/out"}))
		return solve(ctx, c, ran.AddMount("/o", llb.Scratch()))
	case "forward":
		// The Dockerfile's own frontend, with a context that is made here.
		made := llb.Scratch().File(llb.Mkfile("/in", 0o644, []byte("from the frontend")))
		def, err := made.Marshal(ctx)
		if err != nil {
			return nil, err
		}
		file, err := llb.Scratch().File(llb.Mkfile("/Dockerfile", 0o644, []byte("FROM scratch\nCOPY in /copied\nCOPY --from=extra in /extra\nLABEL a=b\n"))).Marshal(ctx)
		if err != nil {
			return nil, err
		}
		res, err := c.Solve(ctx, client.SolveRequest{
			Frontend:       "dockerfile.v0",
			FrontendOpt:    map[string]string{"context:extra": "input:context"},
			FrontendInputs: map[string]*pb.Definition{"context": def.ToPB(), "dockerfile": file.ToPB()},
		})
		if err != nil {
			return nil, err
		}
		// What it has made is a definition, which can be part of another one.
		ref, err := res.SingleRef()
		if err != nil {
			return nil, err
		}
		state, err := ref.ToState()
		if err != nil {
			return nil, err
		}
		more, err := solve(ctx, c, state.File(llb.Mkfile("/more", 0o644, []byte("more"))))
		if err != nil {
			return nil, err
		}
		more.AddMeta("containerimage.config", res.Metadata["containerimage.config"])
		return more, nil
	case "step":
		def, err := llb.Image("busybox").Run(llb.Args([]string{"/bin/sh", "-c", "echo left behind > /left; exit 5"})).Root().Marshal(ctx)
		if err != nil {
			return nil, err
		}
		return c.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	case "loop":
		if then := opts["build-arg:then"]; then != "" {
			opts["build-arg:mode"] = then
			delete(opts, "build-arg:then")
		}
		return c.Solve(ctx, client.SolveRequest{Frontend: "gateway.v0", FrontendOpt: opts})
	case "error":
		return nil, errors.New("I return an error")
	case "broken":
		delete(opts, "build-arg:mode")
		return c.Solve(ctx, client.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: opts})
	case "exit":
		fmt.Fprintln(os.Stderr, "I give up")
		os.Exit(3)
	case "silent":
		os.Exit(0)
	case "hang":
		<-ctx.Done()
	}
	return nil, fmt.Errorf("unknown mode %q", mode)
}

func solve(ctx context.Context, c client.Client, s llb.State) (*client.Result, error) {
	def, err := s.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	return c.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
}

// describe makes a tree with what the frontend has been told, and sees.
func describe(ctx context.Context, c client.Client) (*client.Result, error) {
	o := c.BuildOpts()
	var b strings.Builder
	fmt.Fprintf(&b, "product=%s\n", o.Product)
	fmt.Fprintf(&b, "session=%v\n", o.SessionID != "")
	for _, w := range o.Workers {
		fmt.Fprintf(&b, "worker=%s %d\n", w.ID, len(w.Platforms))
	}
	for _, k := range []string{"cmdline", "filename", "build-arg:a", "source"} {
		fmt.Fprintf(&b, "%s=%s\n", k, o.Opts[k])
	}
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "interfaces=%d\n", len(list))
	if _, err := os.Stat("/run/config/buildkit/metadata/frontend.bin"); err == nil {
		fmt.Fprintln(&b, "definition")
	}
	// The client's directory, by the session, as BuildKit's own frontend for Dockerfiles defines it.
	def, err := llb.Local("dockerfile",
		llb.FollowPaths([]string{"Dockerfile", "Dockerfile.dockerignore", "dockerfile"}), llb.SessionID(o.SessionID),
		llb.SharedKeyHint("dockerfile"), llb.Differ(llb.DiffNone, false),
		llb.WithCustomName("[internal] load build definition from Dockerfile"),
	).Marshal(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, err
	}
	text, err := ref.ReadFile(ctx, client.ReadRequest{Filename: "Dockerfile"})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "dockerfile=%q\n", text)
	return solve(ctx, c, llb.Scratch().File(llb.Mkfile("/said", 0o644, []byte(b.String()))))
}
