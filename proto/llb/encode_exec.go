package llb

import (
	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// exec is the reverse of wired.exec.
func (e *encoding) exec(x *op.Exec) error {
	e.out.Platform = pbPlatform(x.Platform)
	m := &x.Meta
	meta := &pb.Meta{
		Args: m.Args, Env: m.Env, Cwd: m.Cwd, User: m.User, Hostname: m.Hostname, CgroupParent: m.CgroupParent,
		RemoveMountStubsRecursive: m.RemoveStubs,
	}
	for _, h := range m.ExtraHosts {
		meta.ExtraHosts = append(meta.ExtraHosts, &pb.HostIP{Host: h.Host, IP: h.IP})
	}
	for _, u := range m.Ulimits {
		meta.Ulimit = append(meta.Ulimit, &pb.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, c := range m.ValidExitCodes {
		meta.ValidExitCodes = append(meta.ValidExitCodes, int32(c))
	}
	if p := m.Proxy; p != nil {
		meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: p.HTTP, HttpsProxy: p.HTTPS, FtpProxy: p.FTP, NoProxy: p.No, AllProxy: p.All}
	}
	out := &pb.ExecOp{Meta: meta, Network: pb.NetMode(x.Network), Security: pb.SecurityMode(x.Security)}
	for _, s := range x.Secrets {
		out.Secretenv = append(out.Secretenv, &pb.SecretEnv{ID: s.ID, Name: s.Name, Optional: s.Optional})
	}
	for _, d := range x.Devices {
		out.CdiDevices = append(out.CdiDevices, &pb.CDIDevice{Name: d.Name, Optional: d.Optional})
	}
	e.execCaps(x)
	want := e.mounts(x, out)
	e.out.Op = &pb.Op_Exec{Exec: out}
	return e.finish(want)
}

func (e *encoding) execCaps(x *op.Exec) {
	m := &x.Meta
	e.need(pb.CapExecMetaBase)
	e.need(pb.CapExecMetaSetsDefaultPath)
	e.needIf(len(m.ValidExitCodes) > 0, pb.CapExecValidExitCode)
	e.needIf(len(m.Ulimits) > 0, pb.CapExecMetaUlimit)
	e.needIf(m.CgroupParent != "", pb.CapExecMetaCgroupParent)
	e.needIf(x.Limits != op.ExecLimits{}, pb.CapExecMetaLinuxResources)
	e.needIf(x.Network != op.NetworkSandbox, pb.CapExecMetaNetwork)
	e.needIf(x.Security != op.SecuritySandbox, pb.CapExecMetaSecurity)
	e.needIf(m.Proxy != nil, pb.CapExecMetaProxy)
	e.needIf(len(x.Secrets) > 0, pb.CapExecSecretEnv)
	e.needIf(len(x.Devices) > 0, pb.CapExecMetaCDI)
}

// mounts writes the mounts and returns what they read of the vertex's inputs. The one that stands for the size of shared
// memory is where BuildKit's client would put it.
func (e *encoding) mounts(x *op.Exec, out *pb.ExecOp) map[int]*solver.Selector {
	want := make(map[int]*solver.Selector)
	shm := x.Meta.ShmSize != 0
	addShm := func() {
		shm = false
		e.need(pb.CapExecMountTmpfs)
		e.need(pb.CapExecMountTmpfsSize)
		out.Mounts = append(out.Mounts, &pb.Mount{
			Input: int64(pb.Empty), Output: int64(pb.SkipOutput), Dest: shmDir, MountType: pb.MountType_TMPFS,
			TmpfsOpt: &pb.TmpfsOpt{Size: x.Meta.ShmSize},
		})
	}
	for i := range x.Mounts {
		m := &x.Mounts[i]
		if shm && (m.Dest > shmDir || m.Type == op.MountSecret || m.Type == op.MountSSH) {
			addShm()
		}
		out.Mounts = append(out.Mounts, e.mount(m, want))
	}
	if shm {
		addShm()
	}
	return want
}

// mount writes a mount, and into want what it reads of its input.
func (e *encoding) mount(m *op.ExecMount, want map[int]*solver.Selector) *pb.Mount {
	out := &pb.Mount{
		Input: e.number(m.Input), Selector: m.Selector, Dest: m.Dest, Output: int64(m.Output), Readonly: m.ReadOnly,
		MountType: pb.MountType(m.Type), ResultID: m.ResultID, ContentCache: pb.MountContentCache(m.ContentCache),
	}
	e.needIf(m.Selector != "", pb.CapExecMountSelector)
	switch m.Type {
	case op.MountBind:
		e.needIf(m.Input >= 0, pb.CapExecMountBind)
	case op.MountCache:
		e.need(pb.CapExecMountCache)
		e.need(pb.CapExecMountCacheSharing)
		out.CacheOpt = &pb.CacheOpt{ID: m.Cache.ID, Sharing: pb.CacheSharingOpt(m.Cache.Sharing)}
	case op.MountTmpfs:
		e.need(pb.CapExecMountTmpfs)
		e.needIf(m.Tmpfs > 0, pb.CapExecMountTmpfsSize)
		out.TmpfsOpt = &pb.TmpfsOpt{Size: m.Tmpfs}
		if m.Dest == shmDir {
			out.Dest += "/"
		}
	case op.MountSecret:
		e.need(pb.CapExecMountSecret)
		s := &m.Secret
		out.SecretOpt = &pb.SecretOpt{ID: s.ID, Uid: uint32(s.UID), Gid: uint32(s.GID), Mode: s.Mode, Optional: s.Optional}
		out.Output = 0 // as BuildKit's client has it, which does not set it
	case op.MountSSH:
		e.need(pb.CapExecMountSSH)
		s := &m.SSH
		out.SSHOpt = &pb.SSHOpt{ID: s.ID, Uid: uint32(s.UID), Gid: uint32(s.GID), Mode: s.Mode, Optional: s.Optional}
		out.Output = 0
	}
	if m.Input >= 0 {
		e.contentCache(m, out, want)
	}
	e.needIf(out.ContentCache != pb.MountContentCache_DEFAULT, pb.CapExecMountContentCache)
	return out
}

// contentCache has the definition say what the vertex does: whether the mount's input counts by its content.
func (e *encoding) contentCache(m *op.ExecMount, out *pb.Mount, want map[int]*solver.Selector) {
	has := e.v.Inputs()[m.Input].Select != nil
	as := *m
	sel, err := mountSelector(&as)
	if err != nil || (sel != nil) != has {
		as.ContentCache = op.ContentCacheOff
		if has {
			as.ContentCache = op.ContentCacheOn
		}
		if sel, err = mountSelector(&as); err != nil {
			sel = nil // and finish says so
		}
	}
	out.ContentCache, want[m.Input] = pb.MountContentCache(as.ContentCache), sel
}
