package llb

import (
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// customName is the description that is shown instead of what the operation is.
const customName = "llb.customname"

// meta returns what a vertex of p has for people.
func (d *decoder) meta(p *parsed, o solver.Op, inputs []solver.Input) solver.Meta {
	m := d.def.Metadata[string(p.digest)]
	out := solver.Meta{
		Name: m.GetDescription()[customName], IgnoreCache: m.GetIgnoreCache(),
		Platform: op.PlatformString(platformSpec(p.op.Platform)),
	}
	if out.Name == "" {
		out.Name = name(o, inputs)
	}
	if g := m.GetProgressGroup(); g != nil {
		if out.Group = g.Name; out.Group == "" {
			out.Group = g.Id
		}
	}
	out.Internal = strings.HasPrefix(out.Name, "[internal]")
	d.locate(&out, d.sources[string(p.digest)])
	return out
}

// metadata returns what a definition says of a vertex that was not decoded. The capabilities are missing.
func metadata(v *solver.Vertex) *pb.OpMetadata {
	m := v.Meta()
	out := &pb.OpMetadata{IgnoreCache: m.IgnoreCache}
	if m.Name != "" {
		out.Description = map[string]string{customName: m.Name}
	}
	if m.Group != "" {
		out.ProgressGroup = &pb.ProgressGroup{Id: m.Group, Name: m.Group}
	}
	if e, ok := v.Op().(*op.Exec); ok {
		out.LinuxResources = resources(e.Limits)
	}
	return out
}

// resources is the reverse of limits.
func resources(l op.ExecLimits) *pb.LinuxResources {
	if l == (op.ExecLimits{}) {
		return nil
	}
	return &pb.LinuxResources{
		Memory: l.Memory, MemorySwap: l.MemorySwap, CpuShares: uint64(l.CPUShares), CpuPeriod: uint64(l.CPUPeriod),
		CpuQuota: l.CPUQuota, CpusetCpus: l.CPUSetCPUs, CpusetMems: l.CPUSetMems,
	}
}

// platformSpec returns a platform as package op has it: normalized; the zero value for none.
func platformSpec(p *pb.Platform) op.Platform {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return op.Platform{}
	}
	return platforms.Normalize(p.Spec())
}

// pbPlatform is the reverse of platformSpec.
func pbPlatform(p op.Platform) *pb.Platform {
	if p.OS == "" && p.Architecture == "" {
		return nil
	}
	return pb.PlatformFromSpec(p)
}
