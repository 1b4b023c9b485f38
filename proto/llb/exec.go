package llb

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// shmDir is where shared memory is. LLB has no field for its size: it is that of a tmpfs which is mounted there. A tmpfs
// that is a mount all the same is written with a slash behind it.
const shmDir = "/dev/shm"

// exec decodes an Exec.
func (w *wired) exec(x *pb.ExecOp) (solver.Op, error) {
	switch {
	case x == nil || x.Meta == nil:
		return nil, errors.New("invalid exec op with no meta")
	case len(x.Meta.Args) == 0:
		return nil, errors.New("invalid exec op with no args")
	case len(x.Mounts) == 0:
		return nil, errors.New("invalid exec op with no mounts")
	case x.Network != pb.NetMode_UNSET && x.Network != pb.NetMode_HOST && x.Network != pb.NetMode_NONE:
		return nil, fmt.Errorf("invalid network mode %d", x.Network)
	case x.Security != pb.SecurityMode_SANDBOX && x.Security != pb.SecurityMode_INSECURE:
		return nil, fmt.Errorf("invalid security mode %d", x.Security)
	}
	e := &op.Exec{
		Meta: execMeta(x.Meta), Network: op.Network(x.Network), Security: op.Security(x.Security),
		Platform: platformSpec(w.op.Platform),
	}
	for _, s := range x.Secretenv {
		e.Secrets = append(e.Secrets, op.SecretEnv{ID: s.GetID(), Name: s.GetName(), Optional: s.GetOptional()})
	}
	for _, d := range x.CdiDevices {
		e.Devices = append(e.Devices, op.ExecDevice{Name: d.GetName(), Optional: d.GetOptional()})
	}
	var err error
	if e.Limits, err = limits(w.meta.GetLinuxResources()); err != nil {
		return nil, err
	}
	for i, m := range x.Mounts {
		if err := w.mount(e, m); err != nil {
			return nil, fmt.Errorf("mount %d: %w", i, err)
		}
	}
	return e, checkMounts(e)
}

func execMeta(m *pb.Meta) op.ExecMeta {
	out := op.ExecMeta{
		Args: m.Args, Env: m.Env, Cwd: m.Cwd, User: m.User, Hostname: m.Hostname,
		CgroupParent: m.CgroupParent, RemoveStubs: m.RemoveMountStubsRecursive,
	}
	for _, h := range m.ExtraHosts {
		out.ExtraHosts = append(out.ExtraHosts, op.HostIP{Host: h.GetHost(), IP: h.GetIP()})
	}
	for _, u := range m.Ulimit {
		out.Ulimits = append(out.Ulimits, op.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	for _, c := range m.ValidExitCodes {
		out.ValidExitCodes = append(out.ValidExitCodes, int(c))
	}
	if p := m.ProxyEnv; p != nil {
		out.Proxy = &op.ProxyEnv{HTTP: p.HttpProxy, HTTPS: p.HttpsProxy, FTP: p.FtpProxy, No: p.NoProxy, All: p.AllProxy}
	}
	return out
}

// limits decodes what bounds an Exec.
func limits(r *pb.LinuxResources) (op.ExecLimits, error) {
	if r.GetCpuShares() > math.MaxInt64 || r.GetCpuPeriod() > math.MaxInt64 {
		return op.ExecLimits{}, errors.New("CPU shares or period out of range")
	}
	return op.ExecLimits{
		Memory: r.GetMemory(), MemorySwap: r.GetMemorySwap(), CPUShares: int64(r.GetCpuShares()),
		CPUPeriod: int64(r.GetCpuPeriod()), CPUQuota: r.GetCpuQuota(),
		CPUSetCPUs: r.GetCpusetCpus(), CPUSetMems: r.GetCpusetMems(),
	}, nil
}

// mount decodes a mount.
func (w *wired) mount(e *op.Exec, m *pb.Mount) error {
	out := op.ExecMount{
		Input: op.NoInput, Output: op.NoOutput, Dest: m.GetDest(), ReadOnly: m.GetReadonly(), Type: op.MountType(m.GetMountType()),
		ResultID: m.GetResultID(), ContentCache: op.ContentCache(m.GetContentCache()),
	}
	if m.GetContentCache() < pb.MountContentCache_DEFAULT || m.GetContentCache() > pb.MountContentCache_OFF {
		return fmt.Errorf("invalid content cache %d", m.GetContentCache())
	}
	if out.Dest != pb.RootMount {
		if out.Dest = m.GetDest(); !path.IsAbs(path.Clean(out.Dest)) {
			out.Dest = path.Join("/", e.Meta.Cwd, out.Dest)
		}
		slash := strings.HasSuffix(m.GetDest(), "/")
		if out.Dest = clean(out.Dest); out.Dest == pb.RootMount {
			return fmt.Errorf("invalid mount target %q", m.GetDest())
		}
		if slash && (m.GetMountType() != pb.MountType_TMPFS || out.Dest != shmDir) {
			out.Dest += "/"
		}
	}
	if m.GetSelector() != "" {
		out.Selector = clean(m.GetSelector())
	}
	switch m.GetMountType() {
	case pb.MountType_BIND:
		out.Output = int(m.GetOutput())
	case pb.MountType_CACHE:
		// Without an input there is nothing that could be an output.
		if m.GetOutput() != int64(pb.SkipOutput) && m.GetInput() != int64(pb.Empty) {
			return fmt.Errorf("a cache mount with output %d", m.GetOutput())
		}
		if s := m.GetCacheOpt().GetSharing(); s < pb.CacheSharingOpt_SHARED || s > pb.CacheSharingOpt_LOCKED {
			return fmt.Errorf("invalid cache sharing %d", s)
		}
		out.Cache = op.CacheMount{ID: m.GetCacheOpt().GetID(), Sharing: op.CacheSharing(m.GetCacheOpt().GetSharing())}
	case pb.MountType_TMPFS:
		if out.Tmpfs = m.GetTmpfsOpt().GetSize(); out.Tmpfs < 0 {
			return fmt.Errorf("invalid size %d of a tmpfs", out.Tmpfs)
		}
		if m.GetDest() == shmDir && out.Tmpfs > 0 && e.Meta.ShmSize == 0 && !out.ReadOnly {
			e.Meta.ShmSize = out.Tmpfs
			return nil
		}
	case pb.MountType_SECRET:
		o := m.GetSecretOpt()
		out.Secret = op.SecretMount{ID: o.GetID(), UID: int(o.GetUid()), GID: int(o.GetGid()), Mode: o.GetMode(), Optional: o.GetOptional()}
	case pb.MountType_SSH:
		o := m.GetSSHOpt()
		out.SSH = op.SSHMount{ID: o.GetID(), UID: int(o.GetUid()), GID: int(o.GetGid()), Mode: o.GetMode(), Optional: o.GetOptional()}
	default:
		return fmt.Errorf("unknown mount type %d", m.GetMountType())
	}
	if err := w.mountInput(&out, m); err != nil {
		return err
	}
	e.Mounts = append(e.Mounts, out)
	return nil
}

// mountInput finds out what a mount shows, and whether it counts by its content.
func (w *wired) mountInput(out *op.ExecMount, m *pb.Mount) error {
	if m.GetInput() == int64(pb.Empty) {
		return nil
	}
	if out.Type != op.MountBind && out.Type != op.MountCache {
		return fmt.Errorf("a mount of type %s has input %d", m.GetMountType(), m.GetInput())
	}
	if err := w.checkInput("it", m.GetInput()); err != nil {
		return err
	}
	sel, err := mountSelector(out)
	if err != nil {
		return err
	}
	if sel == nil {
		out.Input = w.whole(int(m.GetInput()))
		return nil
	}
	out.ContentKey, out.Input = true, w.part(int(m.GetInput()), sel)
	return nil
}

// mountSelector returns what of its input a mount reads if it counts by its content; nil if it counts by its identity.
// Content is right only where nothing else of the input can get into a result: where there is none, or the mount is
// read-only, or all of the input is mounted. The root is taken by its identity unless the definition wants it otherwise,
// since hashing all of it costs more than it brings. That is BuildKit's rule.
func mountSelector(m *op.ExecMount) (*solver.Selector, error) {
	whole := m.Selector == "" || m.Selector == "/"
	by := m.Output == op.NoOutput || m.ReadOnly || whole
	switch m.ContentCache {
	case op.ContentCacheOff:
		by = false
	case op.ContentCacheOn:
		if !by {
			return nil, errors.New("its content cannot be what counts, since it is written to and only a part of its input")
		}
	case op.ContentCacheDefault:
		by = by && m.Dest != pb.RootMount
	}
	if !by {
		return nil, nil
	}
	sel := &solver.Selector{Follow: true}
	if !whole {
		sel.Paths = []string{m.Selector}
	}
	return sel, nil
}

// checkMounts checks what concerns all mounts: there is one root, and the outputs are numbered without gaps.
func checkMounts(e *op.Exec) error {
	roots, most := 0, 0
	outputs := make([]bool, len(e.Mounts))
	for i := range e.Mounts {
		m := &e.Mounts[i]
		if m.Dest == pb.RootMount {
			roots++
			if m.Type != op.MountBind {
				return fmt.Errorf("invalid mount type for %s", m.Dest)
			}
		}
		if m.Output == op.NoOutput {
			continue
		}
		if m.Output < 0 || m.Output >= len(outputs) || outputs[m.Output] {
			return fmt.Errorf("mount %d has output %d, which is taken or out of range", i, m.Output)
		}
		outputs[m.Output] = true
		most = max(most, m.Output+1)
	}
	switch {
	case roots == 0:
		return errors.New("invalid exec op with no rootfs")
	case roots > 1:
		return errors.New("invalid exec op with more than one rootfs")
	}
	for i := range most {
		if !outputs[i] {
			return fmt.Errorf("no mount has output %d", i)
		}
	}
	return nil
}
