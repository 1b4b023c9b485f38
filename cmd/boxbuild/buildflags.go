package main

import (
	"maps"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// buildArgs reads --build-arg. K=V sets, K takes what the environment has, if anything; the user's proxies and
// SOURCE_DATE_EPOCH are added as docker does.
func (a *app) buildArgs(flags []string) (map[string]string, error) {
	args := map[string]string{}
	if a.cfg.Epoch != "" {
		args["SOURCE_DATE_EPOCH"] = a.cfg.Epoch
	}
	file, err := config.Load(config.Dir())
	if err == nil { // a broken file is told of when a registry needs it
		for k, v := range file.ParseProxyConfig("", nil) {
			if v != nil {
				args[k] = *v
			}
		}
	}
	given := map[string]string{}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if name == "" {
			return nil, usagef("invalid --build-arg %q: there is no name", f)
		}
		if !ok {
			if value, ok = a.env.Lookup(name); !ok {
				continue
			}
		}
		given[name] = value
	}
	maps.Copy(args, given)
	return args, nil
}

// labels reads --label KEY[=VALUE].
func labels(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		k, v, _ := strings.Cut(f, "=")
		if k == "" {
			return nil, usagef("invalid --label %q: expected name=value", f)
		}
		out[k] = v
	}
	return out, nil
}

// extraHosts reads --add-host: host:ip, host=ip, with an IPv6 address in brackets or not.
func extraHosts(flags []string) ([]*boxbuildv1.HostIP, error) {
	var out []*boxbuildv1.HostIP
	for _, f := range flags {
		host, ip, ok := strings.Cut(f, "=")
		if !ok {
			host, ip, ok = strings.Cut(f, ":")
		}
		ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
		if !ok || host == "" {
			return nil, usagef("invalid --add-host %q: expected host:ip", f)
		}
		if _, err := netip.ParseAddr(ip); err != nil && ip != "host-gateway" {
			return nil, usagef("invalid --add-host %q: %q is not an IP address", f, ip)
		}
		out = append(out, &boxbuildv1.HostIP{Host: host, Ip: ip})
	}
	return out, nil
}

// ulimits reads --ulimit: name=soft[:hard].
func ulimits(flags []string) ([]*boxbuildv1.Ulimit, error) {
	var out []*boxbuildv1.Ulimit
	for _, f := range flags {
		u, err := units.ParseUlimit(f)
		if err != nil {
			return nil, usagef("invalid --ulimit %q: %v", f, err)
		}
		out = append(out, &boxbuildv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out, nil
}

// limitOptions are the resource flags of docker's classic build.
type limitOptions struct {
	memory, swap            byteSize
	shares, quota, period   int64
	cpusetCPUs, cpusetNodes string
}

func (l *limitOptions) register(f *pflag.FlagSet) {
	f.VarP(&l.memory, "memory", "m", "Memory limit")
	f.Var(&l.swap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	f.Int64VarP(&l.shares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Int64Var(&l.quota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	f.Int64Var(&l.period, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	f.StringVar(&l.cpusetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&l.cpusetNodes, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
}

// wire returns nil if nothing is limited.
func (l *limitOptions) wire() *boxbuildv1.Limits {
	if *l == (limitOptions{}) {
		return nil
	}
	return &boxbuildv1.Limits{
		Memory: int64(l.memory), MemorySwap: int64(l.swap), CpuShares: l.shares, CpuQuota: l.quota,
		CpuPeriod: l.period, CpusetCpus: l.cpusetCPUs, CpusetMems: l.cpusetNodes,
	}
}

// byteSize is a flag such as 512m, or -1.
type byteSize int64

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	if s == "-1" {
		*b = -1
		return nil
	}
	v, err := units.RAMInBytes(s)
	*b = byteSize(v)
	return err
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	if *b <= 0 {
		return strconv.FormatInt(int64(*b), 10)
	}
	return units.BytesSize(float64(*b))
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "bytes" }
