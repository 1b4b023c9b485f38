package sandbox

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// A Device is a device node as it is to appear in a sandbox.
type Device struct {
	Path         string
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
	Access       string // of "rwm"
}

// devices returns the nodes beyond the default ones (null, zero, full, random, urandom, tty, ptmx, console), which the
// runtime makes by itself with fixed numbers.
func devices(_ *executor.Spec, host *Host) []specs.LinuxDevice {
	var out []specs.LinuxDevice
	for _, d := range host.Devices {
		mode := os.FileMode(d.Mode)
		out = append(out, specs.LinuxDevice{
			Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID,
		})
	}
	return out
}

// deviceRules deny everything, then allow what was asked for. The runtime appends the rules of the default nodes, of
// terminals, and mknod for any device, which gives no access to it.
func deviceRules(spec *executor.Spec, host *Host) []specs.LinuxDeviceCgroup {
	out := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if spec.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	console := [2]int64{5, 1} // as in Docker; whose node is made only with a terminal
	out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &console[0], Minor: &console[1], Access: "rwm"})
	for _, d := range host.Devices {
		out = append(out, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access,
		})
	}
	for _, r := range spec.DeviceRules {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: r.Type, Access: r.Access}
		if r.Major >= 0 {
			rule.Major = &r.Major
		}
		if r.Minor >= 0 {
			rule.Minor = &r.Minor
		}
		out = append(out, rule)
	}
	return out
}

func validateRule(r *executor.DeviceRule) error {
	if len(r.Type) != 1 || !strings.Contains("abc", r.Type) || r.Major < -1 || r.Minor < -1 || r.Access == "" ||
		strings.Trim(r.Access, "rwm") != "" {
		return fmt.Errorf("device rule %s %d:%d %s: want a, b or c, numbers or -1, and some of r, w and m", r.Type, r.Major, r.Minor, r.Access)
	}
	return nil
}
