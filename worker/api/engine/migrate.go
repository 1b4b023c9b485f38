package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// optSysctls is the option of a network's endpoint with the kernel parameters of its interface.
const optSysctls = "com.docker.network.endpoint.sysctls"

// retired are the fields of a request that the current version has not got any more.
type retired struct {
	MacAddress string // before 1.52, of the first network
	HostConfig *struct {
		KernelMemory    int64 // before 1.42
		KernelMemoryTCP int64 // from 1.40 on, before 1.52
	}
}

// createRequest is a request as clients of all versions send it.
type createRequest struct {
	now container.CreateRequest
	old retired
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *createRequest) UnmarshalJSON(b []byte) error {
	var now createWords
	if err := json.Unmarshal(b, &now); err != nil {
		return err
	}
	r.now = now.request()
	return json.Unmarshal(b, &r.old)
}

// migrate moves what is said of a container as a whole to where the current version has it, and returns what users are to
// know of that, in docker's words.
func migrate(req *worker.ContainerCreate, old *retired, v version) ([]string, error) {
	before := func(minor int) bool { return v.less(version{1, minor}) }
	var warnings []string
	if !before(48) && ignoresDriver(req) {
		warnings = append(warnings, "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via "+
			"'mount'. Use '--mount type=volume,volume-driver=...' instead")
	}
	if before(52) {
		warning, err := migrateMAC(req, old.MacAddress, v)
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, warning)
	}
	warning, err := migrateSysctls(req, v)
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, warning, fillBindings(req, v))
	if h := old.HostConfig; h != nil {
		// No kernel since 5.4 has these limits.
		const discarded = "Your kernel does not support %s limit capabilities or the cgroup is not mounted. Limitation discarded."
		if h.KernelMemory > 0 && before(42) {
			warnings = append(warnings, fmt.Sprintf(discarded, "kernel memory"))
		}
		if h.KernelMemoryTCP > 0 && before(52) && !before(40) {
			warnings = append(warnings, fmt.Sprintf(discarded, "kernel memory TCP"))
		}
	}
	return slices.DeleteFunc(warnings, func(w string) bool { return w == "" }), nil
}

// ignoresDriver says whether there is a volume for which the container's driver is not, as one might think.
func ignoresDriver(req *worker.ContainerCreate) bool {
	return req.HostConfig.VolumeDriver != "" && slices.ContainsFunc(req.HostConfig.Mounts, func(m mount.Mount) bool {
		o := m.VolumeOptions
		return m.Type == mount.TypeVolume && (o == nil || o.DriverConfig == nil || o.DriverConfig.Name == "")
	})
}

// firstEndpoint returns what is asked of the container's first network. Before 1.44 there was but one, under any of the
// network's names.
func firstEndpoint(req *worker.ContainerCreate, v version) (*network.EndpointSettings, error) {
	key, nets := string(req.HostConfig.NetworkMode), req.NetworkingConfig.EndpointsConfig
	if v.less(version{1, 44}) {
		for only := range nets {
			key = only
		}
	}
	if _, ok := nets[key]; !ok && len(nets) > 0 {
		return nil, worker.Invalidf("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
	}
	if nets[key] == nil {
		nets[key] = &network.EndpointSettings{}
	}
	return nets[key], nil
}

// migrateMAC gives the container's first network the address that older clients give the container. Before 1.44 no other one
// was heeded.
func migrateMAC(req *worker.ContainerCreate, mac string, v version) (warning string, err error) {
	ancient := v.less(version{1, 44})
	if mac == "" {
		for _, ep := range req.NetworkingConfig.EndpointsConfig {
			if ancient && ep != nil {
				ep.MacAddress = nil
			}
		}
		return "", nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return "", worker.Invalidf("invalid MAC address: %s", mac)
	}
	mode := req.HostConfig.NetworkMode
	own := !mode.IsHost() && !mode.IsContainer() && !mode.IsNone()
	if ancient && !own {
		return "", worker.Invalidf("conflicting options: mac-address and the network mode")
	}
	if own {
		ep, err := firstEndpoint(req, v)
		if err != nil {
			return "", err
		}
		if !ancient && ep.MacAddress != nil && ep.MacAddress.String() != hw.String() {
			return "", worker.Invalidf("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
		}
		ep.MacAddress = network.HardwareAddr(hw)
	}
	if ancient {
		return "", nil
	}
	return "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.", nil
}

// migrateSysctls gives the container's first network the parameters of the interface eth0, if it was that before 1.48.
// Whoever names an interface since then, or another one, is refused: which network gets which name is not for them to say.
func migrateSysctls(req *worker.ContainerCreate, v version) (warning string, err error) {
	h := req.HostConfig
	if !h.NetworkMode.IsPrivate() {
		return "", nil
	}
	var moved, values []string
	for _, key := range slices.Sorted(maps.Keys(h.Sysctls)) {
		parts := strings.SplitN(key, ".", 5)
		switch {
		case len(parts) != 5 || parts[0] != "net" || !strings.HasPrefix(parts[3], "eth"):
			continue
		case !v.less(version{1, 48}):
			return "", worker.Invalidf("interface specific sysctl setting %q must be supplied using driver option '%s'", key, optSysctls)
		case parts[3] != "eth0":
			return "", worker.Invalidf("unable to determine network endpoint for sysctl %s, use driver option '%s' to set per-interface sysctls",
				key, optSysctls)
		}
		moved = append(moved, key)
		values = append(values, fmt.Sprintf("net.%s.%s.IFNAME.%s=%s", parts[1], parts[2], parts[4], h.Sysctls[key]))
	}
	if moved == nil {
		return "", nil
	}
	ep, err := firstEndpoint(req, v)
	if err != nil {
		return "", worker.Invalidf("unable to find a network for sysctl %s: %v", moved[0], err)
	}
	option := strings.Join(values, ",")
	warning = fmt.Sprintf("Migrated sysctl %q to DriverOpts{%q:%q}.", strings.Join(moved, ","), optSysctls, option)
	if own, ok := ep.DriverOpts[optSysctls]; ok {
		option += "," + own // what is set last stays
	}
	ep.DriverOpts = maps.Clone(ep.DriverOpts)
	if ep.DriverOpts == nil {
		ep.DriverOpts = make(map[string]string)
	}
	ep.DriverOpts[optSysctls] = option
	for _, key := range moved {
		delete(h.Sysctls, key)
	}
	return warning, nil
}

// fillBindings gives a port without any binding one on some port of the host, as docker does though it means to end that.
func fillBindings(req *worker.ContainerCreate, v version) (warning string) {
	var empty []string
	for port, list := range req.HostConfig.PortBindings {
		if len(list) == 0 {
			req.HostConfig.PortBindings[port] = []network.PortBinding{{}}
			empty = append(empty, port.String())
		}
	}
	if empty == nil || v.less(version{1, 52}) {
		return ""
	}
	slices.Sort(empty)
	return fmt.Sprintf("Following container port(s) have an empty list of port-bindings: %s. Such bindings will be discarded in a "+
		"future version of the API.", strings.Join(empty, ", "))
}
