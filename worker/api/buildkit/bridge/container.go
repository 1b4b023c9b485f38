package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A container is one that the other side has asked for.
type container struct {
	frontend.Container
	cancel   context.CancelCauseFunc // of what it does as long as it is there
	released atomic.Bool             // the end of its processes is no doing of theirs
}

func (k *container) close() error {
	k.released.Store(true)
	err := k.Container.Close()
	k.cancel(errOver)
	return err
}

// NewContainer prepares a container.
func (c *conversation) NewContainer(ctx context.Context, in *pb.NewContainerRequest) (*pb.NewContainerResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.NewContainerResponse, error) {
		containers, ok := c.env.(frontend.Containers)
		if !ok {
			return nil, lacks("run containers")
		}
		if in.GetContainerID() == "" {
			return nil, status.Error(codes.InvalidArgument, "container without an ID")
		}
		spec, err := c.containerSpec(in)
		if err != nil {
			return nil, err
		}
		// What a container holds (sockets to the client's agents) lasts longer than this call.
		life, cancel := context.WithCancelCause(c.ctx)
		stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
		made, err := containers.NewContainer(life, spec)
		if !stop() && err == nil {
			err = errors.Join(context.Cause(ctx), made.Close())
		}
		if err != nil {
			cancel(nil)
			return nil, err
		}
		k := &container{Container: made, cancel: cancel}
		c.mu.Lock()
		_, twice := c.containers[in.GetContainerID()]
		if !twice && c.containers != nil {
			c.containers[in.GetContainerID()] = k
		}
		c.mu.Unlock()
		if twice {
			return nil, errors.Join(status.Errorf(codes.AlreadyExists, "Container %s already exists", in.GetContainerID()), k.close())
		}
		return &pb.NewContainerResponse{}, nil
	})
}

// containerSpec reads a request for a container.
func (c *conversation) containerSpec(in *pb.NewContainerRequest) (*frontend.ContainerSpec, error) {
	spec := &frontend.ContainerSpec{Hostname: in.GetHostname(), Platform: platformOf(in.GetPlatform()), Network: op.Network(in.GetNetwork())}
	for _, h := range in.GetExtraHosts() {
		ip := net.ParseIP(h.GetIP())
		if ip == nil {
			return nil, status.Errorf(codes.InvalidArgument, "failed to parse IP %s", h.GetIP())
		}
		spec.ExtraHosts = append(spec.ExtraHosts, op.HostIP{Host: h.GetHost(), IP: ip.String()})
	}
	root := false
	for _, m := range in.GetMounts() {
		x := frontend.ContainerMount{ExecMount: op.ExecMount{
			Dest: m.GetDest(), Selector: m.GetSelector(), ReadOnly: m.GetReadonly(), Type: op.MountType(m.GetMountType()),
			Cache:  op.CacheMount{ID: m.GetCacheOpt().GetID(), Sharing: op.CacheSharing(m.GetCacheOpt().GetSharing())},
			Tmpfs:  m.GetTmpfsOpt().GetSize(),
			Secret: secretMount(m.GetSecretOpt()), SSH: sshMount(m.GetSSHOpt()),
		}}
		if x.Left = c.leftBy(m.GetResultID()); x.Left == "" {
			r, err := c.ref(m.GetResultID())
			if err != nil {
				return nil, fmt.Errorf("finding ref %s for %q mount: %w", m.GetResultID(), m.GetDest(), err)
			}
			if r != nil {
				x.In = &r.in
			}
		}
		root = root || m.GetDest() == opspb.RootMount
		spec.Mounts = append(spec.Mounts, x)
	}
	if !root {
		return nil, status.Error(codes.InvalidArgument, "no root mount in the container")
	}
	return spec, nil
}

func secretMount(o *opspb.SecretOpt) op.SecretMount {
	return op.SecretMount{ID: o.GetID(), UID: int(o.GetUid()), GID: int(o.GetGid()), Mode: o.GetMode(), Optional: o.GetOptional()}
}

func sshMount(o *opspb.SSHOpt) op.SSHMount {
	return op.SSHMount{ID: o.GetID(), UID: int(o.GetUid()), GID: int(o.GetGid()), Mode: o.GetMode(), Optional: o.GetOptional()}
}

func platformOf(p *opspb.Platform) op.Platform {
	return op.Platform{
		OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(), OSVersion: p.GetOSVersion(), OSFeatures: p.GetOSFeatures(),
	}
}

// container finds a container.
func (c *conversation) container(id string) (*container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.containers[id]; k != nil {
		return k, nil
	}
	return nil, status.Errorf(codes.NotFound, "container %q previously released or not created", id)
}

// ReleaseContainer ends a container and all that runs in it.
func (c *conversation) ReleaseContainer(ctx context.Context, in *pb.ReleaseContainerRequest) (*pb.ReleaseContainerResponse, error) {
	return answer(ctx, c, func(context.Context) (*pb.ReleaseContainerResponse, error) {
		c.mu.Lock()
		k := c.containers[in.GetContainerID()]
		delete(c.containers, in.GetContainerID())
		c.mu.Unlock()
		if k != nil {
			if err := k.close(); err != nil {
				return nil, err
			}
		}
		return &pb.ReleaseContainerResponse{}, nil
	})
}

// ReadFileContainer returns a file of a container, or a part of it.
func (c *conversation) ReadFileContainer(ctx context.Context, in *pb.ReadFileRequest) (*pb.ReadFileResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ReadFileResponse, error) {
		k, err := c.container(in.GetRef())
		if err != nil {
			return nil, err
		}
		if empty(in) {
			_, err := k.StatFile(ctx, int(in.GetMountIndex()), in.GetFilePath())
			return &pb.ReadFileResponse{}, err
		}
		r := in.GetRange()
		data, err := k.ReadRange(ctx, int(in.GetMountIndex()), in.GetFilePath(), r.GetOffset(), r.GetLength())
		return &pb.ReadFileResponse{Data: data}, err
	})
}

// ReadDirContainer lists a directory of a container.
func (c *conversation) ReadDirContainer(ctx context.Context, in *pb.ReadDirRequest) (*pb.ReadDirResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.ReadDirResponse, error) {
		k, err := c.container(in.GetRef())
		if err != nil {
			return nil, err
		}
		list, err := k.ReadDir(ctx, int(in.GetMountIndex()), in.GetDirPath(), in.GetIncludePattern())
		return &pb.ReadDirResponse{Entries: stats(list)}, err
	})
}

// StatFileContainer describes a file of a container.
func (c *conversation) StatFileContainer(ctx context.Context, in *pb.StatFileRequest) (*pb.StatFileResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.StatFileResponse, error) {
		k, err := c.container(in.GetRef())
		if err != nil {
			return nil, err
		}
		info, err := k.StatFile(ctx, int(in.GetMountIndex()), in.GetPath())
		if err != nil {
			return nil, err
		}
		return &pb.StatFileResponse{Stat: stat(info)}, nil
	})
}
