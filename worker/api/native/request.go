package native

import (
	"maps"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// buildRequest reads a request. Sources, Keychain and where outputs go are the caller's to set.
func buildRequest(in *boxbuildv1.BuildRequest, own op.Platform) (*worker.BuildRequest, error) {
	front, err := frontendRequest(in.GetFrontend(), own)
	if err != nil {
		return nil, err
	}
	call, ok := map[boxbuildv1.Call]frontend.Call{
		boxbuildv1.Call_CALL_BUILD: frontend.Build, boxbuildv1.Call_CALL_CHECK: frontend.Check,
		boxbuildv1.Call_CALL_OUTLINE: frontend.Outline, boxbuildv1.Call_CALL_TARGETS: frontend.Targets,
	}[in.GetCall()]
	if !ok {
		return nil, usage("the daemon does not know call %d; update it", in.GetCall())
	}
	req := &worker.BuildRequest{
		ID: in.GetId(), Frontend: front, Call: call, Tags: in.GetTags(), Origin: origin(in), Internal: call != frontend.Build,
	}
	for _, out := range in.GetOutputs() {
		kind := worker.OutputType(out.GetType())
		switch kind {
		case worker.OutputImage, worker.OutputNone:
			if out.GetDest() != nil {
				return nil, usage("output type %s takes no destination", kind)
			}
		case worker.OutputDocker, worker.OutputOCI, worker.OutputLocal, worker.OutputTar:
			if out.GetDest() == nil {
				return nil, usage("output type %s needs a destination", kind)
			}
		default:
			return nil, usage("unknown output type %q", kind)
		}
		req.Outputs = append(req.Outputs, worker.Output{Type: kind, Push: out.GetPush(), Attrs: out.GetAttrs()})
	}
	return req, nil
}

func frontendRequest(in *boxbuildv1.Frontend, own op.Platform) (frontend.Request, error) {
	req := frontend.Request{
		Filename:      in.GetFilename(),
		Text:          in.GetText(),
		Contexts:      in.GetContexts(),
		Target:        in.GetTarget(),
		BuildArgs:     maps.Clone(in.GetBuildArgs()),
		Labels:        maps.Clone(in.GetLabels()),
		Default:       own,
		NoCache:       in.GetNoCache(),
		NoCacheStages: in.GetNoCacheStages(),
		Pull:          in.GetPull(),
		Hostname:      in.GetHostname(),
		ShmSize:       in.GetShmSize(),
		CgroupParent:  in.GetCgroupParent(),
		Entitlements:  in.GetEntitlements(),
	}
	req.Platforms = platforms(in.GetPlatforms())
	for _, h := range in.GetExtraHosts() {
		req.ExtraHosts = append(req.ExtraHosts, op.HostIP{Host: h.GetHost(), IP: h.GetIp()})
	}
	for _, u := range in.GetUlimits() {
		req.Ulimits = append(req.Ulimits, op.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	if l := in.GetLimits(); l != nil {
		req.Limits = op.ExecLimits{
			Memory: l.GetMemory(), MemorySwap: l.GetMemorySwap(), CPUShares: l.GetCpuShares(),
			CPUQuota: l.GetCpuQuota(), CPUPeriod: l.GetCpuPeriod(),
			CPUSetCPUs: l.GetCpusetCpus(), CPUSetMems: l.GetCpusetMems(),
		}
	}
	switch in.GetNetwork() {
	case "", "default":
	case "none":
		req.Network = op.NetworkNone
	case "host":
		req.Network = op.NetworkHost
	default:
		return req, usage("unsupported network mode %q: default, none or host", in.GetNetwork())
	}
	return req, setSources(&req, in)
}

// setSources sets where context and Dockerfile come from.
func setSources(req *frontend.Request, in *boxbuildv1.Frontend) error {
	if url := in.GetContextUrl(); url != "" {
		var err error
		if req.Context, err = dockerfile.ContextSource(url); err != nil {
			return usage("building from %s: %v", op.RedactURL(url), err)
		}
	}
	if id := in.GetContextUpload(); id != "" {
		req.Context = &op.HTTP{URL: "http://" + op.SessionHost + "/" + id}
	}
	if name := in.GetContextDirectory(); name != "" {
		req.Context = &op.Local{Name: name}
	}
	if name := in.GetDockerfileDirectory(); name != "" {
		req.Dockerfile = &op.Local{Name: name}
	}
	if req.Dockerfile == nil && in.GetText() == nil {
		if req.Context == nil {
			return usage("there is neither a context nor a Dockerfile")
		}
		req.Dockerfile = req.Context
	}
	return nil
}

func platform(p *boxbuildv1.Platform) op.Platform {
	return op.Platform{
		OS: p.GetOs(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(),
		OSVersion: p.GetOsVersion(), OSFeatures: p.GetOsFeatures(),
	}
}

func platforms(in []*boxbuildv1.Platform) []op.Platform {
	var out []op.Platform
	for _, p := range in {
		out = append(out, platform(p))
	}
	return out
}

// optionalPlatform returns nil for none.
func optionalPlatform(p *boxbuildv1.Platform) *op.Platform {
	if p == nil {
		return nil
	}
	out := platform(p)
	return &out
}

func wirePlatform(p op.Platform) *boxbuildv1.Platform {
	return &boxbuildv1.Platform{
		Os: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OsVersion: p.OSVersion, OsFeatures: p.OSFeatures,
	}
}
