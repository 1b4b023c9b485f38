package bridge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// localDockerfile is what BuildKit's frontends call the client's directory with the Dockerfile if nothing else is said.
const localDockerfile = "dockerfile"

// format writes a request as the attributes that BuildKit's frontends read. Those of a client of BuildKit's are as they
// came: they may say what only the frontend understands that they are for.
func format(req *frontend.Request, call frontend.Call) map[string]string {
	if req.Attrs != nil {
		return maps.Clone(req.Attrs)
	}
	out := map[string]string{}
	set := func(key, v string) {
		if v != "" {
			out[key] = v
		}
	}
	set("filename", req.Filename)
	set("target", req.Target)
	set("hostname", req.Hostname)
	set("cgroup-parent", req.CgroupParent)
	set("contextsubdir", req.ContextSubdir)
	for prefix, m := range map[string]map[string]string{
		"build-arg:": req.BuildArgs, "label:": req.Labels, "context:": req.Contexts, "local-sessionid:": req.Sessions,
		"sharedkey:localdir:": req.SharedKeys,
	} {
		for k, v := range m {
			out[prefix+k] = v
		}
	}
	var list []string
	for _, p := range req.Platforms {
		list = append(list, platforms.FormatAll(p))
	}
	set("platform", strings.Join(list, ","))
	if req.Multi != nil {
		out["multi-platform"] = strconv.FormatBool(*req.Multi)
	}
	if req.NoCache || len(req.NoCacheStages) > 0 {
		out["no-cache"] = strings.Join(req.NoCacheStages, ",")
	}
	if req.Pull {
		out["image-resolve-mode"] = "pull"
	} else if req.PreferLocal {
		out["image-resolve-mode"] = "local"
	}
	set("force-network-mode", map[op.Network]string{op.NetworkHost: "host", op.NetworkNone: "none"}[req.Network])
	var hosts, ulimits []string
	for _, h := range req.ExtraHosts {
		hosts = append(hosts, h.Host+"="+h.IP)
	}
	set("add-hosts", strings.Join(hosts, ","))
	for _, u := range req.Ulimits {
		ulimits = append(ulimits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	set("ulimit", strings.Join(ulimits, ","))
	limits := map[string]int64{
		"shm-size": req.ShmSize, "memory": req.Limits.Memory, "memswap": req.Limits.MemorySwap, "cpushares": req.Limits.CPUShares,
		"cpuperiod": req.Limits.CPUPeriod, "cpuquota": req.Limits.CPUQuota,
	}
	for _, k := range slices.Sorted(maps.Keys(limits)) {
		if limits[k] != 0 {
			out[k] = strconv.FormatInt(limits[k], 10)
		}
	}
	set("cpusetcpus", req.Limits.CPUSetCPUs)
	set("cpusetmems", req.Limits.CPUSetMems)
	formatSources(req, set)
	set("requestid", map[frontend.Call]string{
		frontend.Check: "frontend.lint", frontend.Outline: "frontend.outline", frontend.Targets: "frontend.targets",
	}[call])
	return out
}

// formatSources says where context and Dockerfile come from.
func formatSources(req *frontend.Request, set func(key, v string)) {
	switch s := req.Context.(type) {
	case *op.Git:
		ref := s.Remote
		if s.Ref != "" || s.Subdir != "" {
			ref += "#" + s.Ref
		}
		if s.Subdir != "" {
			ref += ":" + s.Subdir
		}
		set("context", ref)
	case *op.HTTP:
		set("context", s.URL)
	}
	if l, ok := req.Dockerfile.(*op.Local); ok && l.Name != localDockerfile {
		set("dockerfilekey", l.Name)
	}
}
