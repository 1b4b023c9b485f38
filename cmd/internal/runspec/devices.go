package runspec

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
	cdi "tags.cncf.io/container-device-interface/pkg/parser"
)

// devices are those of the host that the container may use.
type devices struct {
	list, rules opts.ListOpts
	gpus        opts.GpuOpts
}

func (d *devices) register(fs *pflag.FlagSet) {
	d.list, d.rules = opts.NewListOpts(nil), opts.NewListOpts(deviceRule)
	fs.Var(&d.list, "device", "Add a host device to the container")
	fs.Var(&d.rules, "device-cgroup-rule", "Add a rule to the cgroup allowed devices list")
	fs.Var(&d.gpus, "gpus", "GPU devices to add to the container ('all' to pass all GPUs)")
}

func (d *devices) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	h := req.HostConfig
	h.DeviceCgroupRules, h.DeviceRequests, h.Devices = d.rules.GetSlice(), d.gpus.Value(), []container.DeviceMapping{}
	var named []string
	for _, s := range d.list.GetSlice() {
		if cdi.IsQualifiedName(s) {
			named = append(named, s)
			continue
		}
		m, err := deviceMapping(s)
		if err != nil {
			return err
		}
		h.Devices = append(h.Devices, m)
	}
	if named != nil {
		h.DeviceRequests = append(h.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: named})
	}
	return nil
}

// deviceMapping reads a value of --device: host path, path in the container, permissions; the last two may be left out.
func deviceMapping(s string) (container.DeviceMapping, error) {
	parts := strings.Split(s, ":")
	m := container.DeviceMapping{PathOnHost: parts[0], CgroupPermissions: "rwm"}
	if parts[0] == "" || len(parts) > 3 {
		return m, fmt.Errorf("bad format for path: %s", s)
	}
	switch len(parts) {
	case 1:
		m.PathOnHost = path.Clean(m.PathOnHost)
	case 2:
		if permissions(parts[1]) {
			m.PathOnHost, m.CgroupPermissions = path.Clean(m.PathOnHost), parts[1]
		} else {
			m.PathInContainer = path.Clean(parts[1])
		}
	case 3:
		if !permissions(parts[2]) {
			return m, fmt.Errorf("bad mode specified: %s", parts[2])
		}
		m.PathInContainer, m.CgroupPermissions = parts[1], parts[2]
	}
	if m.PathInContainer == "" {
		m.PathInContainer = m.PathOnHost
	}
	if !path.IsAbs(m.PathInContainer) {
		return m, fmt.Errorf("%s is not an absolute path", m.PathInContainer)
	}
	return m, nil
}

// permissions says whether s is some of r, w and m, each at most once.
func permissions(s string) bool {
	rest := s
	for _, p := range []string{"r", "w", "m"} {
		rest = strings.Replace(rest, p, "", 1)
	}
	return s != "" && rest == ""
}

var rule = regexp.MustCompile(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`)

// deviceRule validates a value of --device-cgroup-rule.
func deviceRule(s string) (string, error) {
	if !rule.MatchString(s) {
		return "", fmt.Errorf("invalid device cgroup format '%s'", s)
	}
	return s, nil
}
