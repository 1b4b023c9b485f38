package native

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/worker"
)

// origin returns a request in BuildKit's words, which are those of the history.
func origin(in *boxbuildv1.BuildRequest) worker.Origin {
	f := in.GetFrontend()
	o := worker.Origin{Frontend: "dockerfile.v0", Attrs: map[string]string{}}
	set := func(key, value string) {
		if value != "" {
			o.Attrs[key] = value
		}
	}
	set("context", f.GetContextUrl())
	if f.GetContextUrl() == "" && f.GetContextDirectory() == "" {
		set("context", "-") // standard input, as the user wrote it
	}
	for _, d := range in.GetDirectories() {
		if d.GetName() == f.GetContextDirectory() || d.GetName() == f.GetDockerfileDirectory() {
			set("localdir:"+d.GetName(), d.GetPath())
		}
	}
	set("filename", f.GetFilename())
	set("target", f.GetTarget())
	for k, v := range f.GetBuildArgs() {
		o.Attrs["build-arg:"+k] = v
	}
	for k, v := range f.GetLabels() {
		o.Attrs["label:"+k] = v
	}
	for k, v := range f.GetContexts() {
		o.Attrs["context:"+k] = v
	}
	var list []string
	for _, p := range f.GetPlatforms() {
		list = append(list, platformText(platform(p)))
	}
	set("platform", strings.Join(list, ","))
	if f.GetNoCache() {
		o.Attrs["no-cache"] = strings.Join(f.GetNoCacheStages(), ",")
	} else {
		set("no-cache", strings.Join(f.GetNoCacheStages(), ","))
	}
	if f.GetPull() {
		set("image-resolve-mode", "pull")
	}
	limits(f, set)
	for _, out := range in.GetOutputs() {
		o.Outputs = append(o.Outputs, outputOrigin(in, out))
	}
	return o
}

// limits sets what bounds steps, and what they see of the network.
func limits(f *boxbuildv1.Frontend, set func(key, value string)) {
	if n := f.GetNetwork(); n != "default" {
		set("force-network-mode", n)
	}
	var list []string
	for _, h := range f.GetExtraHosts() {
		list = append(list, h.GetHost()+"="+h.GetIp())
	}
	set("add-hosts", strings.Join(list, ","))
	set("hostname", f.GetHostname())
	set("cgroup-parent", f.GetCgroupParent())
	list = nil
	for _, u := range f.GetUlimits() {
		list = append(list, fmt.Sprintf("%s=%d:%d", u.GetName(), u.GetSoft(), u.GetHard()))
	}
	set("ulimit", strings.Join(list, ","))
	l := f.GetLimits()
	for key, n := range map[string]int64{
		"shm-size": f.GetShmSize(), "memory": l.GetMemory(), "memswap": l.GetMemorySwap(), "cpushares": l.GetCpuShares(),
		"cpuperiod": l.GetCpuPeriod(), "cpuquota": l.GetCpuQuota(),
	} {
		if n != 0 {
			set(key, strconv.FormatInt(n, 10))
		}
	}
	set("cpusetcpus", l.GetCpusetCpus())
	set("cpusetmems", l.GetCpusetMems())
}

// outputOrigin returns an output with the names of the image, which BuildKit has among the output's attributes.
func outputOrigin(in *boxbuildv1.BuildRequest, out *boxbuildv1.Output) worker.OriginOutput {
	o := worker.OriginOutput{Type: out.GetType(), Attrs: map[string]string{}}
	for k, v := range out.GetAttrs() {
		o.Attrs[k] = v
	}
	if out.GetPush() {
		o.Attrs["push"] = "true"
	}
	if dir := out.GetDirectory().GetPath(); dir != "" {
		o.Attrs["dest"] = dir
	}
	if _, named := o.Attrs["name"]; !named && len(in.GetTags()) > 0 {
		o.Attrs["name"] = strings.Join(in.GetTags(), ",")
	}
	return o
}
